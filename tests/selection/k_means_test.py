import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from minibatch_jax import selection
from minibatch_jax.selection import k_means_clusters, k_means_indices
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_k_means": Case(lambda: selection.keep_by_k_means(5, key=0), draws.features),
}


K, N = 4, 60
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(K, 3))[np.arange(N) % K] * 15 + RNG.normal(size=(N, 3)) + 100).astype(np.float32)


def clusters(x, where=None, k=K, **options):
    return jax.jit(lambda x, where: k_means_clusters(1, x, k, where=where, tolerance=0.0, **options))(x, where)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("block_size", [7, 64])
def test_the_clusters_are_a_fixed_point_that_scikit_learn_does_not_improve(block_size):
    found = clusters(jnp.asarray(X), block_size=block_size)
    x, centers, owners = X.astype(np.float64), np.asarray(found.centers, np.float64), np.asarray(found.owners)
    squared = ((x[:, None] - centers[None]) ** 2).sum(2)
    np.testing.assert_array_equal(owners, squared.argmin(1))
    np.testing.assert_allclose(centers, [x[owners == c].mean(0) for c in range(K)], rtol=1e-6)
    np.testing.assert_allclose(found.cost, squared.min(1).sum(), rtol=2e-3)
    np.testing.assert_array_equal(found.counts, np.bincount(owners, minlength=K))
    again = KMeans(K, init=centers, n_init=1).fit(x)
    np.testing.assert_allclose(again.inertia_, squared.min(1).sum(), rtol=1e-6)
    assert found.cost < 1.01 * KMeans(K, n_init=10, random_state=0).fit(x).inertia_


def test_absent_rows_change_nothing():
    bad = np.concatenate([X, np.float32([[np.nan, 0, 0], [1e30, 0, 0], [0, 0, 0]])])
    found = clusters(jnp.asarray(bad), jnp.arange(len(bad)) < N + 2)
    assert np.all(found.owners[N:] == -1) and found.counts.sum() == N
    squared = ((X[:, None] - np.asarray(found.centers)[None]) ** 2).sum(2)
    np.testing.assert_array_equal(found.owners[:N], squared.argmin(1))


def test_fewer_rows_than_clusters_and_equal_rows():
    found = clusters(jnp.asarray(X), jnp.arange(N) < 3)
    assert sorted(found.owners[:3].tolist()) == [0, 1, 2] and np.isnan(found.centers[3]).all() and found.cost < 1e-3
    equal = clusters(jnp.ones((6, 2)))
    np.testing.assert_array_equal(equal.centers, 1)
    assert equal.counts.tolist() == [6, 0, 0, 0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_center_takes_the_nearest_row_that_is_free(metric):
    x = X - 100 if metric == "cosine" else X
    found = clusters(jnp.asarray(x), metric=metric)
    rows = unit(x) if metric == "cosine" else x
    taken = []
    for c in np.asarray(found.centers):
        score = rows @ c if metric == "cosine" else -((rows - c) ** 2).sum(1)
        taken.append(max((i for i in range(N) if i not in taken), key=lambda i: score[i]))
    indices = k_means_indices(1, jnp.asarray(x), K, metric=metric)
    np.testing.assert_array_equal(indices, taken)


def test_a_pool_keeps_one_row_of_each_cluster_and_no_more_rows_than_it_has():
    pool = jnp.asarray(np.where(np.arange(N) % 3 == 0, 0.5, 0).astype(np.float32))
    tx = selection.keep_by_k_means(K, key=1, metric="euclidean")
    kept = np.asarray(tx.update(pool, tx.init(pool), features=jnp.asarray(X))[0])
    assert (kept > 0).sum() == K and np.all((kept == 0) | (kept == np.asarray(pool)))
    few = jnp.zeros(N).at[jnp.array([3, 9])].set(1.0)
    np.testing.assert_array_equal(tx.update(few, tx.init(few), features=jnp.asarray(X))[0], few)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"k is 61, wanted at most 60 \(the number of rows\)"):
        k_means_clusters(0, jnp.asarray(X), 61)
    with pytest.raises(ValueError, match="metric is 'l1', wanted one of"):
        selection.keep_by_k_means(2, 0, metric="l1")
    with pytest.raises(ValueError, match="tolerance is -1, wanted a number in"):
        k_means_clusters(0, jnp.asarray(X), 2, tolerance=-1)
    with pytest.raises(ValueError, match="max_iterations is 0"):
        selection.keep_by_k_means(2, 0, max_iterations=0)
