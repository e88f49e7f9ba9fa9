import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_centers": Case(
        lambda: selection.keep_centers(4), draws.features, draws.uneven, lowers_mass=False, tolerance=1e-6
    ),
    "keep_new_centers": Case(lambda: selection.keep_new_centers(4), draws.near_references),
}


N, K = 40, 6
choose = jax.jit(selection.k_center, static_argnames=("k", "metric"))


def clusters(seed, size=N):
    rng = np.random.default_rng(seed)
    return (4 * rng.normal(size=(8, 3))[rng.integers(8, size=size)] + rng.normal(size=(size, 3))).astype(np.float32)


def distances(x):
    return np.sqrt(((x[:, None].astype(np.float64) - x[None]) ** 2).sum(-1))


def farthest_first(x, k, chosen=()):
    d, order = distances(x), list(chosen)
    radii = []
    while len(order) < len(chosen) + k:
        nearest = d[order].min(0) if order else np.full(len(x), np.inf)
        first = -((x - x.mean(0)) ** 2).sum(1)
        score = nearest if order else first
        score[order] = -np.inf
        j = int(np.argmax(score))
        radii.append(nearest[j])
        order.append(j)
    new = order[len(chosen) :]
    return new, radii, d[new].argmin(0), d[order].min(0).max()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("chosen", [(), (3, 11)])
def test_is_the_loop(metric, chosen):
    for seed in range(4):
        x = clusters(seed)
        mask = jnp.zeros(N, bool).at[jnp.asarray(chosen, int)].set(True)
        centers = choose(jnp.asarray(x), K, metric=metric, chosen=mask)
        indices, radii, owners, radius = farthest_first(unit(x) if metric == "cosine" else x, K, chosen)
        assert centers.indices.tolist() == indices
        np.testing.assert_allclose(centers.radii, radii, rtol=1e-5)
        np.testing.assert_array_equal(centers.owners, owners)
        np.testing.assert_allclose(centers.radius, radius, rtol=1e-5)


def test_at_most_twice_the_optimum_by_enumeration():
    ratios = []
    for seed in range(30):
        x = clusters(seed, 12)
        d = distances(x)
        best = min(d[list(subset)].min(0).max() for subset in itertools.combinations(range(12), 3))
        ratios.append(float(selection.k_center(jnp.asarray(x), 3).radius) / best)
    assert min(ratios) >= 1 - 1e-6 and max(ratios) <= 2 and np.mean(ratios) < 1.5, ratios


def test_the_bound_is_tight():
    """Two ends and a middle: the greedy takes the middle first and pays twice the optimum."""
    x = jnp.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    centers = selection.k_center(x, 2)
    assert centers.indices.tolist() == [2, 0]
    assert float(centers.radius) == 2 * 1.0  # the optimum: the items at -1 and 1


def test_rows_that_do_not_exist_count_for_nothing():
    x, exists = clusters(0), np.arange(N) % 3 != 1
    expected = choose(jnp.asarray(x), K, where=jnp.asarray(exists))
    alone = choose(jnp.asarray(x[exists]), K)
    np.testing.assert_array_equal(expected.indices, np.flatnonzero(exists)[np.asarray(alone.indices)])
    np.testing.assert_allclose(expected.radius, alone.radius)
    for fill in (np.nan, np.inf):
        spoilt = choose(jnp.asarray(np.where(exists[:, None], x, fill)), K, where=jnp.ones(N, bool))
        np.testing.assert_array_equal(spoilt.indices, expected.indices)
        assert spoilt.radius == expected.radius


def test_fewer_rows_than_k_and_equal_rows():
    few = selection.k_center(jnp.asarray(clusters(0)), 4, where=jnp.arange(N) % 20 == 0)
    assert few.indices.tolist()[2:] == [N, N] and float(few.radius) == 0 and few.radii.tolist()[2:] == [0, 0]
    same = selection.k_center(jnp.ones((5, 2)), 3)
    assert same.indices.tolist() == [0, 1, 2] and same.radii.tolist() == [np.inf, 0, 0]
    nothing = selection.k_center(jnp.full((3, 2), jnp.nan), 2)
    assert nothing.indices.tolist() == [3, 3] and float(nothing.radius) == 0


def test_weights_are_those_of_the_nearest():
    x, w = clusters(1), np.random.default_rng(0).uniform(size=N).astype(np.float32)
    indices, _, owners, _ = farthest_first(x, K)
    for weighted, expected in ((True, np.bincount(owners, w, K)), (False, w[indices])):
        tx = selection.keep_centers(K, weighting="represented" if weighted else "own")
        kept = np.asarray(tx.update(jnp.asarray(w), tx.init(jnp.ones(N)), features=jnp.asarray(x))[0])
        np.testing.assert_allclose(kept[indices], expected, rtol=1e-5)
        assert np.count_nonzero(kept) == K


def test_bad_input_is_named():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="k is 5, wanted at most 4"):
        selection.k_center(x, 5)
    with pytest.raises(ValueError, match="metric is 'l3', wanted one of 'euclidean', 'cosine'"):
        selection.keep_centers(2, metric="l3")
    with pytest.raises(TypeError, match="chosen has dtype int32, wanted bool"):
        selection.k_center(x, 1, chosen=jnp.zeros(4, int))


@pytest.mark.parametrize("metric", ["l1", "linf"])
def test_other_metrics_against_farthest_first_by_hand(metric):
    compare = {"l1": lambda d: np.abs(d).sum(-1), "linf": lambda d: np.abs(d).max(-1)}[metric]
    for seed in range(4):
        x = clusters(seed)
        order, nearest = [int(np.argmin(compare(x - x.mean(0))))], None
        for _ in range(K - 1):
            nearest = compare(x[:, None].astype(np.float64) - x[None, order]).min(1)
            order.append(int(np.argmax(nearest)))
        apart = compare(x[:, None].astype(np.float64) - x[None, order])
        found = choose(jnp.asarray(x), K, metric=metric)
        assert found.indices.tolist() == order
        np.testing.assert_array_equal(found.owners, apart.argmin(1))
        np.testing.assert_allclose(found.radius, apart.min(1).max(), rtol=1e-5)


def test_new_centers_of_a_pool_are_far_from_the_labeled():
    x, labels = clusters(3), jnp.array([2, -1, 0])
    pool = jnp.ones(N - 3).at[5].set(0)
    tx = selection.keep_new_centers(K)
    references = {"reference_features": jnp.asarray(x[-3:]), "reference_labels": labels}
    kept = tx.update(pool, tx.init(pool), features=jnp.asarray(x[:-3]), **references)[0]
    rows = np.array([i for i in range(N) if i not in (5, N - 2)])  # the last two are the labeled ones
    indices = farthest_first(x[rows], K, (N - 4, N - 3))[0]
    np.testing.assert_array_equal(np.flatnonzero(kept), sorted(rows[indices]))
