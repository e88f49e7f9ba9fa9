import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch_jax import coupling
from minibatch_jax.coupling import couple_sinkhorn, independent_plan, sinkhorn
from minibatch_jax.coupling.plans import normalized_entropy, round_to_marginals
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_sinkhorn": Case(
        lambda: coupling.couple_sinkhorn(0.1, relative_to="mean"),
        draws.cost,
        draws.pairs,
        lowers_mass=False,
        tolerance=1e-5,
    ),
    "couple_unbalanced": Case(
        lambda: coupling.couple_unbalanced(0.1, 1.0, relative_to="mean"), draws.cost, draws.pairs, tolerance=1e-4
    ),
}


def clouds(seed, n, m, d=2):
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1
    return np.sum((x0[:, None] - x1[None]) ** 2, axis=-1)


def marginals(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.2, 1, n), rng.uniform(0.2, 1, m)
    return a / a.sum(), b / b.sum()


def f32(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def solve(cost, a, b, epsilon, **options):
    return jax.jit(lambda c, a, b: sinkhorn(c, a, b, epsilon=epsilon, **options))(cost, a, b)


@pytest.mark.parametrize("epsilon", [2.0, 0.3, 0.05])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_plan_is_that_of_pot(shape, epsilon):
    cost, (a, b) = clouds(0, *shape), marginals(1, *shape)
    expected = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=20_000)
    found = solve(*f32(cost, a, b), epsilon, tolerance=1e-6, max_iterations=5000)
    np.testing.assert_allclose(found.matrix, expected, atol=2e-6)
    f, g = np.asarray(found.row_potentials, np.float64), np.asarray(found.column_potentials, np.float64)
    np.testing.assert_allclose(np.exp((f[:, None] + g[None, :] - cost) / epsilon), found.matrix, rtol=2e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning", "ignore:Explicitly requested dtype:UserWarning")
def test_plan_and_value_are_those_of_ott():
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn as ott_sinkhorn

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        cost, (a, b) = jnp.asarray(clouds(2, 8, 11)), marginals(3, 8, 11)
        solver = ott_sinkhorn.Sinkhorn(threshold=1e-12, max_iterations=10_000)
        problem = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=0.2), a=jnp.asarray(a), b=jnp.asarray(b))
        expected = np.asarray(jax.jit(lambda p: solver(p).matrix)(problem))
        options = {"epsilon": 0.2, "tolerance": 1e-12, "max_iterations": 10_000}
        found = jax.jit(lambda c, a, b: sinkhorn(c, a, b, **options))(cost, a, b)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-8, atol=1e-12)
    divergence = np.sum(expected * np.log(expected / np.outer(a, b)))
    np.testing.assert_allclose(found.value, np.sum(expected * np.asarray(cost)) + 0.2 * divergence, rtol=1e-9)
    assert found.matrix.dtype == np.float64 and found.error <= 1e-12


def test_gradient_of_the_value_is_the_plan_and_equals_finite_differences():
    with jax.enable_x64(True):
        cost, (a, b) = jnp.asarray(clouds(4, 5, 6)), map(jnp.asarray, marginals(5, 5, 6))
        value = jax.jit(lambda c, a: sinkhorn(c, a, b, epsilon=0.3, tolerance=1e-13, max_iterations=10_000).value)
        dc, da = jax.jit(jax.grad(value, argnums=(0, 1)))(cost, a)
        options = {"epsilon": 0.3, "tolerance": 1e-13, "max_iterations": 10_000}
        plan = jax.jit(lambda c: sinkhorn(c, a, b, **options).matrix)(cost)
        np.testing.assert_allclose(dc, plan, rtol=1e-10)
        step = 1e-5
        for i, j in [(0, 0), (2, 3), (4, 5)]:
            e = np.zeros(cost.shape)
            e[i, j] = step
            np.testing.assert_allclose((value(cost + e, a) - value(cost - e, a)) / (2 * step), dc[i, j], rtol=1e-5)
        e = np.zeros(a.shape)
        e[[1, 3]] = step, -step
        slope = (value(cost, a + e) - value(cost, a - e)) / (2 * step)
        np.testing.assert_allclose(slope, da[1] - da[3], rtol=1e-6)


def test_the_plan_is_a_constant_for_the_backward_pass():
    (cost,) = f32(clouds(0, 4, 4))
    plan = jax.jit(lambda c: sinkhorn(c, epsilon=0.5).matrix)
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(plan(c) * jnp.sin(3 * c))))(cost)
    np.testing.assert_allclose(gradient, plan(cost) * 3 * np.cos(3 * np.asarray(cost)), rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.005, 0.0005])
def test_small_epsilon_stays_finite_and_nears_the_assignment(epsilon):
    cost, (a, b) = clouds(6, 16, 16), (np.full(16, 1 / 16),) * 2
    options = {"relative_to": "mean", "max_iterations": 4000, "tolerance": 1e-3}
    found = solve(*f32(cost, a, b), epsilon, **options)
    plan = np.asarray(found.matrix)
    assert np.all(np.isfinite(plan)) and np.all(np.isfinite(found.row_potentials))
    np.testing.assert_allclose(plan.sum(0), b, rtol=1e-5)
    best = ot.emd2(a, b, cost)
    rounded = np.asarray(round_to_marginals(*f32(plan, a, b)), np.float64)
    assert best - 1e-6 <= np.sum(rounded * cost) <= best * 1.02


def test_far_clusters_do_not_underflow():
    cost = np.asarray([[0.0, 1e4], [1e4, 3e4]])
    solve = jax.jit(lambda *problem: sinkhorn(*problem, epsilon=1.0, max_iterations=200))
    found = solve(*f32(cost, [0.7, 0.3], [0.7, 0.3]))
    np.testing.assert_allclose(found.matrix, [[0.4, 0.3], [0.3, 0.0]], atol=1e-3)


@pytest.mark.parametrize("relative_to", ["mean", "std", "max"])
def test_relative_epsilon_is_a_fraction_of_the_statistic_over_allowed_pairs(relative_to):
    cost = clouds(1, 6, 6)
    where = np.ones((6, 6), bool)
    where[0, 1:3] = False
    scale = getattr(cost[where], relative_to)()
    garbage = np.where(where, cost, 1e6)
    a = np.full(6, 1 / 6)
    options = {"tolerance": None, "max_iterations": 40}
    relative = solve(*f32(garbage, a, a), 0.1, where=where, relative_to=relative_to, **options)
    absolute = solve(*f32(cost, a, a), 0.1 * scale, where=where, **options)
    np.testing.assert_allclose(relative.matrix, absolute.matrix, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(relative.matrix)[~where], 0)


@pytest.mark.parametrize("relative_to", ["mean", "std", "max"])
@pytest.mark.parametrize("scale", [1e-18, 1e6, 1e36])
def test_relative_epsilon_follows_the_scale_of_costs_of_any_sign(relative_to, scale):
    cost = clouds(1, 6, 6) - 30
    a = np.full(6, 1 / 6)
    options = {"relative_to": relative_to, "tolerance": None, "max_iterations": 40}
    plain = solve(*f32(cost, a, a), 0.1, **options).matrix
    assert np.all(np.isfinite(plain)) and np.sum(plain) > 0.99
    np.testing.assert_allclose(solve(*f32(scale * cost, a, a), 0.1, **options).matrix, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_an_injected_epsilon_of_zero_is_raised_to_what_the_costs_resolve(scale):
    cost = np.float32(scale) * jnp.asarray(clouds(0, 6, 6), jnp.float32)
    tx = optax.inject_hyperparams(couple_sinkhorn, static_args="max_iterations")(epsilon=lambda step: jnp.zeros(()))
    weights = jnp.ones((6, 6)) / 36
    plan = jax.jit(tx.update)(weights, tx.init(weights), cost=cost)[0]
    np.testing.assert_allclose(np.sum(plan, axis=0), 1 / 6, rtol=1e-5)


def test_no_pair_and_no_mass_give_nothing_with_a_finite_error():
    cost = jnp.ones((3, 3))
    none = jax.jit(lambda w: sinkhorn(cost, epsilon=0.1, where=w))(jnp.zeros((3, 3), bool))
    empty = jax.jit(lambda a: sinkhorn(cost, a, a, epsilon=0.1))(jnp.zeros(3))
    for found, error in ((none, 1), (empty, 0)):
        np.testing.assert_array_equal(found.matrix, 0)
        np.testing.assert_allclose(found.error, error, rtol=1e-6)
        assert np.isfinite(found.value)


def test_where_of_integers_raises():
    with pytest.raises(TypeError, match="where has dtype int32"):
        sinkhorn(jnp.ones((2, 2)), epsilon=0.1, where=jnp.ones((2, 2), jnp.int32))


def test_zero_marginals_give_the_smaller_problem_bit_for_bit_free_of_padding():
    cost, (a, b) = clouds(7, 6, 5), marginals(8, 6, 5)
    small = solve(*f32(cost, a, b), 0.2, relative_to="mean", tolerance=None, max_iterations=60)
    padded = np.full((8, 9), np.nan)
    padded[:6, :5] = cost
    large = solve(
        *f32(padded, np.pad(a, (0, 2)), np.pad(b, (0, 4))), 0.2, relative_to="mean", tolerance=None, max_iterations=60
    )
    np.testing.assert_allclose(np.asarray(large.matrix)[:6, :5], small.matrix, atol=1e-6)
    assert np.asarray(large.matrix)[6:].sum() == 0 and np.asarray(large.matrix)[:, 5:].sum() == 0
    np.testing.assert_array_equal(np.asarray(large.row_potentials)[6:], 0)


@pytest.mark.parametrize("iterations", [1, 7, 10])
def test_fixed_count_runs_exactly_that_many(iterations):
    cost, (a, b) = clouds(0, 7, 7), marginals(0, 7, 7)
    found = solve(*f32(cost, a, b), 0.5, tolerance=None, max_iterations=iterations)
    f = np.min(cost, axis=1)
    g = np.min(cost - f[:, None], axis=0)
    kernel, v = np.exp((f[:, None] + g[None, :] - cost) / 0.5), np.ones(7)
    for _ in range(iterations):
        u = a / (kernel @ v)
        v = b / (u @ kernel)
    assert found.iterations == iterations
    np.testing.assert_allclose(found.matrix, u[:, None] * kernel * v, rtol=1e-4)
    np.testing.assert_allclose(found.error, np.abs((u[:, None] * kernel * v).sum(1) - a).sum(), rtol=1e-3, atol=1e-6)


def test_vmap_gives_what_a_loop_gives():
    costs = np.stack([clouds(0, 6, 6), 100 * clouds(1, 6, 6), np.zeros((6, 6))]).astype(np.float32)
    run = lambda c: sinkhorn(c, epsilon=0.1, max_iterations=300).matrix  # noqa: E731
    expected = np.stack([jax.jit(run)(c) for c in costs])
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(costs), expected, rtol=1e-3, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_invariances(seed):
    rng = np.random.default_rng(seed)
    cost, (a, b) = clouds(seed, 6, 6), marginals(seed, 6, 6)
    p, q = rng.permutation(6), rng.permutation(6)
    run = lambda c, a, b: np.asarray(SOLVE(*f32(c, a, b)))  # noqa: E731
    plain = run(cost, a, b)
    np.testing.assert_allclose(run(cost[p][:, q], a[p], b[q]), plain[p][:, q], atol=2e-6)
    np.testing.assert_allclose(run(cost + rng.normal(size=(6, 1)) + rng.normal(size=6), a, b), plain, atol=2e-5)
    np.testing.assert_allclose(plain.sum(0), b, rtol=1e-5)
    np.testing.assert_allclose(plain.sum(1), a, atol=2e-5)
    np.testing.assert_allclose(run(cost, 3 * a, 3 * b), 3 * plain, rtol=1e-4, atol=1e-6)


SOLVE = jax.jit(lambda c, a, b: sinkhorn(c, a, b, epsilon=0.5, tolerance=1e-5, max_iterations=50_000).matrix)


def test_transformation_takes_marginals_and_mask_from_the_weights():
    rng = np.random.default_rng(0)
    weights = rng.uniform(size=(6, 6)) * (rng.random((6, 6)) < 0.7)
    cost = clouds(3, 6, 6)
    tx = couple_sinkhorn(0.2, tolerance=1e-6, max_iterations=4000)
    w, c = f32(weights, cost)
    plan = np.asarray(jax.jit(lambda w, c: tx.update(w, tx.init(w), cost=c)[0])(w, c))
    np.testing.assert_array_equal(plan[weights == 0], 0)
    np.testing.assert_allclose(plan.sum(0), weights.sum(0), rtol=1e-4)
    np.testing.assert_allclose(plan.sum(1), weights.sum(1), rtol=1e-4)
    rows, columns = np.nonzero(plan > 1e-8)
    log_kernel = np.log(plan[rows, columns]) + cost[rows, columns] / 0.2
    design = np.concatenate([np.eye(6)[rows], np.eye(6)[columns]], axis=1)
    residual = log_kernel - design @ np.linalg.lstsq(design, log_kernel, rcond=None)[0]
    np.testing.assert_allclose(residual, 0, atol=1e-3)


def test_large_epsilon_gives_the_independent_plan():
    cost, (a, b) = clouds(0, 5, 7), marginals(0, 5, 7)
    found = jax.jit(lambda *problem: sinkhorn(*problem, epsilon=1e5))(*f32(cost, a, b))
    np.testing.assert_allclose(found.matrix, independent_plan(*f32(a, b)), rtol=1e-3)
    np.testing.assert_allclose(normalized_entropy(found.matrix), 1, atol=1e-3)


def test_rounding_is_feasible_and_near():
    a, b = marginals(0, 5, 7)
    plan = np.random.default_rng(1).uniform(size=(5, 7)) / 35
    rounded = np.asarray(round_to_marginals(*f32(plan, a, b)))
    assert rounded.min() >= 0
    np.testing.assert_allclose(rounded.sum(0), b, rtol=1e-5)
    np.testing.assert_allclose(rounded.sum(1), a, rtol=1e-5)
    error = np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()
    assert np.abs(rounded - plan).sum() <= 2 * error


def test_normalized_entropy_of_a_permutation_is_zero_and_padding_is_nothing():
    plan = np.eye(4)[[2, 0, 3, 1]]
    np.testing.assert_allclose(normalized_entropy(*f32(plan)), 0, atol=1e-6)
    mixed = np.random.default_rng(0).uniform(size=(4, 4))
    padded = np.pad(mixed, ((0, 3), (0, 2)))
    np.testing.assert_allclose(normalized_entropy(*f32(padded)), normalized_entropy(*f32(mixed)), rtol=1e-5)
    p = mixed / mixed.sum()
    h = lambda x: -np.sum(x * np.log(x))  # noqa: E731
    rows, columns = h(p.sum(1)), h(p.sum(0))
    expected = (h(p) - max(rows, columns)) / min(rows, columns)
    np.testing.assert_allclose(normalized_entropy(*f32(mixed)), expected, rtol=1e-4)


BAD = [
    ({"epsilon": -1.0}, "epsilon is -1.0"),
    ({"epsilon": 0.1, "relative_to": "median"}, "relative_to is 'median'"),
    ({"epsilon": 0.1, "max_iterations": 0}, "max_iterations is 0"),
    ({"epsilon": 0.1, "tolerance": -1.0}, "tolerance is -1.0"),
    ({"epsilon": 0.1, "a": np.ones(3, np.float32)}, r"a has shape \[3\]"),
    ({"epsilon": 0.1, "a": np.array([0.5, 0.6], np.float32)}, "a has mass 1.1.* and b has mass 1.0"),
    ({"epsilon": 0.1, "b": np.array([-0.5, 1.5], np.float32)}, "b has a negative"),
    ({"epsilon": 0.1, "b": np.array([np.nan, 0.5], np.float32)}, "b has a negative or non-finite"),
    ({"epsilon": 0.1, "where": np.ones((2, 3), bool)}, r"where has shape \[2, 3\]"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_raises(options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(jnp.ones((2, 2)), **options)


def test_traced_marginals_of_unequal_mass_keep_the_columns_and_show_the_error():
    (cost,) = f32(clouds(0, 4, 4))
    a, b = jnp.ones(4) / 4, jnp.ones(4) / 2
    found = jax.jit(lambda a, b: sinkhorn(cost, a, b, epsilon=0.5, max_iterations=50))(a, b)
    np.testing.assert_allclose(np.asarray(found.matrix).sum(0), b, rtol=1e-5)
    np.testing.assert_allclose(found.error, 1.0, rtol=1e-3)


@pytest.mark.parametrize("relative_to", ["mean", "max", "std", None])
def test_costs_at_the_edge_of_float32_give_plans(relative_to):
    """A mean that underflows, and an epsilon that does."""
    for cost in (jnp.zeros((512, 512)).at[0, 0].set(1e-35), jnp.full((2, 2), 1e-37)):
        options = {"epsilon": 0.05, "relative_to": relative_to, "max_iterations": 20}
        found = jax.jit(lambda c: sinkhorn(c, **options))(cost)  # noqa: B023
        np.testing.assert_allclose(np.sum(found.matrix, axis=0), 1 / cost.shape[0], rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_epsilon_is_a_fraction_of_a_statistic_of_the_allowed_costs(sign):
    """Costs of one sign and all allowed take a shorter way than others; both against numpy."""
    cost = np.random.default_rng(0).uniform(1, 3, (6, 7)).astype(np.float32)
    where = np.random.default_rng(1).random((6, 7)) < 0.8
    for allowed in (np.ones((6, 7), bool), where):
        kept = cost[allowed]
        for name, value in (("mean", kept.mean()), ("max", kept.max()), ("std", kept.std())):
            found = sinkhorn(sign * cost, epsilon=0.3, relative_to=name, where=allowed, max_iterations=50)
            absolute = sinkhorn(sign * cost, epsilon=0.3 * value, where=allowed, max_iterations=50)
            np.testing.assert_allclose(found.matrix, absolute.matrix, rtol=1e-4, atol=1e-6)


def drifted(seed=0, n=64, share=0.01):
    """Costs of two clouds, and of the same with one point in a hundred moved."""
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 1
    moved = x0.copy()
    moved[: max(1, int(share * n))] += rng.normal(size=(max(1, int(share * n)), 2))
    return f32(*(np.sum((x[:, None] - x1[None]) ** 2, axis=2) for x in (x0, moved)))


def test_a_warm_start_gives_the_same_plan_in_fewer_iterations():
    first, second = drifted()
    options = {"epsilon": 0.1, "tolerance": 1e-4, "max_iterations": 5000}
    step = jax.jit(lambda cost, init: sinkhorn(cost, init=init, **options))
    cold = jax.jit(lambda cost: sinkhorn(cost, **options))
    before, expected = cold(first), cold(second)
    found = step(second, before)
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-5)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    print(f"iterations of a problem of which 1 % moved: cold {expected.iterations}, warm {found.iterations}")
    assert int(found.iterations) < 0.6 * int(expected.iterations)
    assert step(first, before).iterations == 5  # the optimum itself: one check
    pair = (before.row_potentials, before.column_potentials)
    np.testing.assert_array_equal(step(second, pair).matrix, found.matrix)


def test_prices_that_are_not_finite_count_as_zero():
    cost, _ = drifted()
    prices = jnp.linspace(-1, 1, 64)
    bad = jnp.arange(64) % 3 == 0
    step = jax.jit(lambda g: sinkhorn(cost, epsilon=0.1, init=(g, g), max_iterations=50))
    expected = step(jnp.where(bad, 0, prices))
    for fill in (jnp.nan, jnp.inf, -jnp.inf):
        jax.tree.map(np.testing.assert_array_equal, step(jnp.where(bad, fill, prices)), expected)


@pytest.mark.parametrize("far", [1e3, -1e3, 1e6])
def test_a_bad_start_is_forgotten(far):
    cost, _ = drifted()
    prices = far * jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)
    options = {"epsilon": 0.5, "tolerance": 1e-4, "max_iterations": 20_000}
    found = jax.jit(lambda g: sinkhorn(cost, init=(g, g), **options))(prices)
    assert found.converged
    np.testing.assert_allclose(found.matrix, jax.jit(lambda: sinkhorn(cost, **options))().matrix, atol=1e-5)


def test_a_coupling_with_a_warm_start_keeps_its_prices():
    costs = drifted()
    weights = jnp.ones((64, 64)) / 64**2
    tx, plain = (couple_sinkhorn(0.1, tolerance=1e-4, max_iterations=5000, warm_start=w) for w in (True, False))
    state, other = tx.init(weights), plain.init(weights)
    counts = []
    for cost in costs:
        plan, state = jax.jit(tx.update)(weights, state, cost=cost)
        expected, other = jax.jit(plain.update)(weights, other, cost=cost)
        np.testing.assert_allclose(plan, expected, atol=1e-5)
        counts.append((int(state.report.iterations), int(other.iterations)))
    assert counts[0][0] <= counts[0][1] + 5 and counts[1][0] < 0.6 * counts[1][1]


def test_a_schedule_gives_the_plan_of_its_last_epsilon():
    cost, _ = drifted(1)
    fall = optax.exponential_decay(5.0, 1, 0.8, end_value=0.05)
    options = {"tolerance": 1e-4, "max_iterations": 20_000}
    found = jax.jit(lambda c: sinkhorn(c, epsilon=fall, **options))(cost)
    expected = jax.jit(lambda c: sinkhorn(c, epsilon=0.05, **options))(cost)
    assert found.converged and expected.converged
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-4)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-3)
    relative = jax.jit(lambda c: sinkhorn(100 * c, epsilon=fall, relative_to="mean", **options))(cost)
    same = jax.jit(lambda c: sinkhorn(100 * c, epsilon=0.05, relative_to="mean", **options))(cost)
    np.testing.assert_allclose(relative.matrix, same.matrix, atol=1e-4)


def test_a_schedule_converges_at_a_tiny_epsilon():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x0, x1 = rng.uniform(0, 70, size=(2, 16, 2))
        cost = jnp.asarray(np.sum((x0[:, None] - x1[None]) ** 2, axis=2))
        assert 5e3 < cost.max() < 1e4
        fall = optax.exponential_decay(1e4, 1, 0.9, end_value=1e-5)
        plan = jax.jit(lambda c: sinkhorn(c, epsilon=fall, tolerance=1e-6, max_iterations=100_000))(cost)
        cold = jax.jit(lambda c: sinkhorn(c, epsilon=1e-5, tolerance=1e-6, max_iterations=2000))(cost)
        exact = coupling.assignment_plan(cost, jnp.ones((16, 16)) / 256)
        np.testing.assert_allclose(plan.matrix, exact, atol=1e-5)
    print(f"epsilon 1e-5 at costs up to 1e4: {plan.iterations} iterations by a schedule")
    assert plan.converged and not cold.converged


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"epsilon": optax.linear_schedule(0.1, 10.1, 1000)},
            ValueError,
            r"epsilon rises from 0\.1 at iteration 0 to 0\.11",
        ),
        (
            {"epsilon": optax.linear_schedule(1.0, 0.0, 2)},
            ValueError,
            "epsilon is 0 at iteration 2, wanted a schedule above 0",
        ),
        ({"epsilon": 0.1, "init": jnp.ones(3)}, TypeError, "init is ArrayImpl, wanted a pair"),
        (
            {"epsilon": 0.1, "init": (jnp.ones(3), jnp.ones(4))},
            ValueError,
            r"init \(column potentials\) has shape \[4\], wanted \[3\]",
        ),
        ({"epsilon": 0.1, "init": (jnp.ones(2), jnp.ones(3))}, ValueError, r"init \(row potentials\) has shape \[2\]"),
    ],
)
def test_bad_starts_and_schedules_are_named(options, error, message):
    with pytest.raises(error, match=message):
        sinkhorn(jnp.ones((3, 3)), **options)
