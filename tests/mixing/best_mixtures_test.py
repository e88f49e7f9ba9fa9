"""The best mixture and the projection, against closed forms, grids and the enumeration of which caps bind."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.mixing import best_mixture, mixing_laws, project_capped_simplex
from tests.mixing.oracles import grid_of_mixtures

project, best = jax.jit(project_capped_simplex), jax.jit(best_mixture)


def law_of(scales, slopes, constant=1.0):
    scales, slopes = np.asarray(scales, np.float32), np.asarray(slopes, np.float32)
    count = len(scales)
    unknown = jnp.zeros(count)
    return mixing_laws.MixingLaw(
        jnp.full(count, constant), jnp.asarray(scales[:, None]), jnp.asarray(slopes[:, None]), unknown, unknown, unknown
    )


def nearest_by_enumeration(values, caps):
    """Nearest point: each entry is 0, at its cap, or free; the free ones share one shift."""
    best = None
    for kinds in itertools.product((0, 1, 2), repeat=len(values)):
        kinds = np.array(kinds)
        point = np.where(kinds == 1, caps, 0.0)
        free = kinds == 2
        if free.any():
            point[free] = values[free] - (values[free].sum() + point.sum() - 1) / free.sum()
        if abs(point.sum() - 1) < 1e-9 and (point >= 0).all() and (point <= caps).all():
            distance = ((point - values) ** 2).sum()
            best = point if best is None or distance < ((best - values) ** 2).sum() else best
    return best


def test_the_projection_is_the_nearest_point_of_all_choices_of_bounds():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 30.0):
        caps = rng.uniform(0.2, 0.9, 4)
        values = scale * rng.normal(size=(5, 4))
        found = project(jnp.asarray(values, jnp.float32), jnp.asarray(caps, jnp.float32))
        want = [nearest_by_enumeration(row, caps) for row in values]
        np.testing.assert_allclose(found, want, atol=1e-6 * max(1, scale))
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_a_projection_with_caps_of_one_is_that_of_optax_and_keeps_mixtures():
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        want = jax.vmap(optax.projections.projection_simplex)(rows)
    np.testing.assert_allclose(project(rows, jnp.ones(4)), want, atol=1e-6)
    mixtures = jnp.asarray(rng.dirichlet(np.ones(4), 5), jnp.float32)
    np.testing.assert_allclose(project(mixtures, jnp.ones(4)), mixtures, atol=1e-6)
    odd = project(jnp.array([jnp.nan, 0.9, jnp.inf, 0.0]), jnp.array([0.3, 1.0, 0.3, 1.0]))
    np.testing.assert_allclose(odd, [0.0, 0.95, 0.0, 0.05], atol=1e-6)


@pytest.mark.parametrize("targets", [(1.0, 1.0), (1.0, 3.0)])
def test_two_domains_have_the_closed_form(targets):
    """`k1 exp(-a x) + k2 exp(-b (1 - x))`: the derivative is 0 at `(log(k1 a / (k2 b)) + b) / (a + b)`."""
    (k1, a), (k2, b) = (2.0, 3.0), (1.0, 5.0)
    found = best(law_of([k1, k2], [[-a, 0], [0, -b]]), jnp.array(targets), jnp.ones(2))
    want = (np.log(targets[0] * k1 * a / (targets[1] * k2 * b)) + b) / (a + b)
    assert found.mixture[0] == pytest.approx(want, abs=1e-3) and found.converged
    assert found.residual < 1e-4 and found.gap <= 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_a_grid_within_the_caps_is_better(seed):
    rng = np.random.default_rng(seed)
    scales, slopes = rng.uniform(0.2, 2, 2), rng.normal(size=(2, 3)) * 3
    targets, caps = rng.uniform(0.5, 2, 2), np.array([0.35, 1.0, 0.5]) if seed % 2 else np.ones(3)
    found = best(law_of(scales, slopes), *(jnp.asarray(x, jnp.float32) for x in (targets, caps)))
    grid = grid_of_mixtures(100)
    grid = grid[(grid <= caps + 1e-9).all(axis=1)]
    losses = (1 + scales * np.exp(grid @ slopes.T)) @ targets
    assert losses.min() - 1e-3 < found.loss < losses.min() + 2e-5
    assert (found.mixture <= caps + 1e-6).all() and found.mixture.sum() == pytest.approx(1, abs=1e-5)
    assert found.converged and found.gap <= 1e-5 and found.residual < 1e-4


def test_the_gap_bounds_what_is_lost_where_the_search_is_cut_short():
    law, targets = law_of([2.0, 1.0], [[-3, 0, 1], [0, -5, 2]]), jnp.ones(2)
    short = jax.jit(best_mixture, static_argnames="max_iterations")(law, targets, jnp.ones(3), max_iterations=2)
    lost = short.loss - best(law, targets, jnp.ones(3)).loss
    assert not short.converged and 1e-4 < lost <= short.gap


def test_caps_that_cannot_be_met_are_named_or_flagged():
    law, targets, caps = law_of([1.0], [[-1.0, 0, 1]]), jnp.ones(1), jnp.array([0.2, 0.3, 0.1])
    for call in (lambda: best_mixture(law, targets, caps), lambda: project_capped_simplex(caps, caps)):
        with pytest.raises(ValueError, match=r"caps sums to 0.6, wanted at least 1: no mixture is within these caps"):
            call()
    found = best(law, targets, caps)
    assert not found.converged
    np.testing.assert_allclose(found.mixture, caps / 0.6, rtol=1e-5)


def test_a_law_without_a_slope_leaves_the_mixture_where_it_was():
    found = best(law_of([jnp.nan], [[-1.0, 0, 1]]), jnp.ones(1), jnp.array([0.2, 1, 1]))
    np.testing.assert_allclose(found.mixture, [0.2, 0.4, 0.4], rtol=1e-6)
    assert not found.converged and found.iterations < 200


def test_other_bad_input_is_named():
    law = law_of([1.0], [[-1.0, 0, 1]])
    with pytest.raises(ValueError, match=r"targets has shape \[2\], wanted \[1\]"):
        best_mixture(law, jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="tolerance is 0, wanted a number in"):
        best_mixture(law, jnp.ones(1), jnp.ones(3), tolerance=0)
    with pytest.raises(ValueError, match=r"values has shape \[2\], wanted \[3\]"):
        project_capped_simplex(jnp.ones(2), jnp.ones(3))


def test_one_domain_gets_everything():
    def predict(law, mixture):
        return jnp.sum(law * mixture)

    found = best_mixture(jnp.ones(()), jnp.ones(()), jnp.ones(1), predict=predict)
    assert found.mixture.tolist() == [1.0] and found.converged
