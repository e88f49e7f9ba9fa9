import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import logsumexp

from minibatch_jax import coupling
from minibatch_jax.coupling import (
    assignment_plan,
    couple_partial,
    couple_partial_sinkhorn,
    couple_unbalanced,
    partial_assignments,
    partial_plan,
    partial_sinkhorn,
    sinkhorn,
    unbalanced_sinkhorn,
)
from tests.case import Case
from tests.coupling import draws as drawn

CASES = {
    "couple_partial": Case(lambda: coupling.couple_partial(0.6), drawn.cost, drawn.pairs, tolerance=1e-5),
    "couple_partial_sinkhorn": Case(
        lambda: coupling.couple_partial_sinkhorn(0.6, 0.1, relative_to="mean"), drawn.cost, drawn.pairs, tolerance=1e-4
    ),
}


path = jax.jit(partial_assignments)
plan_of = jax.jit(lambda cost, mass, weights: partial_plan(cost, mass, weights).matrix)


def clouds(seed, n, m, d=3):
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    return np.sum((x0[:, None] - x1[None]) ** 2, axis=-1).astype(np.float32)


def marginals(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.2, 1, n), rng.uniform(0.2, 1, m)
    return a / a.sum(), b / b.sum()


def cheapest(cost, where, count):
    """Cost of the best `count` pairs, as one assignment with dummy rows and columns."""
    n, m = cost.shape
    padded = np.zeros((n + m - count,) * 2)
    padded[:n, :m] = np.where(where, cost, 1e5)
    padded[n:, m:] = 1e6
    rows, columns = linear_sum_assignment(padded)
    real = (rows < n) & (columns < m)
    return padded[rows, columns][real].sum()


@pytest.mark.parametrize("shape", [(7, 7), (6, 9), (9, 6), (24, 24)])
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("ties", [False, True])
def test_every_size_is_the_cheapest_of_its_size(shape, share, ties):
    for seed in range(3):
        cost = clouds(seed, *shape) - 2
        cost = np.floor(cost) if ties else cost
        where = np.random.default_rng(seed).random(shape) >= share
        found = path(cost, where=where)
        best = [cheapest(cost, where, k) for k in range(min(shape) + 1)]
        assert int(found.size) == sum(b < 1e4 for b in best) - 1
        for k in range(int(found.size) + 1):
            columns = np.asarray(found.columns[k])
            rows = np.flatnonzero(columns >= 0)
            assert len(rows) == k == len(set(columns[rows])) and np.all(where[rows, columns[rows]])
            np.testing.assert_allclose(found.costs[k], best[k], rtol=1e-5, atol=1e-5)
        assert np.all(np.diff(np.asarray(found.costs)[: int(found.size) + 1], 2) >= -1e-5)


@pytest.mark.parametrize("mass", [0.125, 0.3, 0.5, 0.6875, 0.95, 1.0])
def test_plan_costs_what_pot_says_and_is_feasible(mass):
    cost, uniform = clouds(4, 8, 8), np.full(8, 1 / 8)
    plan = np.asarray(plan_of(cost, mass, jnp.ones((8, 8)) / 64))
    expected = ot.partial.partial_wasserstein(uniform, uniform, cost.astype(np.float64), m=mass)
    np.testing.assert_allclose(np.sum(plan * cost), np.sum(expected * cost), rtol=1e-5)
    np.testing.assert_allclose(plan.sum(), mass, rtol=1e-6)
    assert plan.sum(0).max() <= 1 / 8 + 1e-7 and plan.sum(1).max() <= 1 / 8 + 1e-7


def test_plan_is_the_optimum_of_the_linear_program():
    cost, uniform = clouds(5, 7, 7), np.full(7, 1 / 7)
    rows, columns = np.kron(np.eye(7), np.ones(7)), np.kron(np.ones(7), np.eye(7))
    limits = np.concatenate([uniform, uniform])
    for mass in (0.2, 0.64):
        best = linprog(cost.ravel(), np.vstack([rows, columns]), limits, np.ones((1, 49)), [mass]).fun
        plan = np.asarray(plan_of(cost, mass, jnp.ones((7, 7)) / 49))
        np.testing.assert_allclose(np.sum(plan * cost), best, rtol=1e-5)


of_masses = jax.jit(lambda cost, fraction, a, b: partial_plan(cost, fraction, a=a, b=b))


def unequal(seed, n, m):
    """A cost of any sign, and masses of different sums, some of them 0."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.2, 1, n), rng.uniform(0.2, 1, m)
    a[1] = b[2] = 0
    return np.float32(clouds(seed, n, m) - 2), np.float32(a / a.sum()), np.float32(1.7 * b / b.sum())


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.4, 0.9, 1.0])
def test_unequal_masses_against_pot_and_transport_with_dummies(fraction, turned):
    for seed in range(2):
        cost, a, b = unequal(seed, 6, 8)
        cost, a, b = (cost.T, b, a) if turned else (cost, a, b)
        wide = cost.astype(np.float64), a.astype(np.float64), b.astype(np.float64)
        moved = fraction * min(wide[1].sum(), wide[2].sum())
        found = of_masses(cost, fraction, a, b)
        plan = np.asarray(found.matrix, np.float64)
        expected = ot.partial.partial_wasserstein(wide[1], wide[2], wide[0] - wide[0].min(), m=moved)
        best = np.sum(expected * wide[0])
        np.testing.assert_allclose([np.sum(plan * cost), found.value], best, rtol=1e-5)
        padded = np.zeros((cost.shape[0] + 1, cost.shape[1] + 1))
        padded[:-1, :-1], padded[-1, -1] = wide[0], 1e4
        rests = np.append(wide[1], wide[2].sum() - moved), np.append(wide[2], wide[1].sum() - moved)
        np.testing.assert_allclose(found.value, ot.emd2(*rests, padded), rtol=1e-5)
        np.testing.assert_allclose(plan.sum(), moved, rtol=1e-6, atol=3e-7)
        assert np.all(plan.sum(1) <= a + 1e-6) and np.all(plan.sum(0) <= b + 1e-6)
        assert float(found.error) == 0 and bool(found.converged)
        u, v = np.asarray(found.row_potentials), np.asarray(found.column_potentials)
        assert max(u.max(), v.max()) <= 1e-6
        assert np.all(np.abs(u[plan.sum(1) < a - 1e-6]) < 1e-5) and np.all(np.abs(v[plan.sum(0) < b - 1e-6]) < 1e-5)
        rise = (u[:, None] + v - cost)[np.ix_(a > 0, b > 0)]
        np.testing.assert_allclose(rise[plan[np.ix_(a > 0, b > 0)] > 0], rise.max(), atol=1e-5)


def test_uniform_masses_give_the_plan_of_the_weights():
    cost, uniform = clouds(6, 9, 9) - 1, jnp.ones(9) / 9
    for fraction in (0.3, 4 / 9, 1.0):
        expected, found = partial_plan(cost, fraction), partial_plan(cost, fraction, a=uniform)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-6)


def test_forbidden_pairs_leave_mass_that_is_the_error():
    cost = np.ones((3, 3), np.float32)
    cost[0, 1:] = cost[1, 1:] = np.nan
    third = np.full(3, 1 / 3, np.float32)
    found = of_masses(cost, 1.0, third, third)
    np.testing.assert_allclose([found.error, np.sum(found.matrix)], [1 / 3, 2 / 3], rtol=1e-5)
    assert not bool(found.converged)
    part = of_masses(cost, 0.6, third, third)
    assert float(part.error) == 0 and bool(part.converged)
    np.testing.assert_allclose(np.sum(part.matrix), 0.6, rtol=1e-6)
    cost[2] = np.inf
    np.testing.assert_allclose(np.sum(of_masses(cost, 0.5, third, third).matrix), 1 / 6, rtol=1e-6)
    nothing = of_masses(cost, 0.5, np.zeros(3, np.float32), third)
    assert float(nothing.value) == 0 and bool(nothing.converged)


def test_the_value_of_unequal_masses_has_a_gradient_in_all_arguments():
    with jax.enable_x64(True):
        cost, a, b = (np.float64(x) for x in unequal(3, 6, 8))
        a, b = a + 0.03, b + 0.03
        value = jax.jit(lambda *x: partial_plan(x[0], x[1], a=x[2], b=x[3]).value)
        slopes = jax.jit(jax.grad(value, (0, 1, 2, 3)))(cost, 0.6, a, b)
        np.testing.assert_allclose(slopes[0], partial_plan(cost, 0.6, a=a, b=b).matrix, atol=1e-12)
        rng = np.random.default_rng(0)
        point = cost, 0.6, a, b
        for at, x in enumerate(point):
            step = 1e-6 * rng.normal(size=np.shape(x))
            up, down = ((*point[:at], x + s * step, *point[at + 1 :]) for s in (1, -1))
            np.testing.assert_allclose(value(*up) - value(*down), 2 * np.sum(slopes[at] * step), rtol=1e-5)


def test_all_mass_is_the_exact_plan_and_the_value_has_its_kinks_at_whole_pairs():
    cost, weights = clouds(6, 9, 9), jnp.ones((9, 9)) / 81
    np.testing.assert_array_equal(plan_of(cost, 1.0, weights), jax.jit(assignment_plan)(cost, weights))
    value = jax.jit(jax.vmap(lambda s: jnp.sum(partial_plan(jnp.asarray(cost), s, weights).matrix * cost)))
    masses = np.arange(1, 19) / 18
    values = np.asarray(value(masses.astype(np.float32)))
    bend = np.diff(values, 2)
    assert np.all(bend >= -1e-5)
    np.testing.assert_allclose(bend[1::2], 0, atol=2e-5)
    assert bend[0::2].sum() > 1e-2


def test_a_stack_of_masses_and_costs_under_vmap():
    costs = np.stack([clouds(seed, 6, 6) for seed in range(4)])
    masses, weights = np.float32([0.2, 0.5, 0.7, 1.0]), jnp.ones((6, 6)) / 36
    batched = jax.jit(jax.vmap(lambda *x: partial_plan(*x).matrix, (0, 0, None)))(costs, masses, weights)
    for plan, cost, mass in zip(batched, costs, masses):
        np.testing.assert_allclose(plan, plan_of(cost, mass, weights), atol=1e-7)


def test_a_traced_mass_schedule_reaches_the_transformation():
    import optax

    cost, weights = jnp.asarray(clouds(1, 6, 6)), jnp.ones((6, 6)) / 36
    tx = optax.inject_hyperparams(couple_partial)(fraction=optax.linear_schedule(0.5, 1.0, 2))
    state = tx.init(weights)
    for mass in (0.5, 0.75, 1.0):
        plan, state = tx.update(weights, state, cost=cost)
        np.testing.assert_allclose(jnp.sum(plan), mass, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.5, 0.05])
@pytest.mark.parametrize("mass", [0.3, 0.7, 1.0])
def test_entropic_plan_is_that_of_pot(mass, epsilon):
    with jax.enable_x64(True):
        cost, (a, b) = clouds(2, 6, 8).astype(np.float64), marginals(3, 6, 8)
        expected = ot.partial.entropic_partial_wasserstein(a, b, cost, epsilon, m=mass - 1e-12, numItermax=10_000)
        options = {"epsilon": epsilon, "tolerance": 1e-11, "max_iterations": 20_000}
        found = jax.jit(lambda c, a, b: partial_sinkhorn(c, mass, a, b, **options))(cost, a, b)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-8)


def test_entropic_plan_at_small_epsilon_nears_the_exact_one():
    cost, weights = clouds(7, 10, 10), jnp.ones((10, 10)) / 100
    found = jax.jit(lambda c: partial_sinkhorn(c, 0.7, epsilon=0.002, relative_to="mean", max_iterations=5000))(cost)
    assert np.all(np.isfinite(found.matrix))
    exact = np.sum(np.asarray(partial_plan(cost, 0.7, weights).matrix) * cost)
    np.testing.assert_allclose(np.sum(np.asarray(found.matrix) * cost), exact, rtol=2e-2)
    np.testing.assert_allclose(np.sum(found.matrix), 0.7, rtol=1e-4)


@pytest.mark.parametrize("mass, epsilon, iterations", [(0.3, 0.3, 60), (0.7, 0.02, 300), (1.0, 0.05, 2000)])
def test_factors_that_are_absorbed_give_the_plan_of_the_log_domain(mass, epsilon, iterations):
    """An absolute cost so large that no kernel of it could be stored, and factors over many powers of ten."""
    cost, (a, b) = clouds(8, 9, 7).astype(np.float64) + 10, marginals(9, 9, 7)
    alpha, beta, shift = np.zeros((9, 1)), np.zeros((1, 7)), 0.0
    moved, scale = mass * min(a.sum(), b.sum()), epsilon * cost.std()
    for _ in range(iterations):
        rows = logsumexp((shift - beta - cost) / scale, axis=1)
        alpha = np.maximum(0, scale * (rows - np.log(a)))[:, None]
        columns = logsumexp((shift - alpha - cost) / scale, axis=0)
        beta = np.maximum(0, scale * (columns - np.log(b)))[None]
        shift += scale * (np.log(moved) - logsumexp((shift - alpha - beta - cost) / scale))
    expected = np.exp((shift - alpha - beta - cost) / scale)
    options = {"epsilon": epsilon, "relative_to": "std", "tolerance": None, "max_iterations": iterations}
    found = jax.jit(lambda c, a, b: partial_sinkhorn(c, mass, a, b, **options).matrix)
    np.testing.assert_allclose(found(*(jnp.asarray(x, jnp.float32) for x in (cost, a, b))), expected, atol=2e-4)
    batched = jax.vmap(found)(*(jnp.asarray(np.stack([x, x]), jnp.float32) for x in (cost, a, b)))
    np.testing.assert_allclose(batched[1], expected, atol=2e-4)


@pytest.mark.filterwarnings("ignore:If reg_type = entropy:UserWarning")
@pytest.mark.parametrize("reference", ["product", "uniform"])
@pytest.mark.parametrize("rho", [0.1, 1.0, 100.0])
def test_unbalanced_plan_is_that_of_pot(rho, reference):
    with jax.enable_x64(True):
        cost, (a, b) = clouds(3, 6, 8).astype(np.float64) / 4, marginals(4, 6, 8)
        kind = {"product": "kl", "uniform": "entropy"}[reference]
        options = {"epsilon": 0.2, "rho": rho, "reference": reference, "tolerance": 1e-12, "max_iterations": 10_000}
        found = jax.jit(lambda c, a, b: unbalanced_sinkhorn(c, a, b, **options))(cost, a, b)
        expected = ot.unbalanced.sinkhorn_unbalanced(
            a, b, cost, 0.2, rho, reg_type=kind, numItermax=100_000, stopThr=1e-15
        )
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-6, atol=1e-12)


def test_the_value_in_the_documentation_of_pot():
    plan = unbalanced_sinkhorn(1 - jnp.eye(2), epsilon=1.0, rho=1.0).matrix
    np.testing.assert_allclose(plan, [[0.3220536, 0.1184769], [0.1184769, 0.3220536]], rtol=1e-4)


def test_infinite_rho_is_balanced_and_mass_scales_with_the_weights():
    cost, (a, b) = clouds(3, 6, 6), marginals(4, 6, 6)
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    free = unbalanced_sinkhorn(cost, a, b, epsilon=0.5, rho=float("inf"), tolerance=1e-6).matrix
    np.testing.assert_allclose(free, sinkhorn(cost, a, b, epsilon=0.5, tolerance=1e-6).matrix, atol=2e-6)
    one, three = (unbalanced_sinkhorn(cost, s * a, s * b, epsilon=0.5, rho=0.7).matrix for s in (1.0, 3.0))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-3, atol=1e-6)


def crossing_share(size, mass, draws=60):
    rng = np.random.default_rng(0)
    side0, side1 = rng.integers(0, 2, (2, draws, size))

    def place(side, y):
        center = np.stack([8.0 * side - 4, np.full(side.shape, y)], -1)
        return center + 0.5 * rng.normal(size=center.shape)

    x0, x1 = place(side0, 0.0), place(side1, 3.0)
    costs = np.sum((x0[:, :, None] - x1[:, None]) ** 2, -1).astype(np.float32)
    weights = jnp.ones((size, size)) / size**2
    plans = np.asarray(jax.jit(jax.vmap(lambda c: partial_plan(c, mass, weights).matrix))(costs))
    return plans[side0[:, :, None] != side1[:, None]].sum() / plans.sum()


def test_less_mass_crosses_between_clusters_when_less_is_moved():
    shares = [crossing_share(8, mass) for mass in (1.0, 0.875, 0.75, 0.5)]
    np.testing.assert_allclose(shares, [0.195, 0.106, 0.046, 0.008], atol=0.04)
    assert np.all(np.diff(shares) < 0)


@pytest.mark.parametrize("mass", [0.0, -0.5, 1.5])
def test_bad_mass_raises(mass):
    with pytest.raises(ValueError, match=f"fraction is {mass}"):
        couple_partial(mass)
    with pytest.raises(ValueError, match=f"fraction is {mass}"):
        couple_partial_sinkhorn(mass, 0.1)
    for masses in ({}, {"a": jnp.ones(2)}):
        with pytest.raises(ValueError, match=f"fraction is {mass}"):
            partial_plan(jnp.ones((2, 2)), mass, **masses)


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"rho is 0\.0"):
        couple_unbalanced(0.1, 0.0)
    with pytest.raises(ValueError, match="reference is 'entropy'"):
        couple_unbalanced(0.1, 1.0, reference="entropy")
    with pytest.raises(ValueError, match="epsilon is -1"):
        partial_sinkhorn(jnp.ones((2, 2)), 0.5, epsilon=-1)
    with pytest.raises(ValueError, match=r"weights has shape \[2, 3\]"):
        partial_plan(jnp.ones((2, 2)), 0.5, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"weights has shape \[2, 2\], wanted None where a or b is given"):
        partial_plan(jnp.ones((2, 2)), 0.5, jnp.ones((2, 2)), a=jnp.ones(2))
    with pytest.raises(ValueError, match=r"b has shape \[2\], wanted \[3\]"):
        partial_plan(jnp.ones((2, 3)), 0.5, b=jnp.ones(2))
    with pytest.raises(ValueError, match="a has a negative or non-finite mass"):
        partial_plan(jnp.ones((2, 2)), 0.5, a=jnp.array([1.0, -1.0]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_of_half_precision_do_not_round_the_costs(dtype):
    cost = (1e5 + 10 * np.random.default_rng(0).uniform(size=(8, 8))).astype(np.float32)
    weights = jnp.ones((8, 8), dtype) / 64
    np.testing.assert_array_equal(plan_of(cost, 1.0, weights), jax.jit(assignment_plan)(cost, weights))
    half, found = plan_of(cost, 0.5, weights), path(cost)
    np.testing.assert_array_equal(np.argmax(half, 1)[np.max(half, 1) > 0], found.columns[4][found.columns[4] >= 0])
