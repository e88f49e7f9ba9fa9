"""Against loops over the steps in numpy, hand values, and optax's schedules of each proportion."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.mixing import annealed_mixture, mixture_schedule, two_phase, two_phase_mixture
from minibatch_jax.schedules import decay_from, warmup_stable_decay

TABLE = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.25, 0.75], [0.5, 0.5, 0.0]], np.float32)
EDGES = [3, 4, 9]
FIRST, SECOND = jnp.array([0.9, 0.1, 0.0]), jnp.array([0.2, 0.3, 0.5])


def rows(schedule, steps):
    found = np.asarray(jax.vmap(schedule)(jnp.arange(50)))[:steps]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert np.all(found >= 0)
    return found


def test_stages_follow_each_other_at_their_boundaries():
    stage = [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(rows(mixture_schedule(jnp.asarray(TABLE), EDGES), 12), TABLE[stage])


def test_linear_stages_are_the_interpolation_of_numpy_and_meet_the_rows_at_their_boundaries():
    found = rows(mixture_schedule(jnp.asarray(TABLE), EDGES, "linear"), 14)
    expected = np.stack([np.interp(np.arange(14), [0, *EDGES], column) for column in TABLE.T], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[[0, *EDGES]], TABLE)


def test_boundaries_may_be_tokens_or_traced_and_one_stage_has_none():
    tokens = mixture_schedule(jnp.asarray(TABLE), [10**11, 2 * 10**11, 10**12], "linear")
    np.testing.assert_allclose(tokens(1.5e11), (TABLE[1] + TABLE[2]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(tokens(7), TABLE[0] + (TABLE[1] - TABLE[0]) * np.float32(7e-11))
    traced = jax.jit(lambda table, edges, step: mixture_schedule(table, edges)(step))
    np.testing.assert_array_equal(traced(jnp.asarray(TABLE), jnp.asarray(EDGES), 8), TABLE[2])
    np.testing.assert_array_equal(mixture_schedule(jnp.asarray(TABLE[:1]), [])(5), TABLE[0])


@pytest.mark.parametrize("ramp", [0, 1, 5, 8])
def test_a_ramp_is_continuous_and_every_domain_is_seen_as_often_as_without(ramp):
    found = rows(two_phase_mixture(FIRST, SECOND, 6, ramp), 20)
    np.testing.assert_allclose(found.sum(axis=0), 6 * FIRST + 14 * SECOND, rtol=1e-6)
    np.testing.assert_array_equal(found[:1], FIRST[None])
    np.testing.assert_array_equal(found[-1:], SECOND[None])
    steepest = np.abs(np.diff(found, axis=0)).max()
    np.testing.assert_allclose(steepest, 0.7 / max(ramp, 1), rtol=1e-5)


def test_an_annealed_mixture_moves_as_the_learning_rate_falls():
    start, steps = 4, 9
    for shape in ("1-sqrt", "cosine"):
        left = jax.vmap(decay_from(optax.constant_schedule(1.0), start, steps, shape))(jnp.arange(50))[:16]
        expected = left[:, None] * FIRST[None] + (1 - left[:, None]) * SECOND[None]
        np.testing.assert_allclose(rows(annealed_mixture(FIRST, SECOND, start, steps, shape), 16), expected, atol=1e-6)


def test_two_phases_tie_the_mixture_and_the_learning_rate_to_the_length_of_the_run():
    plan = two_phase(50, FIRST, SECOND, 0.3, switch=0.6, decay=0.8, warmup_steps=5, ramp=2, end_value=0.01)
    assert (plan.switch, plan.decay) == (30, 40)
    steps = jnp.arange(50)
    by_hand = jax.vmap(warmup_stable_decay(0.3, 5, 35, 10, end_value=0.01))(steps)
    np.testing.assert_array_equal(jax.vmap(plan.learning_rate)(steps), by_hand)
    np.testing.assert_allclose(rows(plan.mixture, 50)[[28, 29, 30, 31], 2], [0, 0.125, 0.375, 0.5], rtol=1e-6)


HALF = jnp.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mixture_schedule(jnp.array([[40.0, 2.0]]), []),
            ValueError,
            r"table\[0\] has the sum 42, wanted 1",
        ),
        (
            lambda: mixture_schedule(jnp.array([[1.5, -0.5]]), []),
            ValueError,
            r"table\[0\] has a negative or non-finite",
        ),
        (lambda: mixture_schedule(jnp.array([[1.0, jnp.nan]]), []), ValueError, "non-finite entry"),
        (lambda: mixture_schedule(jnp.array([[1, 0]]), []), TypeError, "table has dtype int32"),
        (lambda: mixture_schedule(HALF[None], [3]), ValueError, "boundaries has 1 steps, wanted 0"),
        (lambda: mixture_schedule(jnp.tile(HALF, (3, 1)), [5, 5]), ValueError, "boundaries has 5 after 5"),
        (lambda: mixture_schedule(jnp.tile(HALF, (2, 1)), [0]), ValueError, "boundaries has 0 after 0"),
        (lambda: mixture_schedule(HALF[None], [], "cubic"), ValueError, "interpolate is 'cubic'"),
        (lambda: two_phase_mixture(HALF, FIRST, 3), ValueError, r"second has shape \[3\], wanted \[2\]"),
        (lambda: two_phase_mixture(HALF, HALF, 3, 7), ValueError, "ramp is 7, wanted at most 6"),
        (lambda: two_phase_mixture(HALF, HALF, 2.5), TypeError, "switch is 2.5, wanted an int"),
        (lambda: annealed_mixture(HALF, HALF, 3, 1), ValueError, "num_steps is 1, wanted at least 2"),
        (lambda: annealed_mixture(HALF, HALF, 3, 4, "sudden"), ValueError, "shape is 'sudden'"),
        (lambda: two_phase(10, HALF, HALF, 1.0, switch=1.2), ValueError, "switch is 1.2"),
        (lambda: two_phase(10, HALF, HALF, 1.0, decay=0.5, warmup_steps=6), ValueError, "warmup_steps is 6, wanted at"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
