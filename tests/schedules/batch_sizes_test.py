"""Batches that grow, against counting step by step and masks made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import schedules, value_and_grad
from minibatch_jax.schedules import batch_size_schedule, batch_stages, keep_scheduled
from minibatch_jax.selection import keep_bottomk
from tests.case import Case
from tests.compose_test import nothing

CASES = {
    "keep_scheduled": Case(
        lambda: schedules.keep_scheduled(batch_size_schedule([3, 9], [1])), nothing, lowers_mass=False, tolerance=1e-6
    ),
}


def counted(stages, sequence_length, steps):
    """Batch size of each step, by counting tokens."""
    seen, sizes = 0, []
    for _ in range(steps):
        size = [size for start, size in stages if start <= seen][-1]
        sizes.append(size)
        seen += size * sequence_length
    return sizes


@pytest.mark.parametrize(
    ("text", "stages", "length"),
    [
        ("0:3 100:5 0.2K:8", [(0, 3), (100, 5), (200, 8)], 7),
        ("0:4 40:8 120:16", [(0, 4), (40, 8), (120, 16)], 10),  # each begins exactly at a step
        ("0:5", [(0, 5)], 1),
    ],
)
def test_stages_begin_where_counting_says(text, stages, length):
    size = batch_size_schedule(*batch_stages(text, length))
    steps = np.arange(30)
    np.testing.assert_array_equal(jax.vmap(size)(jnp.asarray(steps)), counted(stages, length, 30))


def test_large_numbers_of_tokens_are_exact_and_agree_with_the_schedule_of_tokens():
    stages = batch_stages("0:768 250B:1536 1.5T:3072", sequence_length=4096)
    first = -(-250 * 10**9 // (768 * 4096))
    second = first + -(-(1500 * 10**9 - first * 768 * 4096) // (1536 * 4096))
    assert stages == schedules.BatchStages((768, 1536, 3072), (first, second))
    seen = schedules.tokens_of_stages([size * 4096 for size in stages.batch_sizes], stages.boundaries)
    for boundary, start in zip(stages.boundaries, (250e9, 1500e9)):
        assert float(seen(boundary - 1)) < start <= float(seen(boundary)) * (1 + 1e-6)


def test_kept_examples_are_the_first_that_have_a_weight_and_their_sum_stays():
    sizes = jnp.array([1.0, 3.0, 2.9, 99.0, 0.0, jnp.nan])
    tx = keep_scheduled(lambda step: sizes[step])
    weights = jnp.array([0.0, 0.2, 0.1, 0.0, 0.3, 0.4])
    _, kept = jax.lax.scan(lambda s, _: tx.update(weights, s)[::-1], tx.init(weights), length=6)
    expected = [
        [0, 1, 0, 0, 0, 0],
        [0, 1 / 3, 1 / 6, 0, 1 / 2, 0],
        [0, 2 / 3, 1 / 3, 0, 0, 0],
        weights,
        np.zeros(6),
        np.zeros(6),
    ]
    np.testing.assert_allclose(kept, expected, rtol=1e-6)


def test_the_gradient_is_that_of_the_smaller_batch_and_selections_come_after():
    tx = optax.chain(keep_scheduled(2), keep_bottomk(1))
    fn = value_and_grad(lambda w, x: (w - x) ** 2, tx)
    batch = jnp.array([1.0, 3.0, 0.1, 9.0])
    (value, aux), gradient, _ = fn(0.0, batch, tx.init(jnp.zeros(4)))
    np.testing.assert_allclose(aux.weights, [0.5, 0, 0, 0])
    np.testing.assert_allclose([value, gradient], [0.5, -1.0])


def test_a_schedule_may_be_injected():
    tx = optax.inject_hyperparams(keep_scheduled)(batch_size=batch_size_schedule([1, 2], [1]))
    weights = jnp.full(4, 0.25)
    _, kept = jax.lax.scan(lambda s, _: tx.update(weights, s)[::-1], tx.init(weights), length=2)
    np.testing.assert_allclose(kept, [[1, 0, 0, 0], [0.5, 0.5, 0, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_stages("1B:2"), "wanted its first pair to begin at 0 tokens"),
        (lambda: batch_stages("0:4 -3:2"), "wanted pairs of tokens and batch size"),
        (lambda: batch_stages(""), "wanted pairs of tokens and batch size"),
        (lambda: batch_stages("0:4 9:8 10:16"), "wanted each stage to begin at least one step after the one before"),
        (lambda: batch_stages("0:4 9:8 2:16"), "wanted each stage to begin at least one step after the one before"),
        (lambda: batch_stages("0:0 9:8"), "the batch size is 0, wanted at least 1"),
        (lambda: batch_stages("0:4", 0), "sequence_length is 0"),
        (lambda: batch_size_schedule([1, 2], []), "boundaries has 0 steps, wanted 1"),
        (lambda: batch_size_schedule([1, 2, 3], [4, 4]), "boundaries has 4 after 4"),
        (lambda: keep_scheduled(0), "batch_size is 0, wanted at least 1"),
        (lambda: keep_scheduled(1).init(jnp.ones((1, 4))), r"weights has shape \[1, 4\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
