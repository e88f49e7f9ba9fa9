"""Optima of partial and unbalanced transport: values by hand, gradients by finite differences, peers, two penalties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax.coupling import couple_unbalanced, partial_sinkhorn, unbalanced_sinkhorn

INF = float("inf")
OPTIONS = {"epsilon": 0.3, "tolerance": 1e-13, "max_iterations": 50_000}
RHOS = [0.7, (0.3, 2.0), (INF, 0.5), (0.5, INF), (INF, INF)]


def problem(seed=0, rows=5, columns=6, equal=False):
    rng = np.random.default_rng(seed)
    cost = np.sum((rng.normal(size=(rows, 1, 2)) - rng.normal(size=(columns, 2))) ** 2, axis=2)
    a, b = rng.uniform(0.2, 1, rows), rng.uniform(0.2, 1, columns)
    return cost, a / a.sum(), b / b.sum() * (1 if equal else 1.3)


def divergence(x, y):
    return np.sum(np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / y), 0) - x + y)


def unbalanced_objective(plan, cost, a, b, rhos, reference):
    beside = np.outer(a, b) / np.sqrt(a.sum() * b.sum()) if reference == "product" else np.ones_like(plan)
    terms = np.sum(plan * cost) + 0.3 * divergence(plan, beside)
    for rho, sums, mass in zip(rhos, (plan.sum(1), plan.sum(0)), (a, b)):
        terms += 0 if rho == INF else rho * divergence(sums, mass)
    return terms


@pytest.mark.parametrize("reference", ["product", "uniform"])
@pytest.mark.parametrize("rho", RHOS)
def test_the_value_of_unbalanced_transport_is_its_minimum_with_the_gradient_of_finite_differences(rho, reference):
    rhos = rho if isinstance(rho, tuple) else (rho, rho)
    with jax.enable_x64(True):
        cost, a, b = problem(equal=rhos == (INF, INF))
        solve = jax.jit(lambda c, a, b: unbalanced_sinkhorn(c, a, b, rho=rho, reference=reference, **OPTIONS))
        plan = solve(cost, a, b)
        assert plan.converged
        value = unbalanced_objective(np.asarray(plan.matrix), cost, a, b, rhos, reference)
        np.testing.assert_allclose(plan.value, value, rtol=1e-8)
        gradients = jax.jit(jax.grad(lambda *args: solve(*args).value, argnums=(0, 1, 2)))(cost, a, b)
        check_differences(lambda *args: solve(*args).value, (cost, a, b), gradients, balanced=rhos == (INF, INF))


def check_differences(value, args, gradients, balanced=False):
    """Central differences in every entry; where both masses are held, in pairs of entries that keep their sum."""
    step = 1e-5
    for k, (x, gradient) in enumerate(zip(args, gradients)):
        places = list(np.ndindex(x.shape))
        moves = [{place: step} for place in places]
        if balanced and k > 0:
            moves = [{i: step, j: -step} for i, j in itertools.pairwise(places)]
        for move in moves:
            up, down = x.copy(), x.copy()
            for place, delta in move.items():
                up[place] += delta
                down[place] -= delta
            sides = [value(*args[:k], side, *args[k + 1 :]) for side in (up, down)]
            expected = sum(gradient[place] * delta for place, delta in move.items()) / step
            np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fraction", [0.5, 0.8])
@pytest.mark.parametrize("larger", ["a", "b"])
def test_the_value_of_entropic_partial_transport_has_the_gradient_of_finite_differences(fraction, larger):
    with jax.enable_x64(True):
        cost, a, b = problem(1)
        if larger == "a":
            a, b = 1.5 * a, b / 1.3
        solve = jax.jit(lambda c, a, b: partial_sinkhorn(c, fraction, a, b, **OPTIONS))
        plan = solve(cost, a, b)
        matrix = np.asarray(plan.matrix)
        bound = np.concatenate([np.isclose(matrix.sum(1), a), np.isclose(matrix.sum(0), b)])
        assert plan.converged and np.any(bound) and not np.all(bound)
        expected = np.sum(matrix * cost) + 0.3 * np.sum(matrix * np.log(matrix))
        np.testing.assert_allclose(plan.value, expected, rtol=1e-9)
        gradients = jax.jit(jax.grad(lambda *args: solve(*args).value, argnums=(0, 1, 2)))(cost, a, b)
        check_differences(lambda *args: solve(*args).value, (cost, a, b), gradients)


@pytest.mark.filterwarnings("ignore:If reg_type = entropy:UserWarning")
@pytest.mark.parametrize("reference", ["product", "uniform"])
@pytest.mark.parametrize("rho", RHOS[:4])
def test_two_penalties_are_those_of_pot(rho, reference):
    with jax.enable_x64(True):
        cost, a, b = problem(2, equal=True)
        found = jax.jit(lambda *args: unbalanced_sinkhorn(*args, rho=rho, reference=reference, **OPTIONS))(cost, a, b)
    kind = {"product": "kl", "uniform": "entropy"}[reference]
    expected = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, 0.3, rho, reg_type=kind, numItermax=100_000, stopThr=1e-15)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-6, atol=1e-12)
    for i, price in enumerate(np.broadcast_to(rho, 2)):
        if price == INF:
            np.testing.assert_allclose(np.asarray(found.matrix).sum(1 - i), (a, b)[i], rtol=1e-8)


@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning", "ignore:Explicitly requested dtype:UserWarning")
@pytest.mark.parametrize("rho", RHOS[:4])
def test_two_penalties_are_those_of_ott(rho):
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    taus = [1.0 if price == INF else price / (price + 0.3) for price in np.broadcast_to(rho, 2)]
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        cost, a, b = problem(3)
        theirs = linear_problem.LinearProblem(
            geometry.Geometry(jnp.asarray(cost), epsilon=0.3),
            a=jnp.asarray(a),
            b=jnp.asarray(b),
            tau_a=taus[0],
            tau_b=taus[1],
        )
        solver = sinkhorn.Sinkhorn(threshold=1e-12, max_iterations=50_000)
        expected = np.asarray(jax.jit(lambda p: solver(p).matrix)(theirs))
        options = {"rho": rho, "reference": "uniform", **OPTIONS}
        found = jax.jit(lambda *args: unbalanced_sinkhorn(*args, **options))(cost, a, b)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-6, atol=1e-12)


def test_the_coupling_takes_two_penalties_and_traced_ones():
    cost, a, b = problem(4)
    weights = jnp.asarray(np.outer(a, b), jnp.float32)
    tx = couple_unbalanced(0.3, (INF, 0.2))
    plan, _ = jax.jit(tx.update)(weights, tx.init(weights), cost=jnp.asarray(cost, jnp.float32))
    np.testing.assert_allclose(plan.sum(1), weights.sum(1), rtol=1e-3)
    assert np.abs(plan.sum(0) - weights.sum(0)).max() > 0.01

    @jax.jit
    def traced(rho):
        return unbalanced_sinkhorn(jnp.asarray(cost, jnp.float32), epsilon=0.3, rho=(jnp.inf, rho)).matrix

    fixed = unbalanced_sinkhorn(jnp.asarray(cost, jnp.float32), epsilon=0.3, rho=(INF, 0.2)).matrix
    np.testing.assert_allclose(traced(0.2), fixed, rtol=1e-5, atol=1e-8)


def test_a_warm_start_of_unbalanced_transport_saves_iterations():
    cost, a, b = (jnp.asarray(x, jnp.float32) for x in problem(5, 40, 50))
    options = {"epsilon": 0.05, "rho": 5.0, "tolerance": 1e-4, "max_iterations": 5000}
    cold = jax.jit(lambda c: unbalanced_sinkhorn(c, a, b, **options))
    warm = jax.jit(lambda c, init: unbalanced_sinkhorn(c, a, b, init=init, **options))
    moved = cost.at[0].add(0.3)
    expected, found = cold(moved), warm(moved, cold(cost))
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-4)
    print(f"iterations of an unbalanced problem, one row moved: cold {expected.iterations}, warm {found.iterations}")
    assert int(found.iterations) < 0.8 * int(expected.iterations)


@pytest.mark.parametrize("name", ["unbalanced_sinkhorn", "partial_sinkhorn"])
def test_a_second_derivative_raises_and_absent_rows_have_none(name):
    solve = {
        "unbalanced_sinkhorn": lambda c, a, b: unbalanced_sinkhorn(c, a, b, epsilon=0.3, rho=1.0),
        "partial_sinkhorn": lambda c, a, b: partial_sinkhorn(c, 0.5, a, b, epsilon=0.3),
    }[name]
    cost, a, b = (jnp.asarray(x, jnp.float32) for x in problem(6))
    with pytest.raises(NotImplementedError, match=f"value of {name} is differentiated twice"):
        jax.hessian(lambda c: solve(c, a, b).value)(cost)
    slopes = jax.jit(jax.grad(lambda *args: solve(*args).value, argnums=(0, 1, 2)))
    a, b = a.at[2].set(0), b.at[1].set(0)
    expected = slopes(cost.at[2].set(0).at[:, 1].set(0), a, b)
    for fill in (jnp.nan, jnp.inf, 1e30):
        jax.tree.map(np.testing.assert_array_equal, slopes(cost.at[2].set(fill).at[:, 1].set(fill), a, b), expected)
    assert np.all(np.isfinite(expected[0])) and expected[1][2] == 0 and expected[2][1] == 0


def test_bad_penalties_are_named():
    cost = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="rho of columns is 0"):
        unbalanced_sinkhorn(cost, epsilon=0.1, rho=(1.0, 0.0))
    with pytest.raises(ValueError, match="rho has 3 entries"):
        couple_unbalanced(0.1, (1.0, 1.0, 1.0))
    with pytest.raises(TypeError, match="epsilon is <function"):
        unbalanced_sinkhorn(cost, epsilon=lambda i: 0.1, rho=1.0)
