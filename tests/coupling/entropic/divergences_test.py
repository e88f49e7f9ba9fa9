import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax.coupling import differentiable_plan, sinkhorn, sinkhorn_divergence


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
