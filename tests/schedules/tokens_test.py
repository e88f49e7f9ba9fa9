"""Against the hand values of the papers, arithmetic in float64, and loops that count tokens one batch at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.schedules import (
    by_tokens,
    minicpm_batch_tokens,
    power_schedule,
    tokens_of_stages,
    warmup_stable_decay,
)


@pytest.mark.parametrize(
    ("batch_size", "tokens", "rate"),
    [(128, 1e9, 0.01513), (128, 1e10, 0.004677), (128, 1e12, 4.4665e-4), (1024, 1e10, 0.02), (1024, 1e11, 0.011563)],
)
def test_power_at_hand_values(batch_size, tokens, rate):
    schedule = power_schedule(0.02, a=4.6, batch_size=batch_size, tokens_fn=lambda step: tokens)
    np.testing.assert_allclose(schedule(7), rate, rtol=4e-4)


def test_power_depends_on_step_and_batch_size_only_through_tokens_and_batch_size():
    def rate(step, batch_size, length):
        return float(power_schedule(1.0, batch_size=batch_size, sequence_length=length)(step))

    assert rate(4000, 8, 512) == pytest.approx(rate(1000, 8, 2048), rel=1e-6)
    assert rate(1000, 16, 512) == pytest.approx(2 * rate(2000, 8, 512), rel=1e-6)


def test_power_starts_with_one_batch_and_warms_up_to_the_clipped_value():
    plain = power_schedule(0.02, batch_size=128, sequence_length=4096)
    warm = power_schedule(0.02, batch_size=128, sequence_length=4096, warmup_steps=100)
    assert plain(0) == plain(1) == np.float32(0.02)  # 128 * 4.6 * (128 * 4096)^-.51 is .71
    np.testing.assert_allclose([warm(0), warm(25), warm(99), warm(100)], [0, 0.005, 0.0198, 0.02], rtol=1e-6)
    tokens = 5000 * 128 * 4096
    np.testing.assert_allclose([plain(5000), warm(5000)], 128 * 4.6 * tokens**-0.51, rtol=1e-5)


def test_power_counts_the_tokens_of_a_batch_that_grows():
    sizes, steps, length = [8, 32], 2000, 128
    batch_size = np.where(np.arange(steps) < 1500, *sizes)
    seen = np.concatenate([[0.0], np.cumsum(batch_size * length)])[:-1]
    schedule = power_schedule(
        1.0,
        batch_size=lambda step: jnp.where(step < 1500, *sizes),
        sequence_length=length,
        tokens_fn=tokens_of_stages([size * length for size in sizes], [1500]),
    )
    expected = np.minimum(1.0, batch_size * 4.6 * np.maximum(seen, batch_size * length) ** -0.51)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(steps)), expected, rtol=1e-5)


def test_tokens_of_stages_are_those_of_a_loop_far_beyond_float_integers():
    numbers, edges = [1_000_003, 2_000_003, 4_000_037], [100_000, 250_000]
    count = tokens_of_stages(numbers, edges)
    steps = [0, 1, 99_999, 100_000, 249_999, 250_000, 300_000]
    expected = [sum(numbers[i] * len(range(s)[a:b]) for i, (a, b) in enumerate(SPANS)) for s in steps]
    np.testing.assert_allclose([float(count(step)) for step in steps], expected, rtol=3e-7)
    assert np.all(np.diff(jax.vmap(count)(jnp.arange(249_990, 250_010))) > 0)


SPANS = [(0, 100_000), (100_000, 250_000), (250_000, None)]


def test_a_schedule_of_tokens_is_that_of_steps_where_all_batches_are_equal():
    in_steps = warmup_stable_decay(0.3, 10, 20, 11)
    in_tokens = by_tokens(warmup_stable_decay(0.3, 10 * 2**22, 20 * 2**22, 10 * 2**22 + 1), 2**22)
    steps = jnp.arange(45)
    np.testing.assert_allclose(jax.vmap(in_tokens)(steps), jax.vmap(in_steps)(steps), rtol=1e-6, atol=1e-8)
    cosine = optax.cosine_decay_schedule(1.0, 40)
    half = by_tokens(cosine, lambda step: step * 2)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(
            jax.vmap(half)(steps), jax.vmap(lambda s: cosine(2 * s))(steps), rtol=1e-5, atol=1e-7
        )


def test_a_negative_number_of_tokens_is_an_error_or_nan():
    schedule, overflow = by_tokens(optax.constant_schedule(1.0), 4), jnp.int32(-5)
    with pytest.raises(ValueError, match="the number of tokens or steps is -20.0, wanted at least 0"):
        schedule(-5)
    found = jax.jit(lambda step: (schedule(step), power_schedule(batch_size=8, tokens_fn=lambda s: s)(step)))(overflow)
    assert np.isnan(found).all()


def test_batch_size_of_a_loss():
    found = np.asarray(minicpm_batch_tokens(jnp.array([2.5, 3.0, 3.5, 4.0, -1.0])))
    np.testing.assert_allclose(found[:4], [3.98e6, 1.28e6, 0.488e6, 0.212e6], rtol=3e-3)
    assert np.isnan(found[4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: power_schedule(batch_size=0), ValueError, "batch_size is 0"),
        (lambda: power_schedule(batch_size=8, b=0.5), ValueError, "b is 0.5"),
        (lambda: power_schedule(batch_size=lambda s: 8), TypeError, "batch_size is a function and tokens_fn is None"),
        (lambda: by_tokens(lambda n: n, -4), ValueError, "tokens is -4"),
        (lambda: by_tokens(lambda n: n, None), TypeError, "tokens is None, wanted a number"),
        (lambda: tokens_of_stages([1, 2], [5, 6]), ValueError, "boundaries has 2 steps, wanted 1"),
        (lambda: tokens_of_stages([1, 2, 3], [5, 5]), ValueError, "boundaries has 5 after 5, wanted increasing"),
        (lambda: tokens_of_stages([1, -2], [5]), ValueError, "tokens_per_step is -2"),
        (lambda: minicpm_batch_tokens(0.0), ValueError, "loss is 0.0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
