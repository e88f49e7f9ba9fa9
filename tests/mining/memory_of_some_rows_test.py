"""Cross-batch memory of some rows of each batch, and after a warm-up, against a deque as in the peer's memory."""

from collections import Counter, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import mining

B, STEPS = 8, 9


def draw(seed=0):
    """Batches with some rows that are not finite, and masks: none, all, or some of the rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS, B, 2)).astype(np.float32)
    y = rng.integers(-1, 3, (STEPS, B)).astype(np.int32)
    where = rng.random((STEPS, B)) < rng.choice([0.0, 0.2, 0.6, 1.0], (STEPS, 1))
    x[rng.random((STEPS, B)) < 0.15, 1] = rng.choice([np.nan, np.inf, -np.inf])
    return x, y, where


def pairs_of(anchors, labels, references, reference_labels, batch):
    """Positives and negatives as counts of (anchor, embedding) from a loop; the first references are the batch."""
    found = Counter(), Counter()
    for i, anchor in enumerate(anchors):
        for j, reference in enumerate(references):
            if not (batch and i == j) and np.isfinite(anchor).all() and np.isfinite(reference).all():
                found[int(labels[i] != reference_labels[j])][(i, *reference.tolist())] += 1
    return found


def counted(references, mask):
    return Counter((int(i), *np.asarray(references)[j].tolist()) for i, j in zip(*np.nonzero(mask)))


def run(size, warm_up, axis_name=None):
    """Return the scan that stores the rows of the masks and gives the pairs of each batch before it is stored."""

    def everyone(v):
        return v if axis_name is None else jax.lax.all_gather(v, axis_name, tiled=True, to="invarying")

    def step(memory, batch):
        x, y, where = batch
        pairs = mining.memory_pairs(memory, x, y, axis_name=axis_name, warm_up=warm_up)
        memory = mining.remember(memory, *map(everyone, (x, y)), where=everyone(where))
        return memory, (memory, pairs.positives, pairs.negatives)

    def whole(memory, x, y, where):
        return jax.lax.scan(step, memory, (x, y, where))[1]

    if axis_name is None:
        return jax.jit(whole)
    mesh = jax.make_mesh((8,), (axis_name,), axis_types=(AxisType.Auto,))
    rows = P(None, axis_name)
    specs = {"in_specs": (P(), rows, rows, rows), "out_specs": (P(), rows, rows)}
    return jax.jit(jax.shard_map(whole, mesh=mesh, **specs))


@pytest.mark.parametrize("axis_name", [None, "data"])
@pytest.mark.parametrize(("size", "warm_up"), [(11, 0), (11, 7), (5, 23), (5, 1000)])
def test_memory_and_pairs_are_those_of_a_deque(size, warm_up, axis_name):
    x, y, where = draw()
    step = run(size, warm_up, axis_name)
    empty = jax.device_get(mining.init_memory(size, 2))
    memories, positives, negatives = jax.device_get(step(empty, x, y, where))
    queue, stored, seen = deque(maxlen=size), 0, set()
    for t in range(STEPS):
        counts = stored >= warm_up
        seen.add((counts, stored > 0))
        past = list(queue) if counts else []
        references = [*x[t], *(e for e, _ in past)]
        expected = pairs_of(x[t], y[t], references, [*y[t], *(label for _, label in past)], batch=True)
        before = jax.tree.map(lambda a, t=t: a[t - 1], memories) if t else empty
        everything = np.concatenate([x[t], before.embeddings])
        assert (counted(everything, positives[t]), counted(everything, negatives[t])) == expected
        rows = [i for i in range(B) if where[t, i] and np.isfinite(x[t, i]).all()]
        queue.extend((x[t, i], y[t, i]) for i in rows)
        stored += len(rows)
        after = jax.tree.map(lambda a, t=t: a[t], memories)
        assert after.num_stored == stored
        order = (stored - len(queue) + np.arange(len(queue))) % size  # no holes: the oldest first
        np.testing.assert_array_equal(after.embeddings[order], np.reshape([e for e, _ in queue], (-1, 2)))
        assert after.labels[order].tolist() == [label for _, label in queue]
    assert stored > 2 * size and ((True, True) in seen) == (warm_up < 1000)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_may_be_sharded_under_jit(axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    first, second, third = zip(*(a[:3] for a in draw(1)))

    @jax.jit
    def step(memory, x, y, where):
        memory = mining.remember(memory, x, y, where=where)
        return memory, mining.memory_pairs(memory, x, y)

    found = expected = mining.init_memory(11, 2), None
    for batch in (first, second, third):
        expected = step(expected[0], *batch)
        found = step(found[0], *jax.device_put(batch, NamedSharding(mesh, P("data"))))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))
    assert expected[0].num_stored > 4 and np.any(expected[1].positives)


def test_the_loss_of_keys_in_a_memory_is_that_of_the_peer():
    """There the masked rows are stored first, and the others are compared with what the memory then holds."""
    rng = np.random.default_rng(1)
    memory, queue = mining.init_memory(7, 2), deque(maxlen=7)
    keys = np.arange(B) >= 5

    @jax.jit
    def step(memory, x, y):
        memory = mining.remember(memory, x, y, where=jnp.asarray(keys))
        pairs = mining.memory_pairs(memory, x[:5], y[:5])
        masks = pairs.positives[:, 5:], pairs.negatives[:, 5:]
        distances = mining.euclidean_distances(x[:5], pairs.references[5:])
        return memory, mining.contrastive_loss(distances, *masks)

    for _ in range(5):
        x, y = rng.normal(size=(B, 2)).astype(np.float32), rng.integers(0, 3, B).astype(np.int32)
        memory, value = step(memory, x, y)
        queue.extend((e, c) for e, c, key in zip(x, y, keys) if key)
        pull, push = [], []
        for i in range(5):
            for e, c in queue:
                d = np.linalg.norm(x[i] - e)
                (pull if c == y[i] else push).append(d if c == y[i] else max(1 - d, 0))
        expected = sum(np.sum(v) / max(np.sum(np.array(v) > 0), 1) for v in (pull, push))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_warm_up_may_be_traced():
    memory = mining.remember(mining.init_memory(2, 1), jnp.ones((2, 1)), jnp.zeros(2, jnp.int32))
    used = jax.jit(lambda w: mining.memory_pairs(memory, jnp.ones((1, 1)), jnp.zeros(1, jnp.int32), warm_up=w))
    assert used(2).positives.tolist() == [[False, True, True]] and not np.any(used(3).positives)


def test_a_memory_that_counted_to_its_end_goes_on_in_the_same_slots():
    size, step = 6, jax.jit(mining.remember)
    limit = 2**30 // size * size
    memory = mining.init_memory(size, 1)._replace(num_stored=jnp.asarray(limit + 1, jnp.int32))
    for t in range(9):
        memory = step(memory, jnp.arange(4.0)[:, None] + 4 * t, jnp.zeros(4, jnp.int32))
        assert limit <= memory.num_stored < limit + size
        assert memory.num_stored % size == (1 + 4 * (t + 1)) % size
    assert set(memory.embeddings[:, 0].tolist()) == set(range(30, 36))


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_rows_that_are_not_stored_have_no_influence_and_no_gradient(fill):
    x = jnp.array([[1.0], [2.0], [3.0]]).at[1].set(fill)

    def total(x):
        memory = mining.remember(mining.init_memory(3, 1), x, jnp.arange(3), where=jnp.array([True, True, False]))
        return jnp.sum(memory.embeddings), memory

    (_, memory), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
    assert memory.labels.tolist() == [0, -1, -1] and memory.num_stored == 1 and not np.any(gradient)


def test_of_a_batch_that_is_larger_than_the_memory_the_last_rows_stay():
    memory = mining.remember(mining.init_memory(3, 1), jnp.ones((2, 1)), jnp.full(2, 9))
    x = jnp.arange(8.0)[:, None]
    memory = jax.jit(mining.remember)(memory, x, jnp.arange(8), where=jnp.arange(8) != 6)
    assert set(memory.labels.tolist()) == {4, 5, 7} and memory.num_stored == 9
