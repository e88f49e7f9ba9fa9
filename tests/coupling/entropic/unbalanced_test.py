"""Unbalanced plans against OTT and POT, for both references, and what `relative_to` means in OTT."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from minibatch_jax.coupling import sinkhorn, unbalanced_sinkhorn

SHAPE, DRAWS = (6, 8), 4
STRENGTHS = ((0.5, 0.3), (1.0, 2.0), (0.2, 0.5))  # epsilon and rho


def problems(seed):
    """Costs and masses of any sums: of two batches, some far apart."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(DRAWS, SHAPE[0], 2)), rng.normal(size=(DRAWS, SHAPE[1], 2)) + rng.uniform(0, 2)
    cost = np.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    a, b = (rng.uniform(0.2, 1, (DRAWS, n)) * rng.uniform(0.1, 1, (DRAWS, 1)) for n in SHAPE)
    return cost, a, b


def solve(reference, epsilon, rho):
    options = {"epsilon": epsilon, "rho": rho, "tolerance": 1e-12, "max_iterations": 10_000}
    return jax.jit(jax.vmap(lambda c, a, b: unbalanced_sinkhorn(c, a, b, reference=reference, **options).matrix))


def of_ott(epsilon, rho):
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn as ott_sinkhorn

    tau = rho / (rho + epsilon)
    solver = ott_sinkhorn.Sinkhorn(threshold=1e-12, max_iterations=10_000)

    def matrix(cost, a, b):
        geom = geometry.Geometry(cost, epsilon=epsilon)
        return solver(linear_problem.LinearProblem(geom, a=a, b=b, tau_a=tau, tau_b=tau)).matrix

    return jax.jit(jax.vmap(matrix))


@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning", "ignore:Explicitly requested dtype:UserWarning")
@pytest.mark.filterwarnings("ignore:If reg_type = entropy, then the matrix c:UserWarning")
@pytest.mark.parametrize("case", range(len(STRENGTHS)))
def test_the_uniform_reference_is_that_of_ott_and_of_pots_entropy(case):
    epsilon, rho = STRENGTHS[case]
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        cost, a, b = map(jnp.asarray, problems(case))
        found = np.asarray(solve("uniform", epsilon, rho)(cost, a, b))
        np.testing.assert_allclose(found, of_ott(epsilon, rho)(cost, a, b), rtol=1e-6, atol=1e-12)
    options = {"reg_type": "entropy", "stopThr": 1e-13, "numItermax": 20_000}
    for plan, c, one, other in zip(found, *problems(case)):
        expected = ot.unbalanced.sinkhorn_unbalanced(one, other, c, epsilon, rho, **options)
        np.testing.assert_allclose(plan, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("case", range(len(STRENGTHS)))
def test_the_product_reference_is_that_of_pot_where_the_product_of_the_masses_is_1(case):
    epsilon, rho = STRENGTHS[case]
    cost, a, b = problems(case)
    a[0] /= a[0].sum() * b[0].sum()
    with jax.enable_x64(True):
        found = np.asarray(solve("product", epsilon, rho)(*map(jnp.asarray, (cost, a, b))))
    options = {"stopThr": 1e-13, "numItermax": 20_000}
    for draw in range(DRAWS):
        one, other = a[draw], b[draw]
        reference = np.outer(one, other) / np.sqrt(one.sum() * other.sum())
        of_default = ot.unbalanced.sinkhorn_unbalanced(one, other, cost[draw], epsilon, rho, **options)
        expected = ot.unbalanced.sinkhorn_unbalanced(one, other, cost[draw], epsilon, rho, c=reference, **options)
        np.testing.assert_allclose(found[draw], expected, rtol=1e-6, atol=1e-12)
        assert np.allclose(found[draw], of_default, rtol=1e-3) == (draw == 0)


@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning", "ignore:Explicitly requested dtype:UserWarning")
@pytest.mark.parametrize("unit", ["mean", "std"])
def test_relative_to_is_otts_relative_epsilon_but_for_rows_of_mass_0(unit):
    from ott.geometry import geometry

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        cost = jnp.asarray(problems(7)[0][0])
        relative = lambda c: geometry.Geometry(c, epsilon=0.3, relative_epsilon=unit).epsilon  # noqa: E731
        full, part = np.full(6, 1 / 6), np.append(np.full(5, 1 / 5), 0)
        for a, of_ott in ((full, relative(cost)), (part, relative(cost[:5]))):
            options = {"tolerance": 1e-10, "max_iterations": 5000}
            ours = sinkhorn(cost, jnp.asarray(a), epsilon=0.3, relative_to=unit, **options).matrix
            same = sinkhorn(cost, jnp.asarray(a), epsilon=of_ott, **options).matrix
            np.testing.assert_allclose(ours, same, rtol=1e-8, atol=1e-14)
        assert abs(float(relative(cost[:5]) / relative(cost)) - 1) > 1e-3
