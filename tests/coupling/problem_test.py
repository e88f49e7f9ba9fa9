import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.coupling import pairs_1d, semidiscrete_plan
from minibatch_jax.coupling._problem import allowed_pairs, is_price, kept_weights, marginals_of, masses

COST = jnp.array([[0.0, jnp.inf, 1e30], [2.0, jnp.nan, -1e30]])


def test_weights_say_which_pairs_and_masses_a_plan_has():
    weights = jnp.array([[0.25, 0.25, 0.25], [0.0, 0.125, 0.125]])
    where, a, b = marginals_of(weights, COST)
    np.testing.assert_array_equal(where, [[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(a, [0.5, 0.125])
    np.testing.assert_array_equal(b, [0.25, 0, 0.375])
    np.testing.assert_array_equal(kept_weights(weights, COST, is_price), [[0.25, 0, 0], [0, 0, 0]])


def test_a_mask_and_the_costs_say_which_pairs_are_allowed():
    where = jnp.array([[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(allowed_pairs(COST, where), [[True, False, False], [False, False, True]])
    np.testing.assert_array_equal(allowed_pairs(COST, None, is_price), [[True, False, False], [True, False, False]])


def test_masses_are_uniform_by_default_and_checked_if_concrete():
    a, b = masses(COST, None, jnp.ones(3) / 3)
    np.testing.assert_array_equal(a, [0.5, 0.5])
    np.testing.assert_array_equal(b, np.full(3, 1 / 3, np.float32))
    with pytest.raises(ValueError, match="a has mass 1.0 and b has mass 3.0, wanted equal masses"):
        masses(COST, None, jnp.ones(3), equal=True)
    jax.jit(lambda b: masses(COST, None, b, equal=True))(jnp.ones(3))


@pytest.mark.parametrize("bad", [-1.0, jnp.nan, jnp.inf])
def test_bad_masses_raise_in_every_solver(bad):
    mass = jnp.array([1.0, bad])
    with pytest.raises(ValueError, match="a has a negative or non-finite mass"):
        masses(jnp.ones((2, 2)), mass, None)
    with pytest.raises(ValueError, match="b has a negative or non-finite mass"):
        pairs_1d(jnp.ones(2), jnp.ones(2), None, mass)
    with pytest.raises(ValueError, match="b has a negative or non-finite mass"):
        semidiscrete_plan(jnp.ones((2, 2)), jnp.ones(2), mass, epsilon=0.1)
    with pytest.raises(TypeError, match="b has dtype int32"):
        pairs_1d(jnp.ones(2), jnp.ones(2), None, jnp.ones(2, jnp.int32))
