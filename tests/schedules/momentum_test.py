"""Form B with the correction against form A (`optax.sgd`) and against the equations of the paper in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.schedules import momentum_correction

RNG = np.random.default_rng(0)
RATES = np.exp(RNG.normal(0, 2, 12)).astype(np.float32)
GRADIENTS = RNG.normal(size=(12, 3)).astype(np.float32)


def at(step):
    return jnp.asarray(RATES)[step]


def inside(learning_rate, momentum=0.9, nesterov=False):
    average = momentum_correction(learning_rate, momentum, nesterov=nesterov)
    return optax.chain(optax.scale_by_learning_rate(learning_rate), average)


def moves(tx, gradients=GRADIENTS):
    def step(state, g):
        update, state = tx.update({"w": g}, state)
        return state, update["w"]

    start = tx.init({"w": jnp.zeros(gradients.shape[1:], gradients.dtype)})
    return jax.jit(lambda xs: jax.lax.scan(step, start, xs)[1])(jnp.asarray(gradients))


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_rate_outside_of_the_buffer_for_any_rates(nesterov):
    expected = moves(optax.sgd(at, 0.9, nesterov=nesterov))
    np.testing.assert_allclose(moves(inside(at, nesterov=nesterov)), expected, rtol=2e-5, atol=1e-6)
    uncorrected = moves(optax.chain(optax.scale_by_learning_rate(at), optax.trace(0.9, nesterov)))
    assert np.max(np.abs(uncorrected - expected)) > 1


def test_equals_the_equations_of_the_paper():
    buffer, last, expected = np.zeros(3), RATES[0], []
    for rate, gradient in zip(RATES.astype(np.float64), GRADIENTS):
        buffer = 0.9 * (rate / last) * buffer + rate * gradient
        last = rate
        expected.append(-buffer)
    np.testing.assert_allclose(moves(inside(at)), expected, rtol=2e-5, atol=1e-6)


def test_a_constant_rate_is_plain_momentum():
    expected = moves(optax.chain(optax.scale_by_learning_rate(0.25), optax.trace(0.5)))
    np.testing.assert_allclose(moves(inside(0.25, 0.5)), expected, rtol=1e-6)


def test_a_rate_of_zero_moves_nothing_and_lets_the_velocity_decay():
    rates = jnp.array([2.0, 0.0, 0.0, 1.0])
    found = moves(inside(lambda step: rates[step], 0.5), np.ones((4, 1), np.float32))
    np.testing.assert_allclose(found[:, 0], [-2, 0, 0, -(0.5**3 + 1)])


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_frozen_has_no_gradient_and_no_move(nesterov):
    params = {"w": jnp.ones(2), "frozen": jnp.ones(3)}
    tx, plain = inside(0.25, 0.5, nesterov), optax.sgd(0.25, 0.5, nesterov)
    state, expected = tx.init(params), plain.init(params)
    for gradient in (1.0, 3.0):
        updates, state = tx.update({"w": jnp.full(2, gradient), "frozen": None}, state)
        wanted, expected = plain.update({"w": jnp.full(2, gradient), "frozen": None}, expected)
        np.testing.assert_allclose(updates["w"], wanted["w"], rtol=1e-6)
        assert updates["frozen"] is None and jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_the_rate_may_be_injected_and_half_precision_is_averaged_in_float32():
    tx = optax.inject_hyperparams(inside, static_args=("nesterov",))(learning_rate=at, nesterov=False)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(moves(tx), moves(inside(at)), rtol=1e-5, atol=1e-6)
    small = np.full((400, 1), 2.0**-8, jnp.bfloat16)  # in bfloat16 the average would stick long before its limit
    found = moves(momentum_correction(1.0, 0.995), small)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(found[-1, 0]), 2.0**-8 * (1 - 0.995**400) / 0.005, rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: momentum_correction(-1.0), "learning_rate is -1.0"),
        (lambda: momentum_correction(1.0, 1.0), r"momentum is 1.0, wanted a number in \[0, 1\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
