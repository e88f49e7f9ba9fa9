"""One row far from all others blurs no choice, and a row too far to be measured is absent and seen to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

N, K = 120, 14
METRICS = ("sqeuclidean", "euclidean", "l1")


def clusters_and_a_far_row(far, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(6, 4)) * 5)[np.arange(N) % 6] + rng.normal(size=(N, 4)) * 0.1
    return np.concatenate([x[:-1], np.full((1, 4), far)]).astype(np.float32)


def distances(x, metric):
    difference = x[:, None].astype(np.float64) - x[None]
    if metric == "l1":
        return np.abs(difference).sum(-1)
    return (difference**2).sum(-1) ** (1 if metric == "sqeuclidean" else 0.5)


def greedy_cost(d, k):
    """Cost of the greedy choice in float64: the first has the least sum, each next one lowers the sum most."""
    best = d[d.sum(1).argmin()]
    for _ in range(k - 1):
        best = np.minimum(best, d[np.maximum(best[None] - d, 0).sum(1).argmax()])
    return best.sum()


def kept(tx, x, **signals):
    weights = jnp.ones(len(x))
    return np.asarray(jax.jit(tx.update)(weights, tx.init(weights), features=jnp.asarray(x), **signals)[0])


def in_groups(groups, x):
    return jnp.asarray(np.arange(len(x)) // 6 % groups)


READERS = {
    "keep_medoids_lazy": lambda x, metric, groups: kept(selection.keep_medoids(K, metric=metric), x),
    "keep_medoids_naive": lambda x, metric, groups: kept(selection.keep_medoids(K, metric=metric, method="naive"), x),
    "keep_class_medoids": lambda x, metric, groups: kept(
        selection.keep_class_medoids(K * groups, groups, metric=metric), x, labels=in_groups(groups, x)
    ),
    "keep_by_colm": lambda x, metric, groups: kept(
        selection.keep_by_colm(K * groups, groups, metric=metric, weighting="represented"),
        x,
        domains=in_groups(groups, x),
    ),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", READERS)
def test_the_cost_is_that_of_a_greedy_in_float64(name, metric):
    for groups in (1, 2) if name in ("keep_class_medoids", "keep_by_colm") else (1,):
        x = clusters_and_a_far_row(1e5)
        weights = READERS[name](x, metric, groups)
        assert weights.sum() == len(x)
        for group in range(groups):
            own = np.asarray(in_groups(groups, x)) == group
            d = distances(x[own], metric)
            assert d[weights[own] > 0].min(0).sum() < 1.01 * greedy_cost(d, K)


@pytest.mark.parametrize("metric", METRICS)
def test_two_stages_find_all_clusters(metric):
    x = clusters_and_a_far_row(1e5)
    chosen = np.asarray(selection.partitioned_medoids(jnp.asarray(x), 7, 2, metric=metric))
    assert sorted(chosen[chosen != N - 1] % 6) == list(range(6)) and N - 1 in chosen


@pytest.mark.parametrize("far", [np.nan, np.inf, 1e21])
@pytest.mark.parametrize("name", READERS)
def test_a_row_that_cannot_be_measured_is_absent(name, far):
    x = clusters_and_a_far_row(far)
    weights = READERS[name](x, "sqeuclidean", 1)
    np.testing.assert_array_equal(weights[:-1], READERS[name](x[:-1], "sqeuclidean", 1))
    assert weights[-1] == 0 and weights.sum() == len(x) - 1


@pytest.mark.parametrize("far", [np.nan, np.inf, 1e21])
def test_an_absent_row_has_no_center_and_no_medoid(far):
    x = jnp.asarray(clusters_and_a_far_row(far))
    centers, others = selection.k_center(x, K), selection.k_center(x[:-1], K)
    assert centers.owners[-1] == -1 and N - 1 not in centers.indices
    np.testing.assert_array_equal(centers.owners[:-1], others.owners)
    assert N - 1 not in selection.partitioned_medoids(x, 7, 2)


def test_a_far_row_has_a_direction():
    x = jnp.asarray(clusters_and_a_far_row(1e21))
    assert selection.sift_indices(x, x[-1:], 1).indices.tolist() == [N - 1]
    assert selection.k_center(x, K, metric="cosine").owners[-1] >= 0
    assert kept(selection.keep_medoids(K, metric="cosine"), x).sum() == N


def test_without_an_item_to_choose_nobody_has_a_center():
    centers = selection.k_center(jnp.ones((3, 2)), 1, chosen=jnp.ones(3, bool))
    assert centers.indices.tolist() == [3] and centers.owners.tolist() == [-1] * 3
