"""Exact transport of unequal masses, against POT's network simplex, scipy's linear program and its own certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linprog

from minibatch_jax import coupling
from minibatch_jax.coupling import assignment, couple_transport, transport
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_transport": Case(coupling.couple_transport, draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-5),
}


solve = jax.jit(transport)


def problem(seed, n, m, empty=0.0):
    rng = np.random.default_rng(seed)
    cost = ((rng.normal(size=(n, 1, 2)) - rng.normal(size=(1, m, 2))) ** 2).sum(-1).astype(np.float32)
    a, b = rng.random(n) * (rng.random(n) >= empty), rng.random(m) * (rng.random(m) >= empty)
    a[0], b[0] = 1, 1
    return cost, (a / a.sum()).astype(np.float32), (b / b.sum()).astype(np.float32)


def emd(cost, a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return ot.emd2(a / a.sum(), b / b.sum(), cost.astype(np.float64))


@pytest.mark.parametrize("shape", [(1, 5), (6, 8), (20, 7)])
@pytest.mark.parametrize("empty", [0.0, 0.4])
def test_cost_marginals_and_potentials(shape, empty):
    for seed in range(4):
        cost, a, b = problem(seed, *shape, empty)
        found = solve(cost - 3, a, b)
        plan = np.asarray(found.matrix, np.float64)
        np.testing.assert_allclose(plan.sum(1), a, atol=3e-7)
        np.testing.assert_allclose(plan.sum(0), b, atol=3e-7)
        np.testing.assert_allclose((plan * cost).sum(), emd(cost, a, b), rtol=1e-5, atol=1e-6)
        assert plan.min() >= 0 and (plan > 0).sum() < sum(shape)
        slack = cost - 3 - np.asarray(found.row_potentials)[:, None] - np.asarray(found.column_potentials)[None, :]
        assert slack.min() > -1e-5 and np.all(np.abs(slack[plan > 0]) < 1e-5)


def test_forbidden_pairs_against_linear_programming():
    for seed in range(6):
        cost, _, _ = problem(seed, 5, 6)
        rng = np.random.default_rng(seed)
        feasible = rng.random((5, 6)) * (rng.random((5, 6)) < 0.5)
        allowed = feasible > 0
        a, b = feasible.sum(1), feasible.sum(0)
        exact_a, exact_b, a, b = a, b, a.astype(np.float32), b.astype(np.float32)
        plan = np.asarray(solve(np.where(allowed, cost, np.nan).astype(np.float32), a, b).matrix)
        rows, columns = np.kron(np.eye(5), np.ones(6)), np.kron(np.ones(5), np.eye(6))
        bounds = [(0, None if ok else 0) for ok in allowed.ravel()]
        best = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[exact_a, exact_b], bounds=bounds)
        np.testing.assert_allclose((plan * cost).sum(), best.fun, rtol=1e-5)
        assert np.all(plan[~allowed] == 0)
        np.testing.assert_array_equal(plan, solve(cost, a, b, where=allowed).matrix)


def test_as_much_as_forbidden_pairs_permit_is_moved():
    allowed = np.array([[True, False, False], [True, True, False], [False, False, False]])
    third = np.full(3, 1 / 3, np.float32)
    plan = np.asarray(solve(np.ones((3, 3), np.float32), third, third, where=allowed).matrix)
    np.testing.assert_allclose(plan.sum(), 2 / 3, rtol=1e-6)
    assert np.all(plan[~allowed] == 0)


def test_uniform_masses_give_the_assignment():
    cost, _, _ = problem(0, 16, 16)
    plan = np.asarray(transport(cost).matrix)
    np.testing.assert_allclose((plan * cost).sum(), cost[np.arange(16), assignment(cost).columns].mean(), rtol=1e-5)


def test_vmap_equals_single_calls():
    cost, a, b = (np.stack(x) for x in zip(*(problem(seed, 6, 9) for seed in range(4))))
    stacked = jax.jit(jax.vmap(transport))(cost, a, b).matrix
    for i in range(4):
        np.testing.assert_allclose(stacked[i], solve(cost[i], a[i], b[i]).matrix, atol=1e-7)


def test_the_chain_keeps_the_marginals_of_its_weights():
    cost, _, _ = problem(0, 6, 7)
    weights = np.random.default_rng(1).random((6, 7)).astype(np.float32)
    weights[2], weights[:, 3] = 0, 0
    tx = couple_transport()
    plan = np.asarray(tx.update(jnp.asarray(weights), tx.init(jnp.asarray(weights)), cost=jnp.asarray(cost))[0])
    np.testing.assert_allclose(plan.sum(1), weights.sum(1), atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), weights.sum(0), atol=1e-6)
    assert (plan * cost).sum() < 0.8 * (weights * cost).sum()


@pytest.mark.parametrize("start", [False, True])
def test_traced_masses_of_other_sums_do_not_converge_and_the_value_is_that_of_the_plan(start):
    with jax.enable_x64(True):
        cost, a, b = (np.float64(x) for x in problem(0, 5, 6))
        a, b = a / a.sum(), b / b.sum()
        init = (a, np.zeros(6)) if start else None
        run = jax.jit(lambda c, a, b: transport(c, a, b, init=init))
        found, step = run(cost, a, 1.5 * b), 1e-6 * np.random.default_rng(0).normal(size=cost.shape)
        assert not bool(found.converged) and bool(run(cost, a, b).converged)
        np.testing.assert_allclose(found.error, 1 / 3, rtol=1e-9)
        np.testing.assert_allclose(found.value, np.sum(found.matrix * cost), rtol=1e-12)
        slope = jax.jit(jax.grad(lambda c: run(c, a, 1.5 * b).value))(cost)
        np.testing.assert_array_equal(slope, found.matrix)
        change = run(cost + step, a, 1.5 * b).value - run(cost - step, a, 1.5 * b).value
        np.testing.assert_allclose(change, 2 * np.sum(slope * step), rtol=1e-5)


def drifted(seed, n, m):
    """A problem, and its costs after 1 % of the rows have moved."""
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    moved = x0.copy()
    moved[rng.choice(n, max(1, n // 100), replace=False)] += 0.5
    costs = [np.sum((x[:, None] - x1[None]) ** 2, -1).astype(np.float32) for x in (x0, moved)]
    return *costs, *problem(seed, n, m)[1:]


def test_a_warm_start_gives_the_same_value_in_fewer_pivots():
    cold, warm = 0, 0
    for seed in range(3):
        first, second, a, b = drifted(seed, 60, 70)
        before, expected = solve(first, a, b), solve(second, a, b)
        found = solve(second, a, b, init=before)
        assert float(found.error) == 0 and bool(found.converged)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-6)
        cold, warm = cold + int(expected.iterations), warm + int(found.iterations)
    print(f"pivots of three problems of which 1 % moved, Sinkhorn's iterations saved too: cold {cold}, warm {warm}")
    assert warm < 0.9 * cold


@pytest.mark.parametrize("forbidden", [0.0, 0.5])
def test_any_start_gives_the_same_value(forbidden):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        feasible = rng.random((7, 9)) * (rng.random((7, 9)) >= forbidden)
        a, b = feasible.sum(1), feasible.sum(0)
        a, b = (x.astype(np.float32) / np.float32(a.sum()) for x in (a, b))
        cost, where = problem(seed, 7, 9)[0], feasible > 0
        expected = solve(cost, a, b, where=where)
        u, v = rng.normal(size=7).astype(np.float32), rng.normal(size=9).astype(np.float32)
        holes = np.where(rng.random(9) < 0.5, np.nan, v).astype(np.float32)
        for prices in (v, 1e6 * v, 1e6 * np.abs(v), 1e6 + v, 3e38 * np.sign(v), holes, np.full_like(v, np.nan)):
            found = solve(cost, a, b, where=where, init=(u, prices))
            np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
            np.testing.assert_allclose(found.matrix.sum(1), a, atol=1e-6)
            np.testing.assert_allclose(found.matrix.sum(0), b, atol=1e-6)
        filled = solve(cost, a, b, where=where, init=(u, np.nan_to_num(holes)))
        jax.tree.map(np.testing.assert_array_equal, solve(cost, a, b, where=where, init=(u, holes)), filled)


def test_a_coupling_with_a_warm_start_keeps_its_prices():
    first, second, a, b = drifted(0, 9, 12)
    weights = jnp.asarray(np.outer(a, b))
    tx, plain = couple_transport(warm_start=True), couple_transport()
    state = tx.init(weights)
    for cost in (first, second):
        plan, state = tx.update(weights, state, cost=jnp.asarray(cost))
        expected, report = plain.update(weights, plain.init(weights), cost=jnp.asarray(cost))
        np.testing.assert_allclose(plan, expected, atol=1e-6)
        assert bool(state.report.converged) and bool(report.converged)
    assert np.any(state.column_potentials)


def test_bad_input_raises():
    cost = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"a has shape \[3\]"):
        transport(cost, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="wanted equal masses"):
        transport(cost, np.ones(2, np.float32), np.ones(3, np.float32))
    with pytest.raises(TypeError, match="where has dtype"):
        transport(cost, where=np.ones((2, 3), np.int32))


@pytest.mark.parametrize("outlier", [1e6, 1e12, 1e18])
@pytest.mark.parametrize("uniform", [False, True])
def test_one_cost_of_another_scale_does_not_blur_the_others(outlier, uniform):
    for seed in range(3):
        cost, a, b = problem(seed, 12, 15)
        if uniform:
            a, b = np.full_like(a, 1 / 12), np.full_like(b, 1 / 15)
        cost[seed, 2 * seed] = outlier
        found = solve(cost, a, b)
        plan = np.asarray(found.matrix, np.float64)
        assert bool(found.converged) and plan[seed, 2 * seed] == 0
        np.testing.assert_allclose((plan * cost).sum(), emd(np.minimum(cost, 1e3), a, b), rtol=1e-5)


def test_long_ways_between_lines_converge():
    near = np.abs(np.arange(24)[:, None] * 30 / 24 - np.arange(30)[None]) < 1.6
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cost, feasible = rng.random((24, 30)), rng.random((24, 30)) * near
        a, b = ((feasible.sum(axis) / feasible.sum()).astype(np.float32) for axis in (1, 0))
        found = solve(cost.astype(np.float32), a, b, where=near)
        assert bool(found.converged) and int(found.iterations) < 54


def test_infinite_masses_end_and_do_not_converge():
    cost = problem(0, 3, 4)[0]
    for a, b in ((np.full(3, np.inf), np.full(4, np.inf)), (np.array([1, np.inf, 1]), np.full(4, 0.5))):
        found = solve(cost, a.astype(np.float32), b.astype(np.float32))
        assert not bool(found.converged) and np.all(np.isfinite(found.matrix))


def test_costs_of_each_device_with_masses_that_are_everywhere_the_same():
    cost, a, b = (np.stack(x) for x in zip(*(problem(seed, 6, 9) for seed in range(4))))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    prices = np.random.default_rng(0).random(b.shape).astype(np.float32)

    def one(cost, a, b, v):
        found = transport(cost[0], a[0], b[0], init=(a[0], v[0]))
        return 0.5 * (found.matrix + transport(cost[0], a[0], b[0]).matrix)[None]

    for local in ((0,), (1,), (2,), (3,)):
        args = [x if i in local else np.broadcast_to(x[0], x.shape) for i, x in enumerate((cost, a, b, prices))]
        given = [x if i in local else x[:1] for i, x in enumerate(args)]
        specs = tuple(jax.P("data") if i in local else jax.P() for i in range(4))
        found = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=jax.P("data")))(*given)
        for matrix, c, a_here, b_here in zip(found, *args[:3]):
            np.testing.assert_allclose(matrix, solve(c, a_here, b_here).matrix, atol=1e-6)
