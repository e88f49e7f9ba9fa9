"""Samplers against enumeration and against one another: epochs, places, feedback, scan, restoring."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import sampling
from minibatch_jax.sampling import Rows, by_class, crest, shuffled, weighted

LABELS = np.array([2, 0, 1, 0, 2, 2, 1, 0, 1, 2], np.int32)


CREST_SIGNALS = {"params": jnp.array([0.5, 2.0]), "data": jnp.linspace(-1.0, 1.0, 20).reshape(10, 2)}


def scores(params, batch):
    """Losses and features for `crest`."""
    return jnp.sum((batch * params[None]) ** 2, axis=1), {"features": batch * params[None]}


def made(name):
    """A sampler, its first state, and what is fed back of the rows it draws."""
    if name == "shuffled":
        sampler = shuffled(10, 4)
        return sampler, sampler.init(0), {}
    if name == "by_class":
        sampler = by_class(3, 2, 2)
        return sampler, sampler.init(0, labels=jnp.asarray(LABELS)), {}
    if name == "crest":
        sampler = crest(scores, batch_size=3, num_classes=3, subset_size=6, max_coresets=6)
        return sampler, sampler.init(0, labels=jnp.asarray(LABELS), params=jnp.ones(2)), CREST_SIGNALS
    sampler = weighted(4, decay=0.5)
    return sampler, sampler.init(0, weights=jnp.ones(10)), {"losses": jnp.linspace(0.0, 1.0, 4)}


ALL = pytest.mark.parametrize("name", ["shuffled", "by_class", "weighted", "crest"])


def draw(sampler, state, steps, signals):
    def step(state, _):
        rows, state = sampler.sample(state)
        return sampler.update(state, rows, **signals), rows

    return jax.lax.scan(step, state, None, length=steps)


@ALL
def test_a_scan_is_a_loop_and_a_restored_state_goes_on_to_the_same_bits(name):
    sampler, state, signals = made(name)
    _, scanned = jax.jit(lambda s: draw(sampler, s, 9, signals))(state)
    sample, update = jax.jit(sampler.sample), jax.jit(sampler.update)
    for i in range(9):
        rows, state = sample(state)
        state = update(state, rows, **signals)
        np.testing.assert_array_equal(rows.indices, scanned.indices[i])
        np.testing.assert_array_equal(rows.weights, scanned.weights[i])
        if i == 4:  # as a checkpoint does it: numbers alone, and the structure from a fresh state
            keyless = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
            saved = [np.asarray(x).copy() for x in jax.tree.leaves(keyless)]
            leaves, structure = jax.tree.flatten(state)
            state = structure.unflatten(
                jax.random.wrap_key_data(jnp.asarray(new)) if is_key(old) else jnp.asarray(new)
                for old, new in zip(leaves, saved)
            )
    assert sample._cache_size() == 1


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@ALL
def test_weights_sum_to_one_and_padding_has_none(name):
    sampler, state, signals = made(name)
    _, rows = jax.jit(lambda s: draw(sampler, s, 200, signals))(state)
    np.testing.assert_allclose(np.sum(rows.weights, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(rows.weights) == 0, np.asarray(rows.indices) < 0)


@ALL
def test_vmap_over_seeds_is_each_seed_alone(name):
    sampler, _, _ = made(name)
    labels = jnp.asarray(LABELS)
    arrays = {
        "by_class": {"labels": labels},
        "weighted": {"weights": jnp.ones(10)},
        "crest": {"labels": labels, "params": jnp.ones(2)},
    }.get(name, {})
    keys = jax.random.split(jax.random.key(5), 3)
    together = jax.vmap(lambda k: sampler.sample(sampler.init(k, **arrays))[0].indices)(keys)
    for key, found in zip(keys, together):
        np.testing.assert_array_equal(sampler.sample(sampler.init(key, **arrays))[0].indices, found)


@ALL
def test_a_step_may_donate_the_state(name):
    sampler, state, signals = made(name)
    step = jax.jit(lambda s: draw(sampler, s, 2, signals)[0], donate_argnums=0)
    step(step(state))


def test_an_epoch_has_every_row_once_and_the_next_another_order():
    sampler, state, _ = made("shuffled")
    _, rows = jax.jit(lambda s: draw(sampler, s, 30, {}))(state)
    epochs = np.asarray(rows.indices).reshape(10, 12)
    for epoch in epochs:
        assert sorted(epoch) == [-1, -1, *range(10)] and epoch[-2:].tolist() == [-1, -1]
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_orders_of_epochs_are_uniform():
    sampler = shuffled(4, 4)
    _, rows = jax.jit(lambda s: draw(sampler, s, 24_000, {}))(sampler.init(1))
    counts = Counter(map(tuple, np.asarray(rows.indices).tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi = sum((n - 1000) ** 2 / 1000 for n in counts.values())  # 23 degrees of freedom
    assert chi < 60


def test_an_epoch_has_every_class_once_with_different_examples():
    sampler = by_class(3, 2, 2)
    state = sampler.init(0, labels=jnp.asarray(LABELS))
    _, rows = jax.jit(lambda s: draw(sampler, s, 40, {}))(state)
    for epoch in np.asarray(rows.indices).reshape(20, 4, 2):
        groups = [tuple(LABELS[group]) for group in epoch if group[0] >= 0]
        assert sorted(groups) == [(0, 0), (1, 1), (2, 2)]
        assert all(a != b for a, b in epoch[:3])


def test_places_in_a_class_are_uniform():
    sampler = by_class(1, 1, 3)
    state = sampler.init(2, labels=jnp.zeros(4, jnp.int32))
    _, rows = jax.jit(lambda s: draw(sampler, s, 24_000, {}))(state)
    counts = Counter(map(tuple, np.asarray(rows.indices).tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 3))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 60


def test_a_small_class_gives_repeats():
    sampler = by_class(2, 2, 5)
    rows, _ = sampler.sample(sampler.init(0, labels=jnp.array([0, 0, 1, 1, 1, 1, 1])))
    assert set(np.asarray(rows.indices[:5]).tolist()) <= {0, 1} or set(np.asarray(rows.indices[5:]).tolist()) <= {0, 1}
    assert np.all(np.asarray(rows.indices) >= 0)


def test_rows_come_in_proportion_to_their_weights():
    weights = np.array([0.0, 1.0, 5.0, 0.0, 2.0, 0.5, 0.0], np.float32)
    sampler = weighted(100)
    _, rows = jax.jit(lambda s: draw_only(sampler, s, 2000))(sampler.init(3, weights=jnp.asarray(weights)))
    share = np.bincount(np.asarray(rows.indices).reshape(-1), minlength=7) / 200_000
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4e-3)
    np.testing.assert_array_equal(share[weights == 0], 0)


def draw_only(sampler, state, steps):
    return jax.lax.scan(lambda s, _: sampler.sample(s)[::-1], state, None, length=steps)


def test_feedback_sets_the_weights_late_and_in_any_order():
    sampler = weighted(3, decay=0.25)
    state = sampler.init(0, weights=jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    rows = Rows(jnp.array([4, 0, -1]), jnp.array([0.5, 0.5, 0.0]))
    state = sampler.update(state, rows, losses=jnp.array([4.0, jnp.nan, 9.0]))
    np.testing.assert_allclose(state.weights.reshape(-1)[:5], [1, 2, 4, 8, 0.25 * 16 + 0.75 * 4])
    np.testing.assert_allclose(state.totals, np.sum(state.weights, axis=1))
    assert int(state.ignored) == 1
    other = Rows(jnp.array([7, 1, 2]), jnp.full(3, 1 / 3))
    state = sampler.update(state, other, losses=jnp.array([1.0, -3.0, 4.0]))
    np.testing.assert_allclose(state.weights.reshape(-1)[:5], [1, 0, 4, 8, 7])
    assert int(state.ignored) == 2


@pytest.mark.parametrize("weights", [[0.0, 0.0], [jnp.nan, -1.0]])
def test_without_weight_the_batch_is_padding_and_the_state_says_so(weights):
    sampler = weighted(3)
    rows, state = sampler.sample(sampler.init(0, weights=jnp.array(weights)))
    assert rows.indices.tolist() == [-1] * 3 and rows.weights.tolist() == [0] * 3 and bool(state.exhausted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shuffled(4, 5), ValueError, r"batch_size is 5, wanted at most 4 \(the number of examples\)"),
        (lambda: shuffled(0, 1), ValueError, "num_examples is 0"),
        (lambda: by_class(3, 4, 1), ValueError, "classes_per_batch is 4, wanted at most 3"),
        (lambda: by_class(3, 2, 1).init(0, labels=jnp.array([0, 2])), ValueError, r"no example of the classes \[1\]"),
        (lambda: by_class(2, 1, 1).init(0, labels=jnp.ones(2)), TypeError, "labels has dtype float32"),
        (lambda: weighted(2).init(0, weights=jnp.ones(3, jnp.int32)), TypeError, "weights has dtype int32"),
        (lambda: weighted(2, decay=1.5), ValueError, "decay is 1.5"),
        (lambda: weighted(2).init(0, weights=jnp.ones(0)), ValueError, "weights has shape"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_every_sampler_is_tested_here():
    samplers = {
        name
        for name, value in vars(sampling).items()
        if callable(value) and value.__module__.startswith("minibatch_jax.sampling.") and not isinstance(value, type)
    }
    assert samplers == {"shuffled", "by_class", "weighted", "crest"}
