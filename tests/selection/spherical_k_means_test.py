import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import _cluster_steps, spherical_k_means

K, D = 5, 4
update = jax.jit(selection.update_clusters)
init = jax.jit(functools.partial(selection.init_clusters, k=K))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def blobs(seed, size=60, noise=0.1):
    """Rows around five directions that are far from each other, of any length."""
    rng = np.random.default_rng(seed)
    directions = np.concatenate([np.eye(D), -np.ones((1, D))])
    kinds = rng.integers(0, K, size)
    rows = directions[kinds] + noise * rng.normal(size=(size, D))
    return (rows * rng.uniform(0.1, 9, (size, 1))).astype(np.float32), kinds


def numpy_update(centers, counts, rows):
    """One batch by loops, in double precision, without moving empty clusters."""
    rows, centers, counts = unit(rows.astype(np.float64)), centers.astype(np.float64), counts.copy()
    owners = (rows @ centers.T).argmax(1)
    for k in range(len(centers)):
        mine = rows[owners == k]
        counts[k] += len(mine)
        if counts[k]:
            centers[k] += (mine.sum(0) - len(mine) * centers[k]) / counts[k]
    return unit(centers), counts


def test_batches_in_a_row_are_those_of_loops():
    first, _ = blobs(0)
    state = init(first, key=jax.random.key(0))
    centers, counts = np.asarray(state.centers), np.asarray(state.counts)
    for seed in range(4):
        rows, _ = blobs(seed)
        state = update(state, rows)
        centers, counts = numpy_update(centers, counts, rows)
        np.testing.assert_allclose(state.centers, centers, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(state.counts, counts)
    assert counts.sum() == 240 and int(state.reseeded) == 0


def test_one_batch_from_given_centers_is_that_of_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    rows, start = unit(blobs(1)[0]).astype(np.float32), unit(blobs(2)[0])[:K].astype(np.float32)
    peer = cluster.MiniBatchKMeans(K, init=start, n_init=1, reassignment_ratio=0.0, batch_size=60).partial_fit(rows)
    part = _cluster_steps.batch_sums(jnp.asarray(start), jnp.asarray(rows), jnp.ones(60, bool))
    mean = np.asarray(part.sums) / np.maximum(np.asarray(part.counts), 1)[:, None]  # before the length is 1 again
    mean = np.where(np.asarray(part.counts)[:, None] > 0, mean, start)
    np.testing.assert_allclose(mean, peer.cluster_centers_, rtol=1e-4, atol=1e-5)
    zero = jnp.zeros((), jnp.int32)
    found = update(spherical_k_means.ClusterState(jnp.asarray(start), jnp.zeros(K, jnp.int32), zero, zero), rows)
    filled = np.asarray(part.counts) > 0
    np.testing.assert_allclose(np.asarray(found.centers)[filled], unit(mean)[filled], rtol=1e-4, atol=1e-5)


def test_planted_clusters_are_found_from_every_start():
    for seed in range(5):
        rows, kinds = blobs(seed, noise=0.01)
        state = update(update(init(rows, key=jax.random.key(seed)), rows), rows)
        owners = (unit(rows) @ np.asarray(state.centers).T).argmax(1)
        assert len({(a, b) for a, b in zip(owners.tolist(), kinds.tolist())}) == K


def test_the_start_follows_the_squared_distances():
    rows = np.array([[1, 0], [0, 1], [-1, 0], [np.nan, 1]], np.float32)
    where = jnp.array([True, True, True, True])
    draw = jax.jit(jax.vmap(lambda key: selection.init_clusters(jnp.asarray(rows), 2, key, where=where).centers))
    pairs = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    first_is_right = np.abs(pairs[:, 0] - rows[0]).sum(1) < 1e-6
    opposite = np.abs(pairs[:, 1] - rows[2]).sum(1) < 1e-6
    assert abs(first_is_right.mean() - 1 / 3) < 0.03 and np.isfinite(pairs).all()
    assert abs(opposite[first_is_right].mean() - 4 / 6) < 0.05  # 4 of 2 + 4


def test_an_empty_cluster_moves_to_the_farthest_row_and_is_counted():
    rows = np.zeros((60, D), np.float32)
    rows[:, 0], rows[:10, 1] = 1, 0.5
    rows[7] = [0, 0, 3, 0]
    rows[8] = np.nan
    centers = np.tile(unit(np.array([[1, 0.1, 0, 0]], np.float32)), (K, 1))  # four of five are never nearest
    zero = jnp.zeros((), jnp.int32)
    state = spherical_k_means.ClusterState(jnp.asarray(centers), jnp.zeros(K, jnp.int32), zero, zero)
    found = update(state, rows)
    assert found.counts.tolist() == [59, 0, 0, 0, 0] and int(found.reseeded) == 4 and int(found.dropped) == 1
    np.testing.assert_allclose(found.centers[1], [0, 0, 1, 0])
    assert np.isfinite(found.centers).all()
    again = update(found, rows)
    assert int(again.counts[1]) == 1 and int(again.counts.sum()) == 118
    same = np.tile(rows[-1:], (60, 1))
    stuck = update(init(same, key=jax.random.key(0)), same)
    assert stuck.counts.tolist() == [60, 0, 0, 0, 0] and int(stuck.reseeded) == 0


def test_rows_that_do_not_exist_change_nothing():
    rows, _ = blobs(3)
    bad = rows.copy()
    bad[::3] = np.nan
    state = init(rows, key=jax.random.key(1))
    where = np.arange(60) % 3 != 0
    masked = jax.jit(lambda s, x, where: selection.update_clusters(s, x, where=where))
    a, b = update(state, bad), masked(state, rows, where)
    np.testing.assert_array_equal(a.centers, b.centers)
    assert int(a.dropped) == 20 and int(b.dropped) == 0


def test_the_report_is_that_of_sorted_lists():
    rows, _ = blobs(4)
    rows[9] = np.nan
    rows[40] = 2 * rows[41]
    state = update(init(rows, key=jax.random.key(2)), rows)

    @jax.jit
    def assigned(rows, centers):
        found = selection.assign_rows(rows, centers, metric="cosine")
        return found, selection.cluster_report(rows, found.indices, found.distances, K + 1)

    found, report = jax.tree.map(np.asarray, assigned(rows, state.centers))
    distances = 1 - np.sum(np.nan_to_num(unit(rows)) * np.asarray(state.centers)[found.indices], axis=1)
    for k in range(K):
        mine = np.flatnonzero(np.asarray(found.indices) == k)
        mine = mine[np.argsort(np.asarray(found.distances)[mine], kind="stable")].tolist()
        near, far = mine[:5], mine[5:][::-1][:5]
        wanted = near + [-1] * (5 - len(near)) + far + [-1] * (5 - len(far))
        assert report.examples[k].tolist() == wanted and int(report.sizes[k]) == len(mine)
        np.testing.assert_allclose(report.mean_distances[k], distances[mine].mean(), rtol=1e-3)
        chosen = unit(rows[[i for i in wanted if i >= 0]])
        apart = 1 - chosen @ chosen.T + 9 * np.eye(len(chosen))
        np.testing.assert_allclose(report.closest[k], apart.min(), atol=1e-5)
    assert int(report.sizes[K]) == 0 and np.all(report.examples[K] == -1) and np.isinf(report.closest[K])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"k is 4, wanted at most 3 \(the number of rows\)"):
        selection.init_clusters(jnp.ones((3, 2)), 4, key=0)
    state = init(blobs(0)[0], key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"features has shape \[3, 2\], wanted \[any size > 0, 4\]"):
        selection.update_clusters(state, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"distances has shape \[2\], wanted \[3\]"):
        selection.cluster_report(jnp.ones((3, 2)), jnp.zeros(3, jnp.int32), jnp.zeros(2), 1)


def test_rows_of_zeros_make_no_center():
    x = (
        jnp.zeros((40, 3))
        .at[::8]
        .set(jnp.array([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.1], [-1.0, 0.0, 0.0]]))
    )

    @jax.jit
    def centers(key):
        start = selection.init_clusters(x, 6, key)
        return start.centers, selection.update_clusters(start, x).centers

    for found in jax.vmap(centers)(jax.random.split(jax.random.key(0), 20)):
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)


def test_more_clusters_than_int8_holds():
    sizes, _, _ = selection.spherical_k_means.cluster_examples(jnp.array([0, 1], jnp.int8), jnp.zeros(2), 200)
    assert sizes[:3].tolist() == [1, 1, 0]
