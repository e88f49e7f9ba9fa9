import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax import coupling
from minibatch_jax.coupling import (
    couple_semidiscrete,
    independent_plan,
    semidiscrete_plan,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_semidiscrete": Case(
        lambda: coupling.couple_semidiscrete(0.5, 0.1), draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-5
    ),
}


def train(epsilon, steps, items, b, rate):
    tx = couple_semidiscrete(epsilon, rate, decay=0.98)
    weights = independent_plan(jnp.full(256, 1 / 256, jnp.float32), b)

    def step(state, key):
        noise = jax.random.normal(key, (256, 2))
        return tx.update(weights, state, cost=squared_euclidean_cost(noise, items))[1], None

    return jax.jit(lambda s, k: jax.lax.scan(step, s, k)[0])(
        tx.init(weights), jax.random.split(jax.random.key(0), steps)
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_learned_potentials_give_the_plan_and_marginals_of_a_large_problem(epsilon):
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    b = rng.uniform(0.5, 1, 8)
    b = jnp.asarray(b / b.sum(), jnp.float32)
    state = train(epsilon, 600, items, b, 0.1)
    noise = jax.random.normal(jax.random.key(9), (1500, 2))
    cost = jax.jit(squared_euclidean_cost)(noise, items)
    plan = jax.jit(lambda cost: semidiscrete_plan(cost, state.average, b, epsilon=epsilon))(cost)
    plan = np.asarray(plan) / 1500
    np.testing.assert_allclose(plan.sum(0), b, atol=0.035)
    a, wide = np.full(1500, 1 / 1500), np.asarray(cost, np.float64)
    mass = np.asarray(b, np.float64) / np.asarray(b, np.float64).sum()
    if epsilon == 0:
        best = ot.emd2(a, mass, wide)
    else:
        best = np.sum(ot.sinkhorn(a, mass, wide, epsilon) * wide)
    np.testing.assert_allclose(np.sum(plan * wide), best, rtol=0.03)


def test_rows_are_probabilities_and_zero_masses_are_never_drawn():
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4)), jnp.float32).at[2].set(jnp.nan)
    b = jnp.array([0.5, 0.0, 0.25, 0.25])
    g = jnp.array([0.0, 9.0, 0.1, -0.2])
    for epsilon in (0.0, 0.2):
        plan = np.asarray(semidiscrete_plan(cost, g, b, epsilon=epsilon))
        np.testing.assert_allclose(plan.sum(1), [1, 1, 0, 1, 1], rtol=1e-6)
        np.testing.assert_array_equal(plan[:, 1], 0)
    kernel = np.asarray(b) * np.exp((np.asarray(g) - np.asarray(cost)) / 0.2)
    np.testing.assert_allclose(plan[0], (kernel / kernel.sum(1, keepdims=True))[0], rtol=1e-5)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="learning_rate is 0"):
        couple_semidiscrete(0.1, 0.0)
    with pytest.raises(ValueError, match=r"potentials has shape \[3\]"):
        semidiscrete_plan(jnp.ones((2, 4)), jnp.ones(3), jnp.ones(4), epsilon=0.1)
