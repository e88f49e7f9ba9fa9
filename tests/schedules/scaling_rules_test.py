"""Against the arithmetic of the papers, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.schedules import goyal_schedule, gradual_warmup, linear_scaling, sqrt_scaling


def test_rates_of_the_two_papers():
    assert linear_scaling(0.1, 256, 8192) == pytest.approx(3.2, rel=1e-12)
    assert sqrt_scaling(3e-4, 256, 10_000) == pytest.approx(3e-4 * 6.25, rel=1e-12)
    assert sqrt_scaling(0.5, 64, 16) == 0.25  # smaller batches too


def test_a_traced_batch_size_in_any_dtype_scales_in_float32():
    sizes = jnp.array([16, 64, 1024], jnp.int32)
    found = jax.jit(lambda b: (linear_scaling(0.25, 64, b), sqrt_scaling(0.25, 64, b)))(sizes)
    np.testing.assert_allclose(found, [[1 / 16, 0.25, 4], [0.125, 0.25, 1]], rtol=1e-6)
    half = linear_scaling(0.1, 256, jnp.array(8192, jnp.float16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, 3.2, rtol=1e-6)


def test_a_traced_batch_size_out_of_range_has_no_rate():
    sizes = jnp.array([64.0, 0.0, -64.0])
    for rule in (linear_scaling, sqrt_scaling):
        np.testing.assert_array_equal(jax.jit(lambda b, rule=rule: rule(0.25, 64, b))(sizes), [0.25, np.nan, np.nan])


def test_goyal_at_every_step_by_hand():
    """Base .1 at 256, batch 1024, 10 steps an epoch: one of 50 equal rises a step, then a tenth at 300, 600, 800."""
    schedule = goyal_schedule(0.1, 256, 1024, steps_per_epoch=10)
    steps = np.arange(900)
    expected = np.where(
        steps < 50, 0.1 + steps * (0.4 - 0.1) / 50, 0.4 * 0.1 ** np.sum(steps[:, None] >= [300, 600, 800], axis=1)
    )
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.asarray(steps)), expected, rtol=1e-5)


def test_goyal_in_steps_and_without_a_warmup():
    steps = jnp.arange(8)
    in_steps = goyal_schedule(1.0, 1, 2, warmup=2, boundaries=(5, 7), factor=0.5)
    np.testing.assert_allclose(jax.vmap(in_steps)(steps), [1, 1.5, 2, 2, 2, 1, 1, 0.5])
    none = goyal_schedule(1.0, 1, 2, warmup=0, boundaries=(5,))
    np.testing.assert_allclose(jax.vmap(none)(steps), [2] * 5 + [0.2] * 3, rtol=1e-6)
    np.testing.assert_array_equal(jax.vmap(gradual_warmup(1.0, 3.0, 0))(steps), 3)


def test_an_optimizer_takes_the_schedule():
    tx = optax.sgd(goyal_schedule(1.0, 1, 4, warmup=3, boundaries=(4,)))

    def step(state, _):
        update, state = tx.update(jnp.float32(1), state)
        return state, update

    _, updates = jax.lax.scan(step, tx.init(jnp.float32(0)), length=5)
    np.testing.assert_allclose(updates, [-1, -2, -3, -4, -0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_scaling(-0.1, 1, 1), "base_rate is -0.1"),
        (lambda: linear_scaling(0.1, 0, 1), r"base_batch is 0, wanted a number in \(0, inf\)"),
        (lambda: sqrt_scaling(0.1, 1, -4), "batch is -4"),
        (lambda: gradual_warmup(0.1, 0.2, -1), "warmup_steps is -1, wanted at least 0"),
        (
            lambda: goyal_schedule(0.1, 1, 2, boundaries=(3,)),
            "step 3 after step 5, wanted increasing",
        ),
        (lambda: goyal_schedule(0.1, 1, 2, boundaries=(9, 8)), "step 8 after step 9"),
        (lambda: goyal_schedule(0.1, 1, 2, steps_per_epoch=0), "steps_per_epoch is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
