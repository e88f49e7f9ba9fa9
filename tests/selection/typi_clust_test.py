import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import k_means_clusters, typi_clust_indices, typical_indices
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_typi_clust": Case(
        lambda: selection.keep_by_typi_clust(5, 3, key=0, smallest=2), draws.near_references, tolerance=1e-5
    ),
}


N, K, CLUSTERS = 700, 7, 4
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, 3)) + 50).astype(np.float32)
OWNERS = np.where(np.arange(N) < 400, 0, np.where(np.arange(N) < 640, 1, np.where(np.arange(N) < 697, 2, 3)))[
    RNG.permutation(N)
]
LABELED = RNG.random(N) < 0.02


def reference(x, owners, labeled, where, k, neighbors, smallest):
    """The published algorithm, one cluster at a time, in float64."""
    x, free, chosen = x.astype(np.float64), where & ~labeled, []
    sizes = [(where & (owners == c)).sum() for c in range(CLUSTERS)]
    known = [(where & labeled & (owners == c)).sum() for c in range(CLUSTERS)]
    turns = sorted((c for c in range(CLUSTERS) if sizes[c] >= smallest), key=lambda c: (known[c], -sizes[c]))
    for t in range(k):
        rows = np.flatnonzero(free & (owners == turns[t % len(turns)]))
        distances = np.linalg.norm(x[rows, None] - x[None, rows], axis=2)
        nearest = np.sort(distances, axis=1)[:, 1 : 1 + max(1, min(neighbors, len(rows) // 2))]
        chosen.append(rows[np.argmax(1 / (nearest.mean(1) + 1e-5))])
        free[chosen[-1]] = False
    return chosen


@pytest.mark.parametrize("neighbors", [20, 3])
def test_the_choice_is_that_of_the_published_algorithm(neighbors):
    """Clusters of more rows than a block, one of few rows, and one of three rows that has no turn."""
    where = np.arange(N) % 11 != 0
    call = jax.jit(
        lambda *a: typical_indices(
            a[0], a[1], K, CLUSTERS, metric="euclidean", where=a[2], labeled=a[3], num_neighbors=neighbors
        )
    )
    found = call(jnp.asarray(X), jnp.asarray(OWNERS), jnp.asarray(where), jnp.asarray(LABELED))
    assert found.tolist() == reference(X, OWNERS, LABELED, where, K, neighbors, 6)


def test_clusters_are_those_of_k_means():
    x, labeled = jnp.asarray(X[:60]), jnp.asarray(LABELED[:60])
    owners = k_means_clusters(5, x, 4, metric="euclidean").owners
    expected = typical_indices(x, owners, 3, 4, metric="euclidean", labeled=labeled)
    found = typi_clust_indices(5, x, 3, 4, metric="euclidean", labeled=labeled)
    np.testing.assert_array_equal(found, expected)


def test_fewer_rows_than_wanted_and_clusters_that_are_all_small():
    x = jnp.asarray(X[:6]).at[1, 0].set(jnp.nan)
    found = typical_indices(x, jnp.array([0, 0, 1, 1, 2, -1]), 5, 3, labeled=jnp.arange(6) == 4)
    assert sorted(found.tolist()) == [0, 2, 3, 6, 6]


def test_a_pool_keeps_rows_of_clusters_without_references():
    centers = 30 * np.eye(3, dtype=np.float32)
    features = (centers[np.arange(30) % 3] + RNG.normal(size=(30, 3))).astype(np.float32)
    tx = selection.keep_by_typi_clust(2, 3, key=0, metric="euclidean")
    labeled = {"reference_features": jnp.asarray(centers[[1, 0]]), "reference_labels": jnp.array([3, -1])}
    pool = jnp.ones(30)
    kept = tx.update(pool, tx.init(pool), features=jnp.asarray(features), **labeled)[0]
    assert sorted(np.flatnonzero(kept) % 3) == [0, 2]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_clusters is 0, wanted at least 1"):
        selection.keep_by_typi_clust(2, 0, 0)
    with pytest.raises(ValueError, match=r"k is 5, wanted at most 4 \(the number of rows\)"):
        typical_indices(jnp.ones((4, 2)), jnp.zeros(4, jnp.int32), 5, 1)
    with pytest.raises(ValueError, match=r"clusters has shape \[3\]"):
        typical_indices(jnp.ones((4, 2)), jnp.zeros(3, jnp.int32), 2, 1)
    with pytest.raises(TypeError, match="labeled has dtype float32, wanted bool"):
        typi_clust_indices(0, jnp.ones((4, 2)), 2, 2, labeled=jnp.zeros(4))
