import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import largest_pure_radius, prob_cover_indices
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_prob_cover": Case(lambda: selection.keep_by_prob_cover(5, 0.5, key=0), draws.near_references),
}


N, K = 14, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2)).astype(np.float32)


def balls(x, radius, metric):
    x = x.astype(np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.linalg.norm(x[:, None] - x[None], axis=2) < radius


def choose(x, where, labeled, k=K, radius=0.6, key=0, **options):
    call = jax.jit(lambda *a: prob_cover_indices(key, a[0], k, a[1], where=a[2], labeled=a[3], **options))
    return call(jnp.asarray(x), jnp.float32(radius), jnp.asarray(where), jnp.asarray(labeled))


@pytest.mark.parametrize("metric,block_size", [("euclidean", 4), ("cosine", 64)])
def test_each_choice_covers_most_of_what_is_left(metric, block_size):
    where, labeled = np.arange(N) != 3, np.isin(np.arange(N), [3, 5])
    inside = balls(X, 0.6, metric) & where[:, None] & where[None]
    covered = inside[5].copy()
    found = choose(X, where, labeled, metric=metric, block_size=block_size)
    for j, gain in zip(found.indices.tolist(), found.gains.tolist()):
        new = (inside & ~covered[None]).sum(1)
        assert j not in (3, 5) and new[j] == gain == new[where & ~labeled].max()
        covered |= inside[j]
    np.testing.assert_array_equal(found.covered, covered)
    best = max(inside[list(some)].any(0).sum() for some in itertools.combinations(range(N), K))
    alone = choose(X, where, np.zeros(N, bool), metric=metric, block_size=block_size).covered
    assert np.sum(np.asarray(alone)) >= (1 - 1 / np.e) * best


def test_ties_are_broken_at_random_and_every_row_is_chosen_once():
    far = 10 * np.eye(4, dtype=np.float32)
    none = np.zeros(4, bool)
    first = {int(choose(far, ~none, none, 4, key=key, metric="euclidean").indices[0]) for key in range(12)}
    assert len(first) == 4
    bad = np.concatenate([far, np.float32([[np.nan, 0, 0, 0], [1e30, 0, 0, 0]])])
    found = choose(bad, np.ones(6, bool), np.arange(6) == 1, 5, metric="euclidean")
    assert sorted(found.indices.tolist()) == [0, 2, 3, 6, 6] and found.gains.tolist() == [1, 1, 1, 0, 0]
    assert found.covered.tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("purity", [0.25, 0.5, 0.9, 1.0])
def test_the_radius_is_the_largest_one_that_leaves_balls_pure(purity):
    clusters = RNG.integers(-1, 3, N)
    found = float(largest_pure_radius(jnp.asarray(X), jnp.asarray(clusters), purity=purity, metric="euclidean"))
    real = clusters >= 0

    def fraction(radius):
        inside = balls(X, radius, "euclidean")[real][:, real]
        return np.mean([len(set(clusters[real][row])) == 1 for row in inside])

    assert fraction(found * (1 - 1e-5)) >= purity > fraction(found * (1 + 1e-5)) - (purity == 1) * 1e-9


def test_a_pool_is_covered_where_no_reference_covers_it():
    features, references = X[:10], X[10:]
    pool = jnp.ones(10).at[2].set(0)
    tx = selection.keep_by_prob_cover(2, 0.6, key=0, metric="euclidean")
    labels = jnp.array([0, -1, 2, 1])
    signals = {"reference_features": jnp.asarray(references), "reference_labels": labels}
    kept = np.asarray(tx.update(pool, tx.init(pool), features=jnp.asarray(features), **signals)[0])
    inside = balls(np.concatenate([features, references[[0, 2, 3]]]), 0.6, "euclidean")
    real = np.arange(13) != 2
    inside &= real[:, None] & real[None]
    covered, chosen = inside[10:].any(0), np.flatnonzero(kept)
    pairs = {
        pair: (inside[list(pair)].any(0) & ~covered).sum() for pair in itertools.permutations(np.flatnonzero(pool), 2)
    }
    first = max((inside[i] & ~covered).sum() for i in np.flatnonzero(pool))
    greedy = {p: n for p, n in pairs.items() if (inside[p[0]] & ~covered).sum() == first}
    assert len(chosen) == 2 and max(pairs.get((i, j), 0) for i in chosen for j in chosen) == max(greedy.values())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"radius is 0, wanted a number in \(0, inf\)"):
        prob_cover_indices(0, jnp.asarray(X), 2, 0)
    with pytest.raises(ValueError, match=r"k is 15, wanted at most 14 \(the number of rows\)"):
        prob_cover_indices(0, jnp.asarray(X), 15, 1.0)
    with pytest.raises(TypeError, match="labeled has dtype int32, wanted bool"):
        prob_cover_indices(0, jnp.asarray(X), 2, 1.0, labeled=jnp.zeros(N, jnp.int32))
    with pytest.raises(TypeError, match="clusters has dtype float32"):
        largest_pure_radius(jnp.asarray(X), jnp.zeros(N))
    with pytest.raises(ValueError, match="purity is 0, wanted a number in"):
        largest_pure_radius(jnp.asarray(X), jnp.zeros(N, jnp.int32), purity=0)
