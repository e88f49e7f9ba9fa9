import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, mining, value_and_grad


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
    assert memory.num_stored == 36


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
    with pytest.raises(TypeError, match="label_shape is 5, wanted a tuple of static ints"):
        mining.init_memory(2, 2, label_shape=5)
    x, labels = jnp.ones((2, 2)), jnp.arange(2)
    mask = jnp.ones((2, 4), bool)
    with pytest.raises(ValueError, match="labels is None, wanted labels, or positives and negatives"):
        mining.memory_pairs(memory, x)
    with pytest.raises(ValueError, match="labels and positives and negatives are given"):
        mining.memory_pairs(memory, x, labels, positives=mask, negatives=mask)
    with pytest.raises(ValueError, match=r"positives has shape \[2, 3\], wanted \[2, 4\]"):
        mining.memory_pairs(memory, x, positives=mask[:, 1:], negatives=mask)
    with pytest.raises(TypeError, match="negatives has dtype int32, wanted bool"):
        mining.memory_pairs(memory, x, positives=mask, negatives=mask.astype(jnp.int32))
    tagged = mining.init_memory(2, 2, label_shape=(3,))
    with pytest.raises(ValueError, match=r"memory.labels has shape \[2, 3\], wanted \[2\] where .*: pass positives"):
        mining.memory_pairs(tagged, x, labels)
    with pytest.raises(ValueError, match=r"labels has shape \[2\], wanted \[2, 3\]"):
        mining.remember(tagged, x, labels)
    with pytest.raises(TypeError, match="labels has dtype float32, wanted an integer"):
        mining.remember(tagged, x, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"where has shape \[3\], wanted \[2\]"):
        mining.remember(memory, x, labels, where=jnp.ones(3, bool))
    with pytest.raises(TypeError, match="where has dtype int32, wanted bool"):
        mining.remember(memory, x, labels, where=labels)
    with pytest.raises(ValueError, match="warm_up is -1, wanted at least 0"):
        mining.memory_pairs(memory, x, labels, warm_up=-1)
    with pytest.raises(TypeError, match=r"warm_up is 2\.0, wanted an int"):
        mining.memory_pairs(memory, x, labels, warm_up=2.0)
    with pytest.raises(ValueError, match=rf"warm_up is {2**31}, wanted at most {2**30}"):
        mining.memory_pairs(memory, x, labels, warm_up=2**31)


@pytest.mark.parametrize("dtype", [bool, np.int32])
def test_a_memory_of_many_labels_holds_the_last_ones(dtype):
    x, _ = batches(5)
    tags = (np.random.default_rng(1).random((5, 3, 4)) < 0.5).astype(dtype)
    memory, step = mining.init_memory(7, 2, label_shape=(4,)), jax.jit(mining.remember)
    assert memory.labels.shape == (7, 4)
    for t in range(5):
        memory = step(memory, x[t], tags[t])
        held = {(*e, *c) for e, c in zip(memory.embeddings.tolist(), memory.labels.tolist()) if -1 not in c}
        last = zip(x[: t + 1].reshape(-1, 2)[-7:].tolist(), tags[: t + 1].reshape(-1, 4)[-7:].astype(int).tolist())
        assert held == {(*e, *c) for e, c in last}


def test_masks_of_labels_are_the_labels():
    x, y = batches(3, size=6)
    some = mining.remember(mining.init_memory(8, 2), jnp.asarray(x[0]), jnp.asarray(y[0]))
    full = mining.remember(some, jnp.asarray(x[1]), jnp.asarray(y[1]))
    for memory in (mining.init_memory(8, 2), some, full):
        expected = mining.memory_pairs(memory, jnp.asarray(x[2]), jnp.asarray(y[2]))
        same = y[2][:, None] == np.concatenate([y[2], memory.labels])[None]  # with the diagonal and empty slots
        masks = {"positives": jnp.asarray(same), "negatives": jnp.asarray(~same)}
        jax.tree.map(np.testing.assert_array_equal, mining.memory_pairs(memory, jnp.asarray(x[2]), **masks), expected)
        everything = jnp.ones_like(masks["positives"])
        pairs = mining.memory_pairs(memory, jnp.asarray(x[2]), positives=everything, negatives=everything)
        usable = np.array([[i != j and j < 6 + int(memory.num_stored) for j in range(14)] for i in range(6)])
        np.testing.assert_array_equal(pairs.positives, usable)
        np.testing.assert_array_equal(pairs.negatives, usable)


B, K, WIDTH, EPSILON = 16, 24, 3, -0.3
MINER = mining.mine_multi_similarity(EPSILON)


def embed(params, x):
    return mining.normalize_embeddings(jnp.tanh(jnp.dot(x, params)))


def training(kind, stored):
    """Parameters, a batch (inputs, labels), and a memory that holds `stored` embeddings; labels are classes or tags."""
    rng = np.random.default_rng(3)
    x, past = rng.normal(size=(B, WIDTH)).astype(np.float32), rng.normal(size=(stored, 2)).astype(np.float32)
    draw = {"classes": lambda n: rng.integers(-1, 3, n), "tags": lambda n: (rng.random((n, 3)) < 0.4).astype(int)}[kind]
    labels, past_labels = draw(B).astype(np.int32), draw(stored).astype(np.int32)
    memory = mining.init_memory(K, 2, label_shape=labels.shape[1:])
    if stored:
        unit = past / np.linalg.norm(past, axis=1, keepdims=True)
        memory = mining.remember(memory, jnp.asarray(unit), jnp.asarray(past_labels))
    params = jnp.asarray(rng.normal(size=(WIDTH, 2)), jnp.float32)
    return params, (jnp.asarray(x), jnp.asarray(labels)), memory


def step_of(kind, axis_name=None):
    """A step of training through the boundary."""

    def everyone(x):
        return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True, to="invarying")

    def similarities(params, batch, memory):
        z, labels = embed(params, batch[0]), batch[1]
        if kind == "tags":
            shared = jnp.dot(labels, jnp.concatenate([everyone(labels), memory.labels]).T) > 0
            told = {"positives": shared, "negatives": ~shared}
        else:
            told = {"labels": labels}
        pairs = mining.memory_pairs(memory, z, **told, axis_name=axis_name)
        signals = {"positives": pairs.positives, "negatives": pairs.negatives}
        new_memory = mining.remember(memory, everyone(z), everyone(labels))
        return mining.cosine_similarity(z, pairs.references), signals, new_memory

    miner = MINER if axis_name is None else across(axis_name, MINER)
    options = {"items": "similarities", "loss": mining.supcon_loss, "axis_name": axis_name}
    fn = value_and_grad(similarities, miner, has_aux=True, has_state=True, **options)

    def step(params, batch, memory):
        state = MINER.init(jnp.ones((B, B + K)))
        (value, aux), gradient, _ = fn(params, batch, state, model_state=memory)
        return value, gradient, aux.weights, aux.model_state

    return step


@pytest.mark.parametrize("stored", [0, 10, K])
@pytest.mark.parametrize("kind", ["classes", "tags"])
def test_a_step_of_training_equals_the_gradient_by_hand_on_one_device_and_on_eight(kind, stored):
    params, batch, memory = training(kind, stored)
    labels = np.concatenate([batch[1], memory.labels[:stored]])
    together = np.zeros((B, B + stored), bool)
    for i in range(B):
        for j in range(B + stored):
            together[i, j] = labels[i] == labels[j] if kind == "classes" else np.any(labels[i] & labels[j])
    positives, negatives = together & ~np.eye(B, B + stored, dtype=bool), ~together & ~np.eye(B, B + stored, dtype=bool)

    def by_hand(params):
        z = embed(params, batch[0])
        s = mining.cosine_similarity(z, jnp.concatenate([z, memory.embeddings[:stored]]))
        kept = mining.multi_similarity_pair_masks(s, jnp.asarray(positives), jnp.asarray(negatives), EPSILON)
        return mining.supcon_loss(s, *kept), kept

    (expected, kept), wanted = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(params)
    weights = np.zeros((B, B + K))
    weights[:, : B + stored] = kept[0] | kept[1]
    assert 0 < weights.sum() < np.sum(positives | negatives) and np.abs(wanted).max() > 0.01
    remembered = mining.remember(memory, embed(params, batch[0]), batch[1])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("data"), P()), "out_specs": (P(), P(), P("data"), P())}
    for step in (step_of(kind), jax.shard_map(step_of(kind, "data"), mesh=mesh, **specs)):
        value, gradient, found, new_memory = jax.jit(step)(params, batch, memory)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found, weights)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new_memory, remembered)
