import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax.mining.proxies import Proxies, init_proxies, partition_by_proxies, update_proxies


def clustered(num_classes=48, clusters=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, 5))
    x = centers[rng.integers(0, clusters, num_classes)] + 0.2 * rng.normal(size=(num_classes, 5))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def all_seen(x):
    return Proxies(jnp.asarray(x), jnp.ones(len(x), bool))


def test_each_batch_is_a_class_and_its_nearest_remaining_neighbors():
    x = clustered()
    batches = np.asarray(jax.jit(lambda k: partition_by_proxies(k, all_seen(x), 5))(jax.random.key(0)))
    assert batches.shape == (9, 5)
    remaining = set(range(48))
    for first, *rest in batches:
        assert first in remaining
        remaining.discard(first)
        assert list(rest) == sorted(remaining, key=lambda j: -(x[j] @ x[first]))[:4]
        remaining -= set(rest)
    assert len(remaining) == 3


def test_small_batches_gain_the_most_hardness():
    x = clustered(240, 20)

    def nearest(batches):
        cosines = np.einsum("bpd,bqd->bpq", x[batches], x[batches]) - 2 * np.eye(batches.shape[1])
        return cosines.max(axis=2).mean()

    gains = []
    for size in (4, 40):
        mined, random = (
            nearest(np.asarray(partition_by_proxies(jax.random.key(1), all_seen(x), size, temperature=t)))
            for t in (0.0, jnp.inf)
        )
        gains.append(mined - random)
    assert gains[0] > 0.2 and gains[0] > 3 * gains[1] > 0


def test_infinite_temperature_ignores_the_proxies():
    draw = lambda x: partition_by_proxies(jax.random.key(2), all_seen(x), 4, temperature=jnp.inf)  # noqa: E731
    np.testing.assert_array_equal(draw(clustered(seed=0)), draw(clustered(seed=1)))


def test_classes_never_seen_fill_batches_but_are_nobodys_neighbors():
    x = clustered()
    seen = np.arange(48) < 40
    proxies = Proxies(jnp.where(jnp.asarray(seen)[:, None], x, 0), jnp.asarray(seen))
    batches = np.asarray(partition_by_proxies(jax.random.key(3), proxies, 4))
    np.testing.assert_array_equal(np.sort(batches.reshape(-1)), np.arange(48))
    for row in batches[:6]:
        if seen[row[0]]:
            assert seen[row].all()


def test_a_sharded_index_gives_the_same_batches():
    x = clustered()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    step = jax.jit(lambda k, p: partition_by_proxies(k, p, 6))
    placed = jax.device_put(all_seen(x), rows)
    np.testing.assert_array_equal(step(jax.random.key(4), placed), step(jax.random.key(4), all_seen(x)))


def test_proxies_are_the_mean_of_the_batch_and_stop_gradients():
    rng = np.random.default_rng(5)
    z, labels = rng.normal(size=(6, 3)).astype(np.float32), np.array([4, 1, 4, 1, 1, 7])
    old = update_proxies(init_proxies(6, 3), jnp.ones((1, 3)), jnp.array([1]))
    proxies = update_proxies(old, jnp.asarray(z), jnp.asarray(labels), decay=0.25)
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    np.testing.assert_allclose(proxies.embeddings[4], unit(z[[0, 2]].mean(0)), rtol=1e-5)
    blend = 0.25 * unit(np.ones(3)) + 0.75 * unit(z[[1, 3, 4]].mean(0))
    np.testing.assert_allclose(proxies.embeddings[1], unit(blend), rtol=1e-5)
    np.testing.assert_array_equal(proxies.seen, [0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(proxies.embeddings[jnp.array([0, 2, 3, 5])], 0)
    total = lambda z: update_proxies(old, z, jnp.asarray(labels)).embeddings.sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(z)), 0)


def test_bad_input_is_named():
    proxies = init_proxies(4, 2)
    with pytest.raises(ValueError, match=r"classes_per_batch is 5, wanted at most 4 \(the number of classes\)"):
        partition_by_proxies(jax.random.key(0), proxies, 5)
    with pytest.raises(ValueError, match=r"embeddings has shape \[2, 3\]"):
        update_proxies(proxies, jnp.ones((2, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match="decay is 2"):
        update_proxies(proxies, jnp.ones((2, 2)), jnp.arange(2), decay=2)
    with pytest.raises(ValueError, match="temperature is -1"):
        partition_by_proxies(jax.random.key(0), proxies, 2, temperature=-1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_proxies_in_half_precision_add_up_and_rank_in_float32(dtype):
    empty = Proxies(jnp.zeros((1, 2), dtype), jnp.zeros(1, bool))
    batch = jnp.concatenate(
        [jnp.tile(jnp.array([[1.0, 0.0]]), (4096, 1)), jnp.tile(jnp.array([[0.0, 1.0]]), (4096, 1))]
    )
    mean = update_proxies(empty, batch.astype(dtype), jnp.zeros(8192, int)).embeddings
    assert mean.dtype == dtype
    np.testing.assert_allclose(mean.astype(jnp.float32), [[0.5**0.5] * 2], rtol=2**-8)
    x = jnp.asarray(clustered(), dtype)
    half, wide = (
        partition_by_proxies(jax.random.key(0), Proxies(v, jnp.ones(48, bool)), 5) for v in (x, x.astype(jnp.float32))
    )
    np.testing.assert_array_equal(half, wide)
