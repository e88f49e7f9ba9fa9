from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax.coupling import assignment_plan, pairs_1d, sliced_permutations, sliced_plan, wasserstein_1d
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.sliced_plans import sliced_wasserstein


def sample(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, m)
    return rng.normal(size=n), rng.normal(size=m) + 1, a / a.sum(), b / b.sum()


def dense(pairs, shape):
    plan = np.zeros(shape)
    np.add.at(plan, (np.asarray(pairs.source), np.asarray(pairs.target)), np.asarray(pairs.weights))
    return plan


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5), (1, 4)])
def test_weighted_pairs_are_the_plan_of_pot(shape):
    for seed in range(3):
        x0, x1, a, b = sample(seed, *shape)
        pairs = jax.jit(pairs_1d)(*(jnp.asarray(v, jnp.float32) for v in (x0, x1, a, b)))
        np.testing.assert_allclose(dense(pairs, shape), ot.emd_1d(x0, x1, a, b), atol=1e-6)
        for p in (1.0, 2.0):
            distance = jax.jit(partial(wasserstein_1d, p=p))
            value = distance(*(jnp.asarray(v, jnp.float32) for v in (x0, x1, a, b)))
            np.testing.assert_allclose(value, ot.wasserstein_1d(x0, x1, a, b, p=p), rtol=1e-4)


def test_items_without_mass_are_in_no_pair():
    x0, x1, a, b = (jnp.asarray(v, jnp.float32) for v in sample(0, 6, 6))
    a, b = a.at[jnp.array([0, 3])].set(0), b.at[5].set(0)
    plan = dense(pairs_1d(x0, x1, a, b), (6, 6))
    np.testing.assert_allclose(plan.sum(1), a / a.sum(), atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), b / b.sum(), atol=1e-6)
    assert plan[[0, 3]].sum() == 0 and plan[:, 5].sum() == 0


def test_one_dimension_equals_the_assignment():
    rng = np.random.default_rng(0)
    x0, x1 = jnp.asarray(rng.normal(size=(2, 12, 1)), jnp.float32)

    @jax.jit
    def plans(x0, x1):
        exact = assignment_plan(squared_euclidean_cost(x0, x1), jnp.ones((12, 12)) / 144)
        sliced = sliced_plan(0, x0, x1, 3), sliced_plan(0, x0, x1, 3, mode="average")
        return exact, sliced, pairs_1d(x0[:, 0], x1[:, 0])

    expected, sliced, pairs = plans(x0, x1)
    np.testing.assert_allclose(dense(pairs, (12, 12)), expected, atol=1e-6)
    for plan in sliced:
        np.testing.assert_allclose(plan, expected, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_sliced_distance_is_that_of_pot_on_the_same_directions(p):
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    directions = np.array(jax.jit(lambda: jax.random.normal(jax.random.key(4), (20, 3)))())
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = ot.sliced_wasserstein_distance(x0, x1, projections=directions.T, p=p) ** p
    actual = jax.jit(lambda x0, x1: sliced_wasserstein(4, x0, x1, 20, p=p))(x0, x1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x0, x1 = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=(5, 2)))
        value = jax.jit(lambda x: sliced_wasserstein(0, x, x1, 8))
        step = jnp.asarray(rng.normal(size=(6, 2)))
        slope = jnp.sum(jax.grad(value)(x0) * step)
        np.testing.assert_allclose(slope, (value(x0 + 1e-6 * step) - value(x0 - 1e-6 * step)) / 2e-6, rtol=1e-5)


def test_plans_lie_between_the_exact_and_the_random_one():
    rng = np.random.default_rng(2)

    @jax.jit
    def plans(x0, x1):
        cost = squared_euclidean_cost(x0, x1)
        average, sharp = (sliced_plan(0, x0, x1, 50, mode="average", temperature=t) for t in (0.0, 1e-4))
        exact = assignment_plan(cost, jnp.ones((24, 24)) / 576)
        return cost, exact, sliced_plan(0, x0, x1, 50), average, sharp, sliced_permutations(0, x0, x1, 50)

    found = plans(*rng.normal(size=(2, 24, 2)).astype(np.float32))
    cost, exact, best, average, sharp, (columns, costs) = jax.tree.map(np.asarray, found)
    price = lambda plan: np.sum(plan * cost)  # noqa: E731
    for plan in (best, average):
        np.testing.assert_allclose(plan.sum(0), 1 / 24, rtol=1e-5)
        np.testing.assert_allclose(plan.sum(1), 1 / 24, rtol=1e-5)
    assert price(exact) <= price(best) <= price(average) < np.mean(cost)
    np.testing.assert_array_equal(np.sort(columns, axis=1), np.broadcast_to(np.arange(24), (50, 24)))
    np.testing.assert_allclose(price(best), np.min(costs), rtol=1e-5)
    np.testing.assert_allclose(costs[3], cost[np.arange(24), columns[3]].mean(), rtol=1e-4)
    np.testing.assert_allclose(sharp, best, atol=1e-6)


def test_bad_input_raises():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="mode is 'mean'"):
        sliced_plan(0, x, x, mode="mean")
    with pytest.raises(ValueError, match="num_projections is 0"):
        sliced_wasserstein(0, x, x, 0)
    with pytest.raises(ValueError, match="p is 0.5"):
        wasserstein_1d(x[:, 0], x[:, 0], p=0.5)
    with pytest.raises(ValueError, match=r"a has shape \[2\]"):
        pairs_1d(x[:, 0], x[:, 0], jnp.ones(2))


def clouds(seed, n, m, width=3):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, m)
    x0, x1 = rng.normal(size=(n, width)), rng.normal(size=(m, width)) + 1
    directions = rng.normal(size=(10, width))
    return x0, x1, a / a.sum(), b / b.sum(), directions


def single(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_distances_with_masses_and_own_projections_are_those_of_pot(p):
    x0, x1, a, b, directions = clouds(0, 7, 9)
    unit = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    y0, y1, u, v, lines = single(x0, x1, a, b, 5 * directions)
    options = {"p": p, "a": u, "b": v}
    found = jax.jit(lambda: sliced_wasserstein(None, y0, y1, projections=lines, **options))()
    expected = ot.sliced_wasserstein_distance(x0, x1, a, b, projections=unit, p=p)
    np.testing.assert_allclose(found ** (1 / p), expected, rtol=1e-4)
    found = jax.jit(lambda: sliced_wasserstein(None, y0, y1, projections=lines, reduction="max", **options))()
    expected = ot.max_sliced_wasserstein_distance(x0, x1, a, b, projections=unit, p=p)
    np.testing.assert_allclose(found ** (1 / p), expected, rtol=1e-4)


@pytest.mark.parametrize("mode", ["best", "average"])
def test_plans_of_unequal_sizes_and_masses_are_those_of_each_line(mode):
    x0, x1, a, b, directions = clouds(1, 6, 8)
    plans = [ot.emd_1d(x0 @ line, x1 @ line, a, b) for line in directions]
    squares = np.sum((x0[:, None] - x1[None]) ** 2, axis=2)
    costs = [np.sum(plan * squares) for plan in plans]
    expected = plans[int(np.argmin(costs))] if mode == "best" else np.mean(plans, axis=0)
    y0, y1, u, v, lines = single(x0, x1, a, b, directions)
    found = jax.jit(lambda: sliced_plan(None, y0, y1, mode=mode, a=u, b=v, projections=lines))()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_uniform_masses_are_the_plan_without_masses():
    x0, x1, *_, directions = clouds(2, 6, 6)
    y0, y1, lines = single(x0, x1, directions)
    for mode in ("best", "average"):
        plain = sliced_plan(None, y0, y1, mode=mode, temperature=0.3, projections=lines)
        masses = {"a": jnp.full(6, 2.0), "b": jnp.full(6, 3.0)}
        given = sliced_plan(None, y0, y1, mode=mode, temperature=0.3, projections=lines, **masses)
        np.testing.assert_allclose(given, plain, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_gradient_of_a_distance_in_the_masses_is_that_of_finite_differences(p):
    with jax.enable_x64(True):
        x0, x1, a, b = (jnp.asarray(x) for x in sample(3, 5, 7))
        value = jax.jit(partial(wasserstein_1d, p=p))
        gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(x0, x1, a, b)
        for k, (x, gradient) in enumerate(zip((x0, x1, a, b), gradients)):
            for i in range(x.size):
                sides = []
                for step in (1e-6, -1e-6):
                    args = [x0, x1, a, b]
                    args[k] = x.at[i].add(step)
                    sides.append(value(*args))
                np.testing.assert_allclose((sides[0] - sides[1]) / 2e-6, gradient[i], rtol=1e-5, atol=1e-8)


def test_bad_projections_are_named():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="projections has zeros only in row 1, wanted a direction"):
        sliced_wasserstein(None, x, x, projections=jnp.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"projections has shape \[1, 3\], wanted \[any size > 0, 2\]"):
        sliced_plan(None, x, x, projections=jnp.ones((1, 3)))
    with pytest.raises(TypeError, match="key is None"):
        sliced_permutations(None, x, x)
    with pytest.raises(ValueError, match=r"a has shape \[2\], wanted \[3\]"):
        sliced_plan(0, x, x, a=jnp.ones(2))
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        sliced_wasserstein(0, x, x, reduction="sum")
