"""Second derivatives of every differentiable value are those of finite differences, or raise; none is 0 in error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import coupling
from minibatch_jax.coupling import costs, plans, sliced_plans

STEP = 1e-4
RNG = np.random.default_rng(0)
X0, X1, MOVE = RNG.normal(size=(5, 3)), RNG.normal(size=(6, 3)), RNG.normal(size=(5, 3))
A, B = RNG.dirichlet(np.ones(5) * 9), RNG.dirichlet(np.ones(6) * 9)
TO_A = 0.2 * (RNG.dirichlet(np.ones(5) * 9) - A)
WEIGHTS = RNG.uniform(0.5, 1, (5, 6))
BLOCKS = RNG.normal(size=(2, 2, 2, 3))
BLOCK_MOVE = RNG.normal(size=(2, 2, 3))


def cost(t):
    """In float64: called with x64 enabled only."""
    return costs.squared_euclidean_cost(X0 + t * MOVE, jnp.asarray(X1))


def block_costs(t):
    x = jnp.asarray(BLOCKS[0]) + t * jnp.asarray(BLOCK_MOVE)
    return jnp.sum((x[:, None, :, None] - jnp.asarray(BLOCKS[1])[None, :, None]) ** 2, -1)


def hierarchical(t):
    exact = coupling.couple_assignment()
    found = coupling.hierarchical_plan(jax.lax.stop_gradient(block_costs(t)), exact, exact)
    return jnp.sum(found.plans * block_costs(t))


def sharded(t):
    return coupling.sharded_sinkhorn(
        X0 + t * MOVE, jnp.asarray(X1), epsilon=1.0, max_iterations=300, block_size=5, tolerance=None
    ).value


VALUES = {
    "condition_aware_cost": lambda t: jnp.sum(
        coupling.condition_aware_cost(cost(t)[:, :5] ** 2, 1.0 - jnp.eye(5), fraction=1.0)
    ),
    "cosine_cost": lambda t: jnp.sum(costs.cosine_cost(X0 + t * MOVE, jnp.asarray(X1))),
    "euclidean_cost": lambda t: jnp.sum(costs.euclidean_cost(X0 + t * MOVE, jnp.asarray(X1))),
    "hierarchical_plan": hierarchical,
    "independent_plan": lambda t: 100 * jnp.sum(coupling.independent_plan(A + t * TO_A, jnp.exp(t * X1[:, 0])) ** 2),
    "normalized_entropy": lambda t: plans.normalized_entropy(jnp.exp(-cost(t))),
    "partial_plan": lambda t: coupling.partial_plan(cost(t), 0.5, jnp.asarray(WEIGHTS)).value,
    "partial_plan_of_weights": lambda t: coupling.partial_plan(cost(t), 0.45 + 0.1 * t, WEIGHTS * (1 + t)).value,
    "partial_plan_of_masses": lambda t: coupling.partial_plan(cost(t), 0.45 + 0.1 * t, a=A + t * TO_A, b=1.5 * B).value,
    "round_to_marginals": lambda t: jnp.sum(plans.round_to_marginals(jnp.exp(-cost(t)), A, B) ** 2),
    "semidiscrete_plan": lambda t: jnp.sum(
        coupling.semidiscrete_plan(cost(t), t * jnp.arange(6.0), jnp.asarray(B), epsilon=1.0) ** 2
    ),
    "sharded_sinkhorn": sharded,
    "sliced_wasserstein": lambda t: sliced_plans.sliced_wasserstein(0, X0 + t * MOVE, jnp.asarray(X1), 8),
    "squared_euclidean_cost": lambda t: jnp.sum(cost(t) ** 2),
    "transport": lambda t: coupling.transport(cost(t), A, B).value,
    "transport_in_masses": lambda t: coupling.transport(cost(0.0), A + t * TO_A + t**2 * TO_A, B).value,
    "transport_in_both": lambda t: coupling.transport(cost(t), A + t * TO_A, B).value,
    "wasserstein_1d": lambda t: coupling.wasserstein_1d(X0[:, 0] + t * MOVE[:, 0], jnp.asarray(X1[:, 0]), p=3.0),
    "wasserstein_1d_of_masses": lambda t: coupling.wasserstein_1d(
        X0[:, 0] + t * MOVE[:, 0], jnp.asarray(X1[:, 0]), A + t * TO_A, B
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_first_and_second_derivatives_equal_finite_differences(name):
    with jax.enable_x64(True):
        function = jax.jit(VALUES[name])
        slope, curvature = jax.jit(jax.grad(VALUES[name])), jax.jit(jax.hessian(VALUES[name]))
        np.testing.assert_allclose(slope(0.0), (function(STEP) - function(-STEP)) / (2 * STEP), rtol=1e-5)
        expected = (slope(STEP) - slope(-STEP)) / (2 * STEP)
        np.testing.assert_allclose(curvature(0.0), expected, rtol=1e-5, atol=1e-7)
        assert abs(expected) > 1e-3


def test_a_linear_program_has_second_derivative_zero_in_the_cost_and_in_a_mass():
    with jax.enable_x64(True):
        c = cost(0.0)
        hessian = jax.hessian(lambda c, a: coupling.transport(c, a, B).value, (0,))(c, A)[0][0]
        assert not np.any(hessian)
        assert not np.any(jax.hessian(lambda a: coupling.transport(c, a, B).value)(jnp.asarray(A)))
        assert not np.any(jax.hessian(lambda c: coupling.transport(c).value)(c[:, :5]))  # of no unique prices


def test_mixed_derivatives_of_transport_are_the_change_of_the_plan_with_the_masses():
    with jax.enable_x64(True):
        value = lambda c, a, b: coupling.transport(c, a, b).value  # noqa: E731
        c, a, b = cost(0.0), jnp.asarray(A), jnp.asarray(B)
        to_a, to_b = jnp.asarray(TO_A), 0.1 * jnp.roll(b, 1) - 0.1 * b
        plan = lambda t: coupling.transport(c, a + t * to_a, b + t * to_b).matrix  # noqa: E731
        change = (plan(STEP) - plan(-STEP)) / (2 * STEP)
        assert np.abs(change).max() > 0.01
        of_cost = jax.jacobian(jax.grad(value), (1, 2))(c, a, b)
        np.testing.assert_allclose(of_cost[0] @ to_a + of_cost[1] @ to_b, change, atol=1e-9)
        of_masses = jax.jacobian(jax.grad(value, (1, 2)))(c, a, b)
        mixed = jnp.tensordot(to_a, of_masses[0], 1) + jnp.tensordot(to_b, of_masses[1], 1)
        np.testing.assert_allclose(mixed, change, atol=1e-9)
        uniform = jax.jacobian(jax.grad(value), 1)(c[:, :5], jnp.ones(5) / 5, jnp.ones(5) / 5)
        assert np.all(np.isnan(uniform[coupling.transport(c[:, :5]).matrix > 0]))


@pytest.mark.parametrize("inner", [coupling.couple_assignment(), coupling.couple_sinkhorn(1.0)])
def test_the_value_of_batches_of_batches_has_one_derivative(inner):
    c = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 2, 3, 3)), jnp.float32)
    solve = lambda c: coupling.hierarchical_plan(c, inner, coupling.couple_assignment())  # noqa: E731
    slopes, found = jax.jit(jax.grad(lambda c: (solve(c).value, solve(c)), has_aux=True))(c)
    np.testing.assert_allclose(slopes, found.plans, rtol=1e-6)
    with pytest.raises(NotImplementedError, match=r"differentiated twice.*found\.plans \* cost.*sinkhorn"):
        jax.hessian(lambda c: solve(c).value)(c)


@pytest.mark.parametrize("distance", [0.0, 1e-4, 1.0])
def test_equal_rows_have_the_curvature_of_others(distance):
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    for of_costs, right in ((costs.squared_euclidean_cost, 2 * np.eye(2)), (costs.cosine_cost, None)):
        total = lambda v, f=of_costs: f(v[None] + distance, x)[0, 0]  # noqa: E731
        hessian = jax.hessian(total)(x[0])
        if right is None:
            other = x[0] / jnp.linalg.norm(x[0])
            right = jax.hessian(lambda v, o=other: -jnp.sum(v * o) / jnp.linalg.norm(v))(x[0] + distance)
            assert np.abs(right).max() > 0.01
        np.testing.assert_allclose(hessian, right, atol=1e-5)


@pytest.mark.parametrize("solver", ["partial_sinkhorn", "unbalanced_sinkhorn"])
def test_results_without_a_gradient_are_constants_in_all_arguments(solver):
    c = jnp.asarray(WEIGHTS, jnp.float32)

    def total(c, a, epsilon, price):
        if solver == "partial_sinkhorn":
            found = coupling.partial_sinkhorn(c, price, a, epsilon=epsilon)
        else:
            found = coupling.unbalanced_sinkhorn(c, a, epsilon=epsilon, rho=price)
        return jnp.sum(found.matrix * jax.lax.stop_gradient(c)) + jnp.sum(found.row_potentials)

    slopes = jax.grad(total, (0, 1, 2, 3))(c, jnp.asarray(A, jnp.float32), 1.0, 0.5)
    assert not any(np.any(slope) for slope in slopes)
