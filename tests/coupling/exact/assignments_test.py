from functools import partial

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from minibatch_jax import coupling
from minibatch_jax.coupling import (
    assignment,
    assignment_plan,
    couple_assignment,
    independent_plan,
    partial_assignments,
    partial_plan,
    partial_sinkhorn,
    sinkhorn,
    transport,
    unbalanced_sinkhorn,
)
from minibatch_jax.coupling.exact import assignments
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_assignment": Case(coupling.couple_assignment, draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-6),
}


solve = jax.jit(assignment)
FORBIDDEN = 1e4


def clouds(seed, n, m, d=3):
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    return np.sum((x0[:, None] - x1[None]) ** 2, axis=-1).astype(np.float32)


def total(cost, columns):
    columns = np.asarray(columns)
    paired = np.flatnonzero(columns >= 0)
    assert len(set(columns[paired])) == len(paired)
    return cost.astype(np.float64)[paired, columns[paired]].sum(), len(paired)


def assert_optimal(cost, found):
    value, count = total(cost, found.columns)
    rows, columns = linear_sum_assignment(cost.astype(np.float64))
    assert count == len(rows)
    np.testing.assert_allclose(value, cost.astype(np.float64)[rows, columns].sum(), rtol=1e-6, atol=1e-5)
    inverse = np.full(cost.shape[1], -1)
    paired = np.flatnonzero(np.asarray(found.columns) >= 0)
    inverse[np.asarray(found.columns)[paired]] = paired
    np.testing.assert_array_equal(found.rows, inverse)


def assert_complementary_slackness(cost, found, atol=1e-4):
    slack = cost - np.asarray(found.row_potentials)[:, None] - np.asarray(found.column_potentials)[None, :]
    assert slack.min() >= -atol
    paired = np.flatnonzero(np.asarray(found.columns) >= 0)
    np.testing.assert_allclose(slack[paired, np.asarray(found.columns)[paired]], 0, atol=atol)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4), (4, 1), (2, 2), (7, 7), (33, 33), (90, 90), (5, 9), (9, 5), (20, 33), (33, 20)]
)
def test_cost_is_that_of_scipy_and_potentials_prove_it(shape):
    for seed in range(4):
        cost = clouds(seed, *shape) - 1.0
        found = solve(cost)
        assert_optimal(cost, found)
        assert_complementary_slackness(cost, found)
        loose = found.column_potentials if shape[0] < shape[1] else found.row_potentials
        free = np.asarray(found.rows if shape[0] < shape[1] else found.columns) < 0
        np.testing.assert_array_equal(np.asarray(loose)[free], 0)


@pytest.mark.parametrize("shape", [(12, 12), (12, 20), (20, 12)])
@pytest.mark.parametrize("forbidden", [0.0, 0.5])
def test_the_dearest_pairing_is_that_of_scipy(shape, forbidden):
    dearest = jax.jit(lambda cost, where: assignment(cost, where=where, maximize=True))
    for seed in range(2):
        cost, where = clouds(seed, *shape) - 3, np.random.default_rng(seed).random(shape) >= forbidden
        rows, columns = linear_sum_assignment(np.where(where, cost, -FORBIDDEN), maximize=True)
        kept = where[rows, columns]
        found = dearest(cost, where)
        value, count = total(cost, found.columns)
        assert count == kept.sum()
        np.testing.assert_allclose(value, cost[rows, columns][kept].sum(), rtol=1e-5, atol=1e-5)
        slack = np.asarray(found.row_potentials)[:, None] + np.asarray(found.column_potentials)[None, :] - cost
        assert slack[where].min() >= -1e-4
        weights = jnp.asarray(where / shape[0], jnp.float32)
        plan = assignment_plan(cost, weights, maximize=True)
        np.testing.assert_array_equal(np.argmax(plan, 1)[np.max(plan, 1) > 0], found.columns[found.columns >= 0])
        tx = couple_assignment(maximize=True)
        np.testing.assert_array_equal(tx.update(weights, tx.init(weights), cost=jnp.asarray(cost))[0], plan)


@pytest.mark.parametrize("shape", [(12, 12), (12, 20), (20, 12)])
@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_integer_costs_with_ties(shape, levels):
    for seed in range(4):
        cost = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
        assert_optimal(cost, solve(cost))


def search_from(cost, active, matching):
    """Pair the rows that are free; also the number of steps."""
    root = assignments._next_free(matching.columns, active, jnp.int32(-1))
    start = jnp.int32(0), assignments._begin(root, 0 * matching.rows, cost, active, matching)
    count, found = lax.while_loop(
        lambda t: assignments._is_searching(t[1]), lambda t: (t[0] + 1, assignments._scan(t[1])), start
    )
    return count, found.matching


@jax.jit
def count_scans(cost, potentials):
    """Steps of the search from these column potentials."""
    active = jnp.full(len(cost), True)
    matching = assignments._bid(cost, active, assignments._start(cost, active, potentials))
    return search_from(cost, active, matching)[0]


potentials_of_all = jax.jit(lambda cost: assignments._potentials(cost, jnp.full(cost.shape, True)))


@pytest.mark.parametrize("d", [2, 30])
def test_potentials_of_a_blurred_problem_spare_most_of_the_search(d):
    cost = clouds(0, 128, 128, d)
    reduced = jnp.asarray(cost - cost.min(1, keepdims=True))
    potentials = potentials_of_all(reduced)
    assert int(count_scans(reduced, potentials)) < 0.4 * int(count_scans(reduced, jnp.min(reduced, axis=0)))


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_costs_with_many_ties_need_about_one_step_a_row(levels):
    """The minima are optimal potentials here, and a free column is taken before one that has a row."""
    cost = jnp.asarray(np.random.default_rng(0).integers(0, levels, (100, 100)), jnp.float32)
    potentials = potentials_of_all(cost)
    np.testing.assert_array_equal(potentials, 0)
    assert count_scans(cost, potentials) <= 100


@pytest.mark.parametrize(
    "cost",
    [
        np.exp(3 * np.random.default_rng(0).normal(size=(40, 40))),
        np.outer(np.arange(1, 41), np.arange(1, 41)),
        clouds(0, 40, 40) + 1e3 * np.random.default_rng(0).random((40, 1)) - 1e3 * np.random.default_rng(1).random(40),
        np.where(np.random.default_rng(0).random((40, 40)) < 0.8, 1e6, clouds(1, 40, 40)),
    ],
    ids=["heavy tail", "product", "far levels", "large finite"],
)
def test_costs_of_very_unequal_sizes(cost):
    found = solve(cost.astype(np.float32))
    value, best = total(cost, found.columns)[0], total(cost, linear_sum_assignment(cost)[1])[0]
    np.testing.assert_allclose(value, best, rtol=1e-5)


def drifted(seed, n, m):
    """Costs of points in the plane, and those after 1 % of the rows have moved."""
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    moved = x0.copy()
    moved[rng.choice(n, max(1, n // 100), replace=False)] += 0.5
    return [np.sum((x[:, None] - x1[None]) ** 2, -1).astype(np.float32) for x in (x0, moved)]


@pytest.mark.parametrize("shape", [(256, 256), (64, 80), (80, 64)])
def test_a_warm_start_gives_the_same_pairs_in_fewer_steps(shape, monkeypatch):
    counts = []

    def counted(cost, active, matching):
        count, found = search_from(cost, active, matching)
        counts.append((jnp.sum(active & (matching.columns < 0)), count))
        return found

    def paired(
        cost, active, matching
    ):  # the loops alone: what a choice of the platform traces cannot be counted outside
        return counted(cost, active, assignments._bid(cost, active, matching))

    monkeypatch.setattr(assignments, "_paired", paired)

    @jax.jit
    def run(cost, init):
        counts.clear()
        return assignment(cost, init=init), counts[0]

    cold, warm = np.zeros(2, int), np.zeros(2, int)
    for seed in range(3):
        first, second = drifted(seed, *shape)
        expected, steps = run(second, None)
        cold += steps
        before = run(first, None)[0]
        found, steps = run(second, before)
        warm += steps
        assert_optimal(second, found)
        assert_complementary_slackness(second, found)
        np.testing.assert_allclose(*(total(second, x.columns)[0] for x in (found, expected)), rtol=1e-6)
    print(f"paths and steps of three problems {shape} of which 1 % moved: cold {cold}, warm {warm}")
    assert warm[1] < 0.7 * cold[1] and warm[0] < cold[0] + 10


start_from = jax.jit(lambda cost, where, init: assignment(cost, where=where, init=init))


@pytest.mark.parametrize("shape", [(9, 9), (7, 12), (12, 7)])
@pytest.mark.parametrize("forbidden", [0.0, 0.6])
def test_any_start_gives_the_cheapest_of_the_largest_pairings(shape, forbidden):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cost, where = clouds(seed, *shape) - 1, rng.random(shape) >= forbidden
        rows, columns = linear_sum_assignment(np.where(where, cost, FORBIDDEN))
        kept = where[rows, columns]
        u, v = (rng.normal(size=size).astype(np.float32) for size in shape)
        holes = np.where(rng.random(shape[1]) < 0.5, np.nan, v).astype(np.float32)
        for prices in (v, 1e6 * v, 1e6 * np.abs(v), 1e6 + v, 3e38 * np.sign(v), holes, np.full_like(v, np.nan)):
            found = start_from(cost, where, (u, prices))
            value, count = total(cost, found.columns)
            assert count == kept.sum()
            np.testing.assert_allclose(value, cost[rows, columns][kept].sum(), rtol=1e-5, atol=1e-5)
            assert_complementary_slackness(np.where(where, cost, np.inf), found)
            free = found.rows < 0 if shape[0] < shape[1] else found.columns < 0
            loose = found.column_potentials if shape[0] < shape[1] else found.row_potentials
            assert shape[0] == shape[1] or not np.any(loose[free])
        filled = start_from(cost, where, (u, np.nan_to_num(holes)))
        jax.tree.map(np.testing.assert_array_equal, start_from(cost, where, (u, holes)), filled)


def test_a_start_of_another_shape_raises():
    cost, prices = jnp.ones((2, 3)), jnp.ones(3)
    for solver in (assignment, transport):
        with pytest.raises(ValueError, match=r"init \(column potentials\) has shape \[2\], wanted \[3\]"):
            solver(cost, init=(jnp.ones(2), jnp.ones(2)))
        with pytest.raises(TypeError, match="init is ArrayImpl, wanted a pair"):
            solver(cost, init=prices)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])
def test_a_coupling_with_a_warm_start_keeps_its_prices(shape, maximize):
    weights = jnp.ones(shape) / 100
    tx, plain = (couple_assignment(maximize=maximize, warm_start=warm) for warm in (True, False))
    state = tx.init(weights)
    assert not np.any(state.column_potentials) and np.isinf(state.report.error)
    update = jax.jit(lambda state, cost: tx.update(weights, state, cost=cost))
    for seed in range(3):
        for cost in drifted(seed, *shape):
            plan, state = update(state, jnp.asarray(cost))
            expected, report = plain.update(weights, plain.init(weights), cost=jnp.asarray(cost))
            np.testing.assert_allclose(plan, expected, rtol=1e-6)
            assert int(state.report.iterations) == int(report.iterations) and bool(state.report.converged)
    assert np.any(state.column_potentials)


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_forbidden_pairs_give_the_cheapest_of_the_largest_pairings(shape, share):
    for seed in range(6):
        cost = clouds(seed, *shape)
        where = np.random.default_rng(seed).random(shape) > share
        expected = np.where(where, cost, FORBIDDEN)
        rows, columns = linear_sum_assignment(expected)
        kept = where[rows, columns]
        found = solve(cost, where=where)
        value, count = total(cost, found.columns)
        assert count == kept.sum()
        np.testing.assert_allclose(value, cost[rows, columns][kept].sum(), rtol=1e-5, atol=1e-5)
        nans = solve(np.where(where, cost, np.nan))
        np.testing.assert_array_equal(nans.columns, found.columns)


def test_as_many_as_possible_are_paired_at_equal_costs_of_any_size():
    one = jnp.zeros((3, 3), bool).at[0, 2].set(True)
    np.testing.assert_array_equal(solve(jnp.full((3, 3), 5e7), where=one).columns, [2, -1, -1])
    for seed in range(30):
        where = np.random.default_rng(seed).random((6, 6)) < 0.4
        expected = maximum_bipartite_matching(csr_matrix(where), perm_type="column")
        for cost in (0.0, 1e8, -1e8, 1e-30):
            found = solve(np.full((6, 6), cost, np.float32), where=where)
            assert np.sum(np.asarray(found.columns) >= 0) == np.sum(expected >= 0)
            assert_complementary_slackness(np.where(where, cost, np.inf), found, atol=1e-6 * abs(cost))


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**40])
@pytest.mark.parametrize("shape", [(8, 8), (6, 9)])
def test_scaled_costs_give_the_same_pairs_whatever_is_forbidden(shape, scale):
    for seed in range(6):
        cost, where = clouds(seed, *shape), np.random.default_rng(seed).random(shape) < 0.3
        found = solve(cost, where=where)
        np.testing.assert_array_equal(solve(cost * np.float32(scale), where=where).columns, found.columns)
        rows, columns = linear_sum_assignment(np.where(where, cost, FORBIDDEN))
        kept = where[rows, columns]
        np.testing.assert_allclose(total(cost, found.columns)[0], cost[rows, columns][kept].sum(), rtol=1e-5, atol=1e-6)


def test_rows_of_other_levels_compete_for_a_column():
    cost, where = np.array([[100.0, 0.0], [1.0, 0.0]], np.float32), np.array([[True, False], [True, False]])
    np.testing.assert_array_equal(solve(cost, where=where).columns, [-1, 0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_costs_of_half_precision_keep_the_mass(dtype):
    cost = jnp.asarray(1000 * clouds(0, 6, 6), dtype)
    weights = jnp.ones((6, 6)) / 36
    step = jax.jit(assignment_plan)
    plan = step(cost, weights)
    np.testing.assert_allclose(np.sum(plan), 1, rtol=1e-6)
    np.testing.assert_array_equal(plan, step(cost.astype(jnp.float32), weights))
    with pytest.raises(TypeError, match="cost has dtype int32"):
        assignment_plan(jnp.ones((2, 2), jnp.int32), jnp.ones((2, 2)))


def test_padding_gives_the_smaller_problem():
    for rows, columns in [(9, 9), (9, 6), (6, 9)]:
        cost = clouds(3, 12, 12)
        where = np.outer(np.arange(12) < rows, np.arange(12) < columns)
        found, small = solve(np.where(where, cost, 1e6), where=where), solve(cost[:rows, :columns])
        np.testing.assert_array_equal(np.asarray(found.columns)[:rows], small.columns)
        np.testing.assert_array_equal(np.asarray(found.columns)[rows:], -1)
        np.testing.assert_array_equal(np.asarray(found.rows)[columns:], -1)


@pytest.mark.parametrize("bad", [3e38, -3e38, np.inf, -np.inf, np.nan])
def test_costs_near_overflow_are_forbidden(bad):
    cost = clouds(0, 6, 6)
    cost[2] = bad
    cost[0, 1] = bad
    found = solve(cost)
    assert found.columns[2] == -1 and found.columns[0] != 1
    assert np.sum(np.asarray(found.columns) >= 0) == 5


def test_vmap_gives_what_a_loop_gives():
    costs = np.stack([clouds(0, 10, 10), np.ones((10, 10), np.float32), 100 * np.eye(10, dtype=np.float32)])
    costs = np.concatenate([costs, np.stack([np.full((10, 10), np.nan, np.float32)])])
    batched = jax.jit(jax.vmap(assignment))(costs)
    for i, cost in enumerate(costs):
        found = solve(cost)
        np.testing.assert_array_equal(batched.columns[i], found.columns)
        np.testing.assert_array_equal(batched.rows[i], found.rows)
        for actual, expected in zip(batched[2:], found[2:]):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batched.columns[-1], -1)


@pytest.mark.parametrize("shape", [(6, 6), (8, 5)])
def test_starts_under_vmap_and_on_shards(shape):
    costs, prices = np.stack([clouds(seed, *shape) for seed in range(8)]), clouds(9, 8, shape[1])
    run = lambda cost, v: assignment(cost, init=(jnp.zeros(shape[0]), v)).columns  # noqa: E731
    expected = np.stack([solve(cost).columns for cost in costs])
    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(costs, prices), expected)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    for of_prices, v in ((P("data"), prices), (P(), prices[:1])):
        shards = jax.shard_map(
            lambda c, v: run(c[0], v[0])[None], mesh=mesh, in_specs=(P("data"), of_prices), out_specs=P("data")
        )
        np.testing.assert_array_equal(jax.jit(shards)(costs, v), expected)


def test_runs_on_each_shard_by_itself():
    costs = np.stack([clouds(seed, 6, 6) for seed in range(8)])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(lambda c: assignment(c[0]).columns[None], mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(run)(costs), np.stack([solve(cost).columns for cost in costs]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_equivariant_to_permutations_and_blind_to_constants(seed):
    rng = np.random.default_rng(seed)
    cost = clouds(seed, 9, 9)
    p, q = rng.permutation(9), rng.permutation(9)
    plain = np.asarray(solve(cost).columns)
    permuted = np.asarray(solve(cost[p][:, q]).columns)
    np.testing.assert_array_equal(q[permuted], plain[p])
    shifted = cost + rng.integers(-8, 8, (9, 1)).astype(np.float32) + rng.integers(-8, 8, 9).astype(np.float32)
    np.testing.assert_array_equal(solve(shifted).columns, plain)


def test_plan_of_uniform_weights_is_optimal_transport():
    cost = clouds(5, 16, 16)
    plan = np.asarray(jax.jit(assignment_plan)(cost, jnp.ones((16, 16)) / 256))
    uniform = np.full(16, 1 / 16)
    np.testing.assert_allclose(np.sum(plan * cost), ot.emd2(uniform, uniform, cost.astype(np.float64)), rtol=1e-6)
    np.testing.assert_allclose(plan.sum(0), uniform, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(1), uniform, rtol=1e-6)


def test_float64_potentials_are_tight():
    with jax.enable_x64(True):
        cost = clouds(1, 40, 40).astype(np.float64)
        found = jax.jit(assignment)(jnp.asarray(cost))
        assert found.row_potentials.dtype == np.float64
        assert_complementary_slackness(cost, found, atol=1e-12)


def test_a_selection_and_a_class_mask_come_before():
    rng = np.random.default_rng(0)
    labels0, labels1 = np.repeat(np.arange(4), 4), rng.permutation(np.repeat(np.arange(4), 4))
    kept = np.where(np.arange(16) < 12, 1 / 12, 0).astype(np.float32)
    same_class = jnp.asarray(labels0[:, None] == labels1[None, :])
    weights = jnp.where(same_class, independent_plan(jnp.asarray(kept), jnp.ones(16) / 16), 0)
    cost = clouds(2, 16, 16)
    tx = couple_assignment()
    plan = np.asarray(tx.update(weights, tx.init(weights), cost=jnp.asarray(cost))[0])
    np.testing.assert_allclose(plan.sum(), np.asarray(weights).sum(), rtol=1e-6)
    rows, columns = np.nonzero(plan)
    np.testing.assert_array_equal(rows, np.arange(12))
    np.testing.assert_array_equal(labels0[rows], labels1[columns])
    for label in range(3):
        block = cost[labels0 == label][:, labels1 == label]
        r, c = linear_sum_assignment(block)
        mine = labels0[rows] == label
        np.testing.assert_allclose(cost[rows, columns][mine].sum(), block[r, c].sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("cost", "where", "error", "message"),
    [
        (np.ones((2, 2), np.int32), None, TypeError, "cost has dtype int32"),
        (np.ones(4, np.float32), None, ValueError, r"cost has shape \[4\]"),
        (np.ones((0, 2), np.float32), None, ValueError, r"cost has shape \[0, 2\]"),
        (np.ones((2, 2), np.float32), np.ones(2, bool), ValueError, r"where has shape \[2\]"),
        (np.ones((2, 2), np.float32), np.ones((2, 2), np.int32), TypeError, "where has dtype int32"),
    ],
)
def test_bad_input_raises(cost, where, error, message):
    with pytest.raises(error, match=message):
        assignment(cost, where=where)


@pytest.mark.parametrize("bad", [1, None, jnp.bool_(True)])
def test_maximize_is_a_python_bool(bad):
    with pytest.raises(TypeError, match="maximize is .*, wanted a Python bool"):
        assignment(jnp.ones((2, 2)), maximize=bad)


EMPTY = {
    "assignment": assignment,
    "assignment_plan": lambda cost: assignment_plan(cost, cost),
    "partial_assignments": partial_assignments,
    "partial_plan": lambda cost: partial_plan(cost, 0.5, cost),
    "transport": transport,
    "sinkhorn": partial(sinkhorn, epsilon=0.1),
    "partial_sinkhorn": partial(partial_sinkhorn, fraction=0.5, epsilon=0.1),
    "unbalanced_sinkhorn": partial(unbalanced_sinkhorn, epsilon=0.1, rho=1.0),
    "differentiable_plan": lambda cost: coupling.differentiable_plan(cost, cost, 0.1),
    "condition_aware_cost": lambda cost: coupling.condition_aware_cost(cost, cost, fraction=0.5),
}


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_cost_raises_by_name(name, shape):
    with pytest.raises(ValueError, match=rf"cost has shape \[{shape[0]}, {shape[1]}\], wanted"):
        EMPTY[name](jnp.ones(shape))


def test_cost_of_another_shape_raises():
    tx = couple_assignment()
    with pytest.raises(ValueError, match="weights has shape"):
        tx.update(jnp.ones((2, 2)), tx.init(jnp.ones((2, 2))), cost=jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("solver", "size"),
    [
        (assignment, 5),
        (partial(sinkhorn, epsilon=0.1), 5),
        (partial(sinkhorn, epsilon=0.1, tolerance=None), 6),
        (transport, 7),
        (lambda cost: assignment(cost, init=(cost[:, 0], cost[0])), 11),
        (lambda cost: transport(cost, init=(cost[:, 0], cost[0])), 12),
        (partial_assignments, 8),
        (lambda cost: partial_plan(cost, 0.5, a=cost[0]), 13),
        (partial(partial_sinkhorn, fraction=0.5, epsilon=0.1), 9),
        (partial(unbalanced_sinkhorn, epsilon=0.1, rho=1.0), 10),
    ],
)
def test_eager_calls_compile_only_once(solver, size):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    first, second = (jnp.asarray(clouds(seed, size, size)) for seed in range(2))
    solver(first)
    assert compiled
    compiled.clear()
    solver(second)
    assert not compiled
