"""Samplers against enumeration: epochs, places in a class, shares, feedback. The laws are in conformance_test.py."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import Rows, by_class, shuffled, weighted

LABELS = np.array([2, 0, 1, 0, 2, 2, 1, 0, 1, 2], np.int32)


def draw(sampler, state, steps):
    return jax.lax.scan(lambda s, _: sampler.sample(s)[::-1], state, None, length=steps)


def test_an_epoch_has_every_row_once_and_the_next_another_order():
    sampler = shuffled(10, 4)
    _, rows = jax.jit(lambda s: draw(sampler, s, 30))(sampler.init(0))
    epochs = np.asarray(rows.indices).reshape(10, 12)
    for epoch in epochs:
        assert sorted(epoch) == [-1, -1, *range(10)] and epoch[-2:].tolist() == [-1, -1]
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_orders_of_epochs_are_uniform():
    sampler = shuffled(4, 4)
    _, rows = jax.jit(lambda s: draw(sampler, s, 24_000))(sampler.init(1))
    counts = Counter(map(tuple, np.asarray(rows.indices).tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi = sum((n - 1000) ** 2 / 1000 for n in counts.values())  # 23 degrees of freedom
    assert chi < 60


def test_an_epoch_has_every_class_once_with_different_examples():
    sampler = by_class(3, 2, 2)
    state = sampler.init(0, labels=jnp.asarray(LABELS))
    _, rows = jax.jit(lambda s: draw(sampler, s, 40))(state)
    for epoch in np.asarray(rows.indices).reshape(20, 4, 2):
        groups = [tuple(LABELS[group]) for group in epoch if group[0] >= 0]
        assert sorted(groups) == [(0, 0), (1, 1), (2, 2)]
        assert all(a != b for a, b in epoch[:3])


def test_places_in_a_class_are_uniform():
    sampler = by_class(1, 1, 3)
    state = sampler.init(2, labels=jnp.zeros(4, jnp.int32))
    _, rows = jax.jit(lambda s: draw(sampler, s, 24_000))(state)
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
    _, rows = jax.jit(lambda s: draw(sampler, s, 2000))(sampler.init(3, weights=jnp.asarray(weights)))
    share = np.bincount(np.asarray(rows.indices).reshape(-1), minlength=7) / 200_000
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4e-3)
    np.testing.assert_array_equal(share[weights == 0], 0)


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


@pytest.mark.parametrize("weights", [[0.0, 0.0], [jnp.nan, -1.0], [jnp.inf, -jnp.inf]])
def test_without_weight_the_batch_is_padding_and_the_state_says_so(weights):
    sampler = weighted(3)
    rows, state = sampler.sample(sampler.init(0, weights=jnp.array(weights)))
    assert rows.indices.tolist() == [-1] * 3 and rows.weights.tolist() == [0] * 3 and bool(state.exhausted)


def test_weights_that_become_zero_exhaust_the_sampler_until_one_is_fed_back():
    sampler = weighted(3)
    rows, state = sampler.sample(sampler.init(0, weights=jnp.array([0.0, 1.0])))
    assert rows.indices.tolist() == [1, 1, 1] and not bool(state.exhausted)
    rows, state = sampler.sample(sampler.update(state, rows, losses=jnp.zeros(3)))
    assert rows.indices.tolist() == [-1] * 3 and bool(state.exhausted)
    late = Rows(jnp.array([0]), jnp.ones(1))
    rows, state = sampler.sample(sampler.update(state, late, losses=jnp.ones(1)))
    assert rows.indices.tolist() == [0] * 3 and not bool(state.exhausted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shuffled(4, 5), ValueError, r"batch_size is 5, wanted at most 4 \(the number of examples\)"),
        (lambda: shuffled(0, 1), ValueError, "num_examples is 0"),
        (lambda: by_class(3, 4, 1), ValueError, "classes_per_batch is 4, wanted at most 3"),
        (lambda: by_class(3, 2, 1).init(0, labels=jnp.array([0, 2])), ValueError, r"no example of the classes \[1\]"),
        (lambda: by_class(2, 1, 1).init(0, labels=jnp.ones(2)), TypeError, "labels has dtype float32"),
        (lambda: by_class(2, 1, 1).init(0, labels=jnp.zeros(0, jnp.int32)), ValueError, r"labels has shape \[0\]"),
        (lambda: weighted(0), ValueError, "batch_size is 0, wanted at least 1"),
        (lambda: shuffled(4, jnp.int32(2)), TypeError, "batch_size is .*, wanted a static Python int"),
        (lambda: weighted(2).init(0, weights=jnp.ones(3, jnp.int32)), TypeError, "weights has dtype int32"),
        (lambda: weighted(2, decay=1.5), ValueError, "decay is 1.5"),
        (lambda: weighted(2).init(0, weights=jnp.ones(0)), ValueError, "weights has shape"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
