import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mixing
from minibatch_jax.mixing import mix_by_schedule, two_phase_mixture
from minibatch_jax.testing import ROWS
from tests.case import Case

START, END = np.linspace(1, 2, ROWS), np.linspace(3, 1, ROWS)
MOVES = two_phase_mixture(jnp.asarray(START / START.sum(), "f4"), jnp.asarray(END / END.sum(), "f4"), 2)
CASES = {
    "mix_by_schedule": Case(lambda: mixing.mix_by_schedule(MOVES), lambda rng: {}, lowers_mass=False, tolerance=1e-6)
}
FIRST, SECOND = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.0, 0.25, 0.75])


def test_weights_are_the_mixture_of_each_step_whatever_came_in():
    tx = mix_by_schedule(two_phase_mixture(FIRST, SECOND, 2))
    weights = jnp.array([0.1, 0.2, 0.7])
    _, found = jax.lax.scan(lambda state, _: tx.update(weights, state)[::-1], tx.init(weights), length=4)
    np.testing.assert_allclose(found, np.stack([FIRST, FIRST, SECOND, SECOND]), rtol=1e-6)


def test_a_domain_without_weight_stays_out_and_the_others_share_its_part_of_the_sum():
    tx = mix_by_schedule(lambda step: FIRST)
    found, state = tx.update(jnp.array([0.0, 2.0, 2.0]), tx.init(FIRST))
    np.testing.assert_allclose(found, [0, 2, 2], rtol=1e-6)
    assert not state.empty


@pytest.mark.parametrize("mixture", [[1.0, 0.0, 0.0], [jnp.nan, jnp.inf, -1.0]])
def test_nothing_left_to_mix_gives_zeros_and_says_so(mixture):
    tx = mix_by_schedule(lambda step: jnp.array(mixture))
    found, state = tx.update(jnp.array([0.0, 0.5, 0.5]), tx.init(FIRST))
    assert found.tolist() == [0, 0, 0] and state.empty


def test_it_starts_a_chain():
    tx = optax.chain(mix_by_schedule(two_phase_mixture(FIRST, SECOND, 1)), optax.ema(0.5, debias=False))
    state = tx.init(FIRST)
    with jax.numpy_dtype_promotion("standard"):
        found, state = tx.update(FIRST, state)
        found, state = tx.update(FIRST, state)
    np.testing.assert_allclose(found, FIRST / 4 + SECOND / 2, rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="wanted a function of the step"):
        mix_by_schedule(FIRST)
    tx = mix_by_schedule(lambda step: FIRST)
    with pytest.raises(ValueError, match=r"the mixture of a step has shape \[3\], wanted \[2\]"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
