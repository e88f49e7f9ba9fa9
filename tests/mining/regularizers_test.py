"""Penalties against pytorch-metric-learning's stored values, and what they leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining.peer import PEER, X, check

PENALTIES = {
    "length": mining.length_penalty,
    "squared_length": lambda x: mining.length_penalty(x, power=2.0),
    "zero_sum": mining.zero_sum_penalty,
    "equal_length": mining.equal_length_penalty,
    "nearest_center": mining.nearest_center_penalty,
    "merge": lambda x: mining.merge_penalty(x.reshape(4, 3, -1)),
}
each = pytest.mark.parametrize("name", PENALTIES)


@each
def test_value_and_gradient_are_those_of_the_peer(name):
    check(PENALTIES[name], PEER["regularizers"][name])


@each
def test_rows_that_are_not_finite_are_left_out_with_finite_gradients(name):
    bad = jnp.asarray(X, jnp.float32).at[4].set(jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(PENALTIES[name]))(bad)
    assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient)) and jnp.all(gradient[4] == 0)
    if name != "merge":
        np.testing.assert_allclose(value, PENALTIES[name](jnp.delete(bad, 4, axis=0)), rtol=1e-5)


@each
def test_gradients_at_zeros_and_equal_rows_are_finite(name):
    for rows in (jnp.zeros((12, 5)), jnp.ones((12, 5))):
        assert jnp.all(jnp.isfinite(jax.grad(PENALTIES[name])(rows)))


def test_rows_outside_the_mask_hold_anything():
    where = jnp.arange(12) % 3 != 0
    for penalty in (mining.length_penalty, mining.zero_sum_penalty):
        expected = penalty(jnp.asarray(X, jnp.float32)[where])
        for fill in (jnp.nan, jnp.inf, 1e30):
            rows = jnp.where(where[:, None], jnp.asarray(X, jnp.float32), fill)
            np.testing.assert_allclose(penalty(rows, where=where), expected, rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"centers has shape \[2, 1, 3\], wanted at least 2 centers"):
        mining.merge_penalty(jnp.ones((2, 1, 3)))
    with pytest.raises(ValueError, match="power is 0"):
        mining.length_penalty(jnp.ones((2, 2)), power=0.0)
    with pytest.raises(TypeError, match="centers has dtype int32"):
        mining.nearest_center_penalty(jnp.ones((2, 2), int))
