import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax.coupling import differentiable_plan, sinkhorn, sinkhorn_divergence
from minibatch_jax.coupling.costs import cosine_cost, euclidean_cost, squared_euclidean_cost


def batches(seed=0, n=6, m=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 0.5


def entropic_value(x0, x1, epsilon):
    """Primal value from POT's plan."""
    cost = ot.dist(x0, x1)
    a, b = np.full(len(x0), 1 / len(x0)), np.full(len(x1), 1 / len(x1))
    plan = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=50_000)
    return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan / np.outer(a, b)))


def test_divergence_is_that_of_pot_and_its_gradient_equals_finite_differences():
    x0, x1 = batches()
    expected = entropic_value(x0, x1, 0.5) - (entropic_value(x0, x0, 0.5) + entropic_value(x1, x1, 0.5)) / 2
    with jax.enable_x64(True):
        options = {"epsilon": 0.5, "tolerance": 1e-12, "max_iterations": 20_000}
        value = jax.jit(lambda x: sinkhorn_divergence(x, jnp.asarray(x1), **options))
        np.testing.assert_allclose(value(jnp.asarray(x0)), expected, rtol=1e-7)
        step = np.random.default_rng(1).normal(size=x0.shape)
        slope = np.sum(jax.jit(jax.grad(value))(jnp.asarray(x0)) * step)
        change = (value(x0 + 1e-5 * step) - value(x0 - 1e-5 * step)) / 2e-5
        np.testing.assert_allclose(slope, change, rtol=1e-5)


def test_it_vanishes_with_its_gradient_on_equal_batches_where_the_entropic_cost_does_not():
    x = jnp.asarray(batches()[0], jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda y: sinkhorn_divergence(y, x, epsilon=0.5, tolerance=1e-5)))(x)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3)])
def test_implicit_gradient_equals_that_through_the_iterations(shape):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cost, target = jnp.asarray(rng.uniform(size=shape)), jnp.asarray(rng.normal(size=shape))
        a, b = rng.uniform(0.5, 1, shape[0]), rng.uniform(0.5, 1, shape[1])
        a, b = jnp.asarray(a / a.sum()), jnp.asarray(b / b.sum())

        def implicit(cost):
            plan = sinkhorn(cost, a, b, epsilon=0.2, tolerance=1e-13, max_iterations=10_000).matrix
            return jnp.sum(jnp.square(differentiable_plan(cost, plan, 0.2)) * target)

        def unrolled(cost):
            def step(carry, _):
                g, _ = carry
                f = 0.2 * (jnp.log(a) - jax.nn.logsumexp((g[None, :] - cost) / 0.2, axis=1))
                g = 0.2 * (jnp.log(b) - jax.nn.logsumexp((f[:, None] - cost) / 0.2, axis=0))
                return (g, f), None

            (g, f), _ = jax.lax.scan(step, (jnp.zeros_like(b), jnp.zeros_like(a)), None, length=1000)
            return jnp.sum(jnp.square(jnp.exp((f[:, None] + g[None, :] - cost) / 0.2)) * target)

        found, expected = jax.jit(lambda cost: (jax.grad(implicit)(cost), jax.grad(unrolled)(cost)))(cost)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


def test_padding_does_not_reach_the_implicit_gradient():
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 5)), jnp.float32)
    a, b = jnp.array([0.5, 0.5, 0, 0]), jnp.array([0.25, 0.5, 0.25, 0, 0])

    def total(cost):
        plan = sinkhorn(cost, a, b, epsilon=0.3, tolerance=1e-6).matrix
        return jnp.sum(differentiable_plan(cost, plan, 0.3)[:2, :3] ** 2)

    gradient = np.asarray(jax.jit(jax.grad(total))(cost.at[2:].set(jnp.nan).at[:, 3:].set(jnp.nan)))
    assert np.all(gradient[2:] == 0) and np.all(gradient[:, 3:] == 0)
    np.testing.assert_allclose(
        gradient[:2, :3],
        jax.jit(
            jax.grad(
                lambda c: jnp.sum(
                    differentiable_plan(c, sinkhorn(c, a[:2], b[:3], epsilon=0.3, tolerance=1e-6).matrix, 0.3) ** 2
                )
            )
        )(cost[:2, :3]),
        rtol=1e-3,
        atol=1e-5,
    )


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"plan has shape \[2, 2\]"):
        differentiable_plan(jnp.ones((2, 3)), jnp.ones((2, 2)), 1.0)
    with pytest.raises(ValueError, match="epsilon is 0"):
        sinkhorn_divergence(jnp.ones((2, 3)), jnp.ones((2, 3)), epsilon=0.0)


def unmasked_cost(x0, x1):
    return jnp.sum((x0[:, None] - x1[None]) ** 2, axis=-1)


@pytest.mark.parametrize("cost_fn", [squared_euclidean_cost, euclidean_cost, cosine_cost, unmasked_cost])
def test_a_row_of_nan_and_mass_0_leaves_all_gradients_as_they_are_without_it(cost_fn):
    x0, x1 = (jnp.asarray(x, jnp.float32) for x in batches())
    a, b = jnp.full(6, 1 / 6), jnp.full(7, 1 / 7)

    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
    def divergence(x0, x1, a, b):
        return sinkhorn_divergence(x0, x1, a, b, epsilon=0.5, cost_fn=cost_fn)

    absent = jnp.full((1, 2), jnp.nan)
    value, slopes = divergence(jnp.append(x0, absent, 0), jnp.append(x1, absent, 0), jnp.append(a, 0), jnp.append(b, 0))
    expected, wanted = divergence(x0, x1, a, b)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for slope, want in zip(slopes, wanted, strict=True):
        np.testing.assert_allclose(slope[:-1], want, rtol=1e-4, atol=1e-5)
        assert np.all(slope[-1] == 0)


def test_second_derivative_of_the_value_in_the_cost_is_that_of_the_plan():
    hessian = jax.hessian(lambda cost: sinkhorn(cost, epsilon=1.0, tolerance=1e-6).value)(jnp.zeros((2, 2)))
    np.testing.assert_allclose(hessian[0, 0], [[-0.0625, 0.0625], [0.0625, -0.0625]], atol=1e-6)


def along(seed=0):
    rng = np.random.default_rng(seed)
    cost, step = rng.uniform(size=(4, 5)), rng.normal(size=(4, 5))
    a, b = rng.dirichlet(np.ones(4) * 9), rng.dirichlet(np.ones(5) * 9)
    to_a, to_b = (0.5 * (rng.dirichlet(np.ones(len(m)) * 9) - m) for m in (a, b))
    options = {"epsilon": 0.3, "tolerance": 1e-13, "max_iterations": 20_000}

    def value(t):
        return sinkhorn(cost + t * step, a + t * to_a, b + t * to_b, **options).value

    def plan(t):
        found = sinkhorn(cost + t * step, a, b, **options)
        return jnp.sum(differentiable_plan(cost + t * step, found, 0.3) ** 2)

    x0, x1 = batches(seed, 4, 5)
    move = rng.normal(size=x0.shape)

    def divergence(t):
        return sinkhorn_divergence(jnp.asarray(x0 + t * move), jnp.asarray(x1), **options)

    return {"value": value, "plan": plan, "divergence": divergence}


@pytest.mark.parametrize("name", ["value", "plan", "divergence"])
def test_first_and_second_derivatives_equal_finite_differences(name):
    with jax.enable_x64(True):
        function, step = jax.jit(along()[name]), 1e-4
        for _ in range(2):
            slope = jax.jit(jax.grad(function))
            np.testing.assert_allclose(slope(0.0), (function(step) - function(-step)) / (2 * step), rtol=1e-5)
            function = slope
        forward = jax.jit(jax.hessian(along()[name]))(0.0)
        np.testing.assert_allclose(forward, function(0.0), rtol=1e-7)


def test_forbidden_pairs_and_absent_rows_have_finite_second_derivatives():
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 5)), jnp.float32)
    cost = cost.at[0].set(jnp.nan).at[1, 2].set(jnp.inf)
    a = jnp.array([0.0, 0.25, 0.25, 0.5])
    hessian = jax.hessian(lambda c: sinkhorn(c, a, epsilon=0.3).value)(cost)
    assert np.all(np.isfinite(hessian)) and np.any(hessian != 0)
