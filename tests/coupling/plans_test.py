"""What all solvers return: one structure, whether it converged, and the optimum against scipy and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from minibatch_jax import coupling, sample_pairs
from minibatch_jax.coupling import (
    differentiable_plan,
    flow_matching_pairs,
    partial_plan,
    partial_sinkhorn,
    scatter_plans,
    sharded_sinkhorn,
    sinkhorn,
    transport,
    unbalanced_sinkhorn,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.plans import Plan, Potentials, normalized_entropy, round_to_marginals
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_independent": Case(
        coupling.couple_independent, draws.nothing, draws.pairs, lowers_mass=False, tolerance=1e-6
    ),
}


SIZE = 6
UNIFORM = jnp.ones((SIZE, SIZE)) / SIZE**2

ENTROPIC = {
    "sinkhorn": lambda cost, **options: sinkhorn(cost, epsilon=0.3, **options),
    "partial_sinkhorn": lambda cost, **options: partial_sinkhorn(cost, 0.6, epsilon=0.3, **options),
    "unbalanced_sinkhorn": lambda cost, **options: unbalanced_sinkhorn(cost, epsilon=0.3, rho=1.0, **options),
}
SOLVERS = ENTROPIC | {
    "partial_plan": lambda cost: partial_plan(cost, 0.6, UNIFORM),
    "transport": transport,
}


def points(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(SIZE, 2)), jnp.float32), jnp.asarray(rng.normal(size=(SIZE, 2)), jnp.float32)


def costs(seed=0):
    return squared_euclidean_cost(*points(seed))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_returns_the_same_structure_under_jit_vmap_and_scan(name):
    solve, cost = jax.jit(SOLVERS[name]), costs()
    found = solve(cost)
    matrix, price, number = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (cost.shape, (SIZE,), ()))
    count, flag = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
    expected = Plan(matrix, price, price, number, number, count, flag)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype, False), expected
    )
    stack = jnp.stack([cost, costs(1)])
    stacked = jax.jit(jax.vmap(SOLVERS[name]))(stack)
    _, scanned = jax.jit(lambda c: jax.lax.scan(lambda old, x: (SOLVERS[name](x), old.error), found, c))(stack)
    for all_found in (stacked, jax.tree.map(lambda *x: jnp.stack(x), found, solve(stack[1]))):
        np.testing.assert_allclose(all_found.matrix[0], found.matrix, atol=1e-6)
        np.testing.assert_array_equal(all_found.converged, True)
    np.testing.assert_allclose(scanned, [found.error, found.error], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ENTROPIC)
def test_an_entropic_solver_converges_with_time_and_not_at_once(name):
    once, done = (ENTROPIC[name](costs(), max_iterations=count) for count in (1, 500))
    assert int(once.iterations) == 1 and not bool(once.converged) and once.error > 1e-3
    assert bool(done.converged) and int(done.iterations) < 500
    for count, converged in ((1, False), (200, True)):
        found = ENTROPIC[name](costs(), tolerance=None, max_iterations=count)
        assert int(found.iterations) == count and bool(found.converged) is converged


@pytest.mark.parametrize("name", ENTROPIC)
def test_the_potentials_define_the_plan(name):
    """Of a problem with a row that has no pair and costs far from 0, whose factors are absorbed on the way."""
    cost = 100 + 10 * costs().at[2].set(jnp.nan)
    found = ENTROPIC[name](cost, tolerance=None, max_iterations=300)
    f, g = np.asarray(found.row_potentials, np.float64), np.asarray(found.column_potentials, np.float64)
    reference = 1.0
    if name == "unbalanced_sinkhorn":
        a, b = np.full(SIZE, 1 / SIZE) * (np.arange(SIZE) != 2), np.full(SIZE, 1 / SIZE)
        reference = np.outer(a, b) / np.sqrt(a.sum() * b.sum())
    expected = np.nan_to_num(reference * np.exp((f[:, None] + g[None, :] - np.asarray(cost, np.float64)) / 0.3))
    np.testing.assert_allclose(found.matrix, expected, rtol=2e-3, atol=1e-6)
    assert f[2] == 0


def test_a_mass_that_forbidden_pairs_do_not_let_through_is_the_error():
    cost = jnp.ones((3, 3))
    allowed = jnp.array([[True, False, False], [True, False, False], [True, True, True]])
    third = jnp.full(3, 1 / 3)
    found = jax.jit(lambda c: transport(c, third, third, where=allowed))(cost)
    np.testing.assert_allclose(found.error, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(np.sum(found.matrix), 2 / 3, rtol=1e-6)
    assert not bool(found.converged)
    partial = jax.jit(lambda mass: partial_plan(cost, mass, allowed.astype(jnp.float32) / 9))
    part = partial(1.0)
    np.testing.assert_allclose([part.error, part.iterations], [1 / 3, 2], rtol=1e-6)
    assert not bool(part.converged)
    for mass in (0.5, 2 / 3):
        part = partial(mass)
        assert float(part.error) < 1e-6 and bool(part.converged)
    assert not bool(jax.jit(lambda c: partial_sinkhorn(c, 1.0, epsilon=0.3, where=allowed).converged)(cost))
    assert not bool(jax.jit(lambda c: sinkhorn(c, epsilon=0.3, where=allowed).converged)(cost))


def test_masses_of_unequal_sums_are_no_transport():
    solve, cost = jax.jit(transport), costs()
    found = solve(cost, jnp.full(SIZE, 1 / SIZE), jnp.full(SIZE, 2 / SIZE))
    np.testing.assert_allclose(found.error, 0.5, rtol=1e-6)
    assert not bool(found.converged)
    assert float(solve(cost).error) == 0 and bool(solve(cost).converged)
    empty = solve(cost, jnp.zeros(SIZE), jnp.zeros(SIZE))
    assert float(empty.error) == 0 and float(empty.value) == 0 and bool(empty.converged)


def test_rounding_of_a_large_transport_is_no_error():
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.2, 1, 128).astype(np.float32) for _ in range(2))
    cost = rng.uniform(size=(128, 128)).astype(np.float32)
    found = jax.jit(transport)(cost, a / a.sum(), b / b.sum())
    assert float(found.error) == 0 and bool(found.converged)


def test_the_values_of_exact_solvers_are_those_of_linear_programs():
    cost, rng = np.asarray(costs(2)) - 1, np.random.default_rng(0)
    a, b = (x / x.sum() for x in rng.uniform(0.2, 1, (2, SIZE)))
    rows, columns = np.kron(np.eye(SIZE), np.ones(SIZE)), np.kron(np.ones(SIZE), np.eye(SIZE))
    sums = np.vstack([rows, columns])
    best = linprog(cost.ravel(), A_eq=sums, b_eq=np.r_[a, b])
    found = transport(cost, np.float32(a), np.float32(b))
    np.testing.assert_allclose(found.value, best.fun, rtol=1e-5)
    limits = np.full(2 * SIZE, 1 / SIZE)
    for mass in (0.25, 0.6, 1.0):
        best = linprog(cost.ravel(), sums, limits, np.ones((1, SIZE**2)), [mass])
        np.testing.assert_allclose(partial_plan(cost, mass, UNIFORM).value, best.fun, rtol=1e-5)


def test_the_value_of_a_transport_has_the_plan_and_the_prices_as_its_gradient():
    with jax.enable_x64(True):
        cost, rng = jnp.asarray(costs(3), jnp.float64), np.random.default_rng(1)
        a, b = (jnp.asarray(x / x.sum()) for x in rng.uniform(0.2, 1, (2, SIZE)))
        value = jax.jit(lambda c, a: transport(c, a, b).value)
        dc, da = jax.jit(jax.grad(value, (0, 1)))(cost, a)
        step = rng.normal(size=cost.shape) * 1e-6
        np.testing.assert_allclose(value(cost + step, a) - value(cost - step, a), 2 * np.sum(dc * step), rtol=1e-5)
        step = np.zeros(SIZE)
        step[[1, 4]] = 1e-6, -1e-6
        np.testing.assert_allclose(value(cost, a + step) - value(cost, a - step), 2 * np.sum(da * step), rtol=1e-5)
        part = jax.jit(lambda c, s: partial_plan(c, s, UNIFORM.astype(jnp.float64)))
        slope = jax.jit(jax.grad(lambda c, s: part(c, s).value, (0, 1)))(cost, 0.6)
        found = [part(cost, s) for s in (0.6, 0.61)]
        np.testing.assert_allclose(slope[0], found[0].matrix, atol=1e-12)
        np.testing.assert_allclose(slope[1], (found[1].value - found[0].value) / 0.01, rtol=1e-8)


@pytest.mark.parametrize(("iterations", "converged"), [(1, False), (500, True)])
def test_sharded_potentials_are_those_of_the_plan(iterations, converged):
    x0, x1 = points(4)
    found = sharded_sinkhorn(x0, x1[:4], epsilon=0.3, max_iterations=iterations, block_size=2, tolerance=None)
    assert isinstance(found, Potentials) and int(found.iterations) == iterations
    assert bool(found.converged) is converged
    if converged:
        expected = sinkhorn(squared_euclidean_cost(x0, x1[:4]), epsilon=0.3, tolerance=1e-6)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
        prices = found.row[:, None] + found.column[None, :]
        sums = expected.row_potentials[:, None] + expected.column_potentials[None, :]
        np.testing.assert_allclose(prices, sums, rtol=1e-3, atol=1e-3)


def test_what_takes_a_matrix_takes_a_plan():
    (x0, x1), third = points(), jnp.full(SIZE, 1 / SIZE)
    found = jax.jit(transport)(costs())
    for mode in ("joint", "permutation"):
        jax.tree.map(
            np.testing.assert_array_equal, sample_pairs(0, found, mode=mode), sample_pairs(0, found.matrix, mode=mode)
        )
    blurred = jax.jit(lambda c: sinkhorn(c, epsilon=0.3))(costs())
    assert normalized_entropy(blurred) == normalized_entropy(blurred.matrix)
    rounded = [round_to_marginals(plan, third, third) for plan in (blurred, blurred.matrix)]
    np.testing.assert_array_equal(*rounded)
    pairs = [flow_matching_pairs(0, x0, x1, plan) for plan in (found, found.matrix)]
    jax.tree.map(np.testing.assert_array_equal, pairs[0][:-1], pairs[1][:-1])
    assert bool(pairs[0].state.converged)  # a plan tells how its solver came out, a matrix does not
    np.testing.assert_array_equal(*(differentiable_plan(costs(), p, 0.3) for p in (blurred, blurred.matrix)))
    stack = jax.jit(jax.vmap(jax.vmap(transport)))(np.stack([costs(), costs(1)])[None])
    index = jnp.arange(2 * SIZE, dtype=jnp.int32).reshape(2, SIZE)
    shape = (SIZE, 2 * SIZE)
    scattered = [scatter_plans(plans, index[:1], index, shape) for plans in (stack, stack.matrix)]
    np.testing.assert_array_equal(*scattered)
    np.testing.assert_allclose(scattered[0][:, :SIZE], found.matrix, atol=1e-7)
