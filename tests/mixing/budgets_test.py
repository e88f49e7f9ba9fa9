"""Against loops in numpy that count the tokens of each step, and hand values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import (
    blend_from_epochs,
    downsample_for_horizon,
    epochs_of,
    length_mixture,
    mixture_schedule,
    schedule_budget,
)

SIZES = jnp.array([8e12, 3e11, 2e10])
EPOCHS = jnp.array([0.5, 2.0, 6.0])


def test_a_blend_passes_over_each_domain_as_often_as_asked():
    blend = blend_from_epochs(SIZES, EPOCHS)
    np.testing.assert_allclose(blend.tokens, 4e12 + 6e11 + 1.2e11, rtol=1e-6)
    np.testing.assert_allclose(blend.mixture.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(epochs_of(blend.mixture, SIZES, blend.tokens), EPOCHS, rtol=1e-6)


def test_a_small_copy_of_a_long_run_has_its_epochs():
    blend = blend_from_epochs(SIZES, EPOCHS)
    long, short = 15 * 10**12, 10**12
    sizes = downsample_for_horizon(SIZES, long, short)
    np.testing.assert_allclose(epochs_of(blend.mixture, sizes, short), epochs_of(blend.mixture, SIZES, long), rtol=1e-6)
    np.testing.assert_allclose(sizes, np.asarray(SIZES) / 15, rtol=1e-6)


def test_an_empty_domain_is_seen_never_or_infinitely_often():
    assert epochs_of(jnp.array([0.0, 1.0]), jnp.zeros(2), 10).tolist() == [0, np.inf]


def test_a_budget_is_the_sum_over_every_step():
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], np.float32)
    mixture = mixture_schedule(jnp.asarray(table), [400], "linear")
    steps = np.arange(1000)
    per_step = np.where(steps < 250, 100.0, 300.0)
    moved = np.clip(steps / 400, 0, 1)[:, None]
    expected = np.einsum("t,tk->k", per_step, table[0] * (1 - moved) + table[1] * moved)
    sizes = jnp.array([50_000.0, 50_000.0, 100_000.0])
    budget = schedule_budget(
        mixture, sizes, 1000, jnp.asarray(per_step, jnp.float32), max_epochs=jnp.array([1.0, 2.0, 1.0])
    )
    np.testing.assert_allclose(budget.tokens, expected, rtol=1e-5)
    np.testing.assert_allclose(budget.tokens.sum(), per_step.sum(), rtol=1e-5)
    np.testing.assert_allclose(budget.epochs, expected / np.asarray(sizes), rtol=1e-5)
    np.testing.assert_array_equal(budget.exceeded, expected / np.asarray(sizes) > [1, 2, 1])
    assert budget.exceeded.tolist() == [False, False, True]


def test_a_budget_used_up_to_the_last_token_is_not_exceeded():
    third = jnp.full(3, 1 / 3)
    budget = schedule_budget(lambda step: third, jnp.full(3, 1000.0), 1000, 9, max_epochs=3.0)
    assert not budget.exceeded.any()


def test_rows_of_two_lengths_hold_the_shares_of_tokens():
    mixture, long, lengths = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.7, 0.0, 1.0]), (100, 2000)
    rows = np.asarray(length_mixture(mixture, long, lengths))
    assert rows.sum() == pytest.approx(1, rel=1e-6)
    tokens = rows * lengths
    tokens /= tokens.sum()
    np.testing.assert_allclose(tokens.sum(axis=1), mixture, rtol=1e-6)
    np.testing.assert_allclose(tokens[:, 1], np.asarray(mixture) * np.asarray(long), rtol=1e-6)


def test_under_jit_nothing_is_refused():
    found = jax.jit(lambda sizes: blend_from_epochs(sizes, EPOCHS).mixture)(jnp.zeros(3))
    assert found.tolist() == [0, 0, 0]
    long = jnp.array([0.2, 0.5, 0.0])
    constants = jax.jit(lambda factor: factor * length_mixture(EPOCHS, long))(1.0)
    np.testing.assert_allclose(constants, length_mixture(EPOCHS, long), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blend_from_epochs(-SIZES, EPOCHS), "sizes has .* wanted numbers >= 0"),
        (lambda: blend_from_epochs(SIZES, EPOCHS[:2]), r"epochs has shape \[2\], wanted \[3\]"),
        (lambda: blend_from_epochs(SIZES, 0 * EPOCHS), "sizes and epochs have the product 0"),
        (lambda: epochs_of(EPOCHS, SIZES, -1), "tokens is -1"),
        (lambda: epochs_of(jnp.array([0.5, 0.9, 0.0]), SIZES, 1), "mixture has the sum 1.4, wanted 1"),
        (lambda: downsample_for_horizon(SIZES, 0, 5), "tokens is 0"),
        (lambda: schedule_budget(lambda s: EPOCHS, SIZES[:2], 5, 1), "the mixtures of all steps has shape"),
        (lambda: schedule_budget(lambda s: EPOCHS, SIZES, 5, -1), "tokens_per_step has"),
        (lambda: length_mixture(EPOCHS, 1.5), "long is .* wanted numbers in"),
        (lambda: length_mixture(EPOCHS, 0.5, (0, 5)), "lengths is 0"),
        (lambda: length_mixture(0 * EPOCHS, 0.5), "mixture has .* wanted a number above 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
