"""Against optax's joined schedules at every step, closed forms, and numpy where optax has nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.schedules import decay_from, remaining_fraction, warmup_stable_decay
from minibatch_jax.schedules.decays import SHAPES

W, STABLE, D = 4, 7, 6
T, S = W + STABLE, W + STABLE + D
STEPS = jnp.arange(20)

FORMULAS = {
    "1-sqrt": lambda x: 1 - np.sqrt(x),
    "linear": lambda x: 1 - x,
    "cosine": lambda x: 0.5 * (1 + np.cos(np.pi * x)),
    "quarter-cosine": lambda x: np.cos(np.pi / 2 * x),
    "exponential": lambda x: (0.05**x - 0.05) / 0.95,
}
"""of the progress in [0, 1], from 1 to 0; the last one for an end value of .05 of the peak"""


def values(schedule, first=0):
    return np.asarray(jax.vmap(schedule)(STEPS + first))


def joined(decay):
    """What optax has, with a decay whose last step is S - 1."""
    warmup = optax.linear_schedule(0.0, 0.4, W)
    return optax.join_schedules([warmup, optax.constant_schedule(0.4), decay], [W, T])


@pytest.mark.parametrize(
    ("shape", "end", "decay"),
    [
        ("linear", 0.0, optax.linear_schedule(0.4, 0.0, D - 1)),
        ("linear", 0.1, optax.linear_schedule(0.4, 0.1, D - 1)),
        ("cosine", 0.0, optax.cosine_decay_schedule(0.4, D - 1)),
        ("exponential", 0.02, optax.exponential_decay(0.4, D - 1, 0.05, end_value=0.02)),
    ],
)
def test_equals_the_joined_schedules_of_optax_at_every_step(shape, end, decay):
    with jax.numpy_dtype_promotion("standard"):
        expected = values(joined(decay))
    actual = values(warmup_stable_decay(0.4, W, STABLE, D, shape, end_value=end))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", FORMULAS)
def test_pieces_meet_and_the_last_step_has_exactly_the_end_value(shape):
    end = 0.02
    found = values(warmup_stable_decay(0.4, W, STABLE, D, shape, end_value=end))
    np.testing.assert_array_equal(found[W : T + 1], np.float32(0.4))
    np.testing.assert_array_equal(found[S - 1 :], np.float32(end))
    assert np.all(np.diff(found[T:S]) < 0) and found[0] == 0
    formula = end + (0.4 - end) * FORMULAS[shape](np.arange(D) / (D - 1))
    np.testing.assert_allclose(found[T:S], formula, rtol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_at_hand_values_and_beyond_the_ends(shape):
    hand = {"1-sqrt": 0.5, "linear": 0.75, "cosine": (2 + 2**0.5) / 4, "quarter-cosine": np.cos(np.pi / 8)}
    found = np.asarray(remaining_fraction(jnp.array([-0.5, 0.0, 0.25, 1.0, 7.0]), shape))
    np.testing.assert_allclose(found[2], hand[shape], rtol=1e-6)
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], [1, 1, 0, 0])


def test_a_function_is_a_shape():
    found = values(decay_from(optax.constant_schedule(2.0), 5, 5, lambda x: (1 - x) ** 2), 4)
    np.testing.assert_allclose(found[:7], [2, 2, 1.125, 0.5, 0.125, 0, 0], rtol=1e-6)


def test_a_branch_leaves_a_run_that_is_not_stable_from_its_value_there():
    falling = optax.linear_schedule(1.0, 0.0, 100)
    found = values(decay_from(falling, 20, 6, "linear", end_value=0.3), 18)
    np.testing.assert_allclose(found[:10], [0.82, 0.81, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.3, 0.3], rtol=1e-6)


def test_decays_follow_each_other_in_one_run():
    stable = optax.constant_schedule(1.0)
    cycles = decay_from(decay_from(stable, 4, 3, "linear", resume=True), 11, 3, "linear")
    expected = [1, 1, 1, 1, 1, 0.5, 0, 1, 1, 1, 1, 1, 0.5, 0, 0]
    np.testing.assert_allclose(values(cycles)[:15], expected)


def test_a_decay_of_one_step_has_only_the_end_value_and_one_of_none_is_left_out():
    np.testing.assert_array_equal(values(warmup_stable_decay(1.0, 0, 2, 1))[:4], [1, 1, 0, 0])
    np.testing.assert_array_equal(values(warmup_stable_decay(1.0, 2, 1, 0))[:5], [0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("step", [10**9 + 1, 5e11])
def test_late_steps_and_numbers_of_tokens_are_exact(step):
    start = int(step) - 1 if isinstance(step, int) else 4 * 10**11
    length = 3 if isinstance(step, int) else 2 * 10**11 + 1
    schedule = decay_from(warmup_stable_decay(1.0, 10, start, 0), start, length, "linear")
    np.testing.assert_allclose(schedule(step), 0.5, rtol=1e-6)


@pytest.mark.parametrize("step", [np.int64(11_500_000_000), np.array(11_500_000_000), np.uint64(11_500_000_000)])
def test_integers_of_numpy_beyond_int32_do_not_wrap(step):
    schedule = warmup_stable_decay(1.0, 10**9, 10**10, 10**9, "linear")
    np.testing.assert_allclose(schedule(step), 0.5, rtol=1e-6)


def test_wide_integers_of_jax_do_not_wrap_and_stay_exact():
    schedule = warmup_stable_decay(1.0, 10**9, 10**10, 10**9, "linear")
    np.testing.assert_allclose(schedule(jnp.uint32(3_000_000_000)), 1)
    late = decay_from(optax.constant_schedule(1.0), 10**9, 101, "linear")
    np.testing.assert_allclose([late(jnp.uint32(10**9 + 50)), late(np.int64(10**9 + 50))], 0.5, rtol=1e-6)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(schedule(jnp.int64(11_500_000_000)), 0.5, rtol=1e-6)
        np.testing.assert_allclose(late(jnp.int64(10**9 + 50)), 0.5, rtol=1e-6)


def test_an_optimizer_takes_it_and_a_peak_may_be_traced():
    schedule = warmup_stable_decay(0.4, W, STABLE, D)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)

    def step(state, _):
        updates, state = tx.update(jnp.float32(1), state)
        return state, (updates, state.hyperparams["learning_rate"])

    with jax.numpy_dtype_promotion("standard"):
        _, (updates, rates) = jax.lax.scan(step, tx.init(jnp.float32(0)), length=S)
    expected = values(schedule)[:S]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    np.testing.assert_allclose(updates, -expected, rtol=1e-6)
    peaks = jnp.array([0.4, 0.8])
    found = jax.jit(jax.vmap(lambda peak: warmup_stable_decay(peak, W, STABLE, D)(T + 3)))(peaks)
    np.testing.assert_allclose(found, peaks * expected[T + 3] / 0.4, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warmup_stable_decay(1.0, 30, 100 - 30 - 80, 80), "stable_steps is -10, wanted at least 0"),
        (lambda: warmup_stable_decay(-1.0, 1, 1, 1), "peak is -1.0"),
        (lambda: warmup_stable_decay(1.0, 1, 1, 1, "sqrt"), "shape is 'sqrt', wanted one of '1-sqrt', 'linear'"),
        (lambda: warmup_stable_decay(1.0, 1, 1, 1, "exponential"), r"end_value is 0.0, wanted a number in \(0, inf\)"),
        (lambda: decay_from(lambda step: 1.0, -1, 1), "start is -1"),
        (lambda: decay_from(lambda step: 1.0, 1, 0), "decay_steps is 0, wanted at least 1"),
        (lambda: remaining_fraction(0.5, "exponential"), "shape is 'exponential'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
