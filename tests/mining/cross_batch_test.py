import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import mining


def batches(steps, size=3, width=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, size, width)).astype(np.float32), rng.integers(0, 3, (steps, size)).astype(np.int32)


@pytest.mark.parametrize("size", [3, 7, 9])
def test_the_memory_holds_the_last_embeddings(size):
    x, y = batches(12)
    memory, step = mining.init_memory(size, 2), jax.jit(mining.remember)
    for t in range(12):
        memory = step(memory, x[t], y[t])
        last = x[: t + 1].reshape(-1, 2)[-size:]
        held = np.asarray(memory.embeddings)[: len(last)]
        np.testing.assert_array_equal(np.sort(held, axis=0), np.sort(last, axis=0))
        found = {(*e, label) for e, label in zip(held.tolist(), memory.labels.tolist())}
        assert found == {(*e.tolist(), int(c)) for e, c in zip(last, y[: t + 1].reshape(-1)[-size:])}
    assert memory.num_stored < 2 * size


def test_loss_equals_brute_force_on_the_concatenation():
    x, y = batches(3)
    memory = mining.remember(mining.remember(mining.init_memory(20, 2), x[0], y[0]), x[1], y[1])

    def loss(e):
        pairs = mining.memory_pairs(memory, e, jnp.asarray(y[2]))
        return mining.contrastive_loss(mining.euclidean_distances(e, pairs.references), *pairs[1:])

    everyone, labels = np.concatenate([x[2], x[0], x[1]]), np.concatenate([y[2], y[0], y[1]])
    pull, push = [], []
    for i in range(3):
        for j in range(9):
            d = np.linalg.norm(x[2][i] - everyone[j])
            if i != j:
                (pull if labels[i] == labels[j] else push).append(d if labels[i] == labels[j] else max(1 - d, 0))
    expected = sum(np.sum(v) / max(np.sum(np.array(v) > 0), 1) for v in (pull, push))
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(x[2]))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_an_empty_memory_adds_nothing():
    x, y = batches(1, size=6)
    y = y - 1  # the label of an empty slot is also a label of the batch
    pairs = mining.memory_pairs(mining.init_memory(4, 2), jnp.asarray(x[0]), jnp.asarray(y[0]))
    similarities, loss = jax.jit(mining.cosine_similarity), jax.jit(mining.supcon_loss)
    s = similarities(jnp.asarray(x[0]), pairs.references)
    alone = similarities(jnp.asarray(x[0]))
    labels = jnp.asarray(y[0])
    np.testing.assert_allclose(
        loss(s, pairs.positives, pairs.negatives),
        loss(alone, mining.positive_mask(labels), mining.negative_mask(labels)),
        rtol=1e-6,
    )


def test_every_device_holds_the_memory_of_one_device():
    x, y = batches(4, size=16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def step(memory, x, y):
        gather = lambda v: jax.lax.all_gather(v, "data", tiled=True, to="invarying")  # noqa: E731
        return mining.remember(memory, gather(x), gather(y))

    sharded = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()))
    memory = expected = mining.init_memory(24, 2)
    for t in range(4):
        memory, expected = sharded(memory, x[t], y[t]), mining.remember(expected, x[t], y[t])
    jax.tree.map(np.testing.assert_array_equal, memory, expected)


def test_bad_input_is_named():
    memory = mining.init_memory(2, 2)
    with pytest.raises(ValueError, match=r"the number of embeddings is 3, wanted at most 2 \(the size of the memory\)"):
        mining.remember(memory, jnp.ones((3, 2)), jnp.arange(3))
    with pytest.raises(ValueError, match=r"embeddings has shape \[2, 3\]"):
        mining.memory_pairs(memory, jnp.ones((2, 3)), jnp.arange(2))
    with pytest.raises(TypeError, match="labels has dtype float32"):
        mining.remember(memory, jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match="size is 0"):
        mining.init_memory(0, 2)
