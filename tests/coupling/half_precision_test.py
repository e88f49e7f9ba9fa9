"""Every function and coupling in half precision computes in float32, and draws in float32."""

import importlib
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import coupling, sample_pairs
from minibatch_jax.coupling import plans
from tests.half_precision import DTYPES, check_like_float32, check_transformation, grid, public_functions

SIZE, MANY = 8, 300
COST, WEIGHTS = grid(0, SIZE, SIZE), grid(1, SIZE, SIZE, low=0.5)
BLOCKS = grid(2, 2, 2, 4, 4)
POINTS, OTHERS = grid(3, SIZE, 3, low=-2), grid(4, SIZE, 3, low=-2)
MASS, PLACES = grid(5, MANY, low=0.25), grid(6, MANY, low=-2)
MANY_COSTS, MANY_POINTS = grid(7, SIZE, MANY), grid(8, MANY, 3, low=-2)
PLAN = grid(9, MANY, MANY) * (grid(10, MANY, MANY) < 0.1)
EPSILON = {"epsilon": 0.5, "max_iterations": 20}
SHARDED = {"epsilon": 0.5, "block_size": 4}


def sinkhorn(cost):
    return coupling.sinkhorn(cost, epsilon=0.5, tolerance=None, max_iterations=20)


def kantorovich_slope(c):
    plan = c(COST / 64)
    return jax.grad(lambda x: jnp.sum(coupling.differentiable_plan(x, plan, 0.5) * WEIGHTS.astype(np.float32)))(c(COST))


FUNCTIONS = {
    "assignment": lambda c: coupling.assignment(c(COST)),
    "assignment_plan": lambda c: coupling.assignment_plan(c(COST), c(WEIGHTS)),
    "bridge_path": lambda c: coupling.bridge_path(0, c(POINTS), c(OTHERS), 0.5),
    "condition_aware_cost": lambda c: coupling.condition_aware_cost(c(COST), c(1 - np.eye(SIZE)), fraction=0.3),
    "condition_weight": lambda c: coupling.condition_weight(c(COST), c(1 - np.eye(SIZE)), fraction=0.3),
    "conditional_path": lambda c: coupling.conditional_path(0, c(POINTS), c(OTHERS), 0.5),
    "cosine_cost": lambda c: coupling.costs.cosine_cost(c(POINTS), c(OTHERS)),
    "differentiable_plan": lambda c: coupling.differentiable_plan(c(COST), c(COST / 64), 0.5),
    "euclidean_cost": lambda c: coupling.costs.euclidean_cost(c(POINTS), c(OTHERS)),
    "flow_matching_pairs": lambda c: coupling.flow_matching_pairs(0, c(POINTS), c(OTHERS), c(WEIGHTS), mode="joint"),
    "gibbs_weights": lambda c: coupling.gibbs_weights(c(MASS), c(MASS[::-1]), epsilon=0.5, relative_to="mean"),
    "grouped_sources": lambda c: coupling.grouped_sources(
        coupling.costs.squared_euclidean_cost, c(POINTS), c(OTHERS), 4
    ),
    "hierarchical_path": lambda c: coupling.hierarchical_path(0, c(POINTS), groups=(4, 4, 1)),
    "hierarchical_plan": lambda c: coupling.hierarchical_plan(
        c(BLOCKS), coupling.couple_assignment(), coupling.couple_assignment(), c(grid(11, 2, 2, low=0.5))
    ),
    "immiscible_noise": lambda c: coupling.immiscible_noise(0, c(POINTS), bits=8),
    "independent_plan": lambda c: coupling.independent_plan(c(MASS), c(MASS[::-1])),
    "nearest_noise": lambda c: coupling.nearest_noise(0, c(POINTS), 3),
    "normalized_entropy": lambda c: plans.normalized_entropy(c(PLAN)),
    "pairs_1d": lambda c: coupling.pairs_1d(c(PLACES), c(PLACES[:256]), c(MASS)),
    "partial_assignments": lambda c: coupling.partial_assignments(c(COST)),
    "partial_plan": lambda c: jax.tree.map(jnp.nan_to_num, coupling.partial_plan(c(COST), 0.3, c(WEIGHTS))),
    "partial_sinkhorn": lambda c: coupling.partial_sinkhorn(c(COST), 0.5, c(WEIGHTS[0]), c(WEIGHTS[1]), **EPSILON),
    "plan_rows": lambda c: coupling.plan_rows(
        coupling.sharded_sinkhorn(c(POINTS), c(OTHERS), max_iterations=5, **SHARDED), c(COST), 0.5
    ),
    "quantize_cost": lambda c: coupling.flows.immiscible.quantize_cost(c(COST), 8),
    "round_to_marginals": lambda c: plans.round_to_marginals(c(PLAN), c(MASS), c(MASS[::-1])),
    "scatter_plans": lambda c: coupling.scatter_plans(
        c(BLOCKS), jnp.arange(8).reshape(2, 4) % 3, jnp.arange(8).reshape(2, 4) % 5, (3, 5)
    ),
    "schroedinger_bridge_pairs": lambda c: coupling.schroedinger_bridge_pairs(
        0, c(POINTS), c(OTHERS), 1.0, max_iterations=20
    ),
    "score_weight": lambda c: coupling.score_weight(c(MASS), 0.5),
    "semidiscrete_plan": lambda c: coupling.semidiscrete_plan(c(MANY_COSTS), c(PLACES), c(MASS), epsilon=0.5),
    "sharded_sinkhorn": lambda c: coupling.sharded_sinkhorn(c(POINTS), c(OTHERS), max_iterations=5, **SHARDED),
    "sharded_targets": lambda c: coupling.sharded_targets(
        0,
        c(POINTS),
        c(OTHERS),
        coupling.sharded_sinkhorn(c(POINTS), c(OTHERS), max_iterations=5, **SHARDED),
        **SHARDED,
    ),
    "sinkhorn": lambda c: coupling.sinkhorn(c(COST), c(WEIGHTS[0]), c(WEIGHTS[0][::-1]), **EPSILON),
    "sinkhorn_divergence": lambda c: coupling.sinkhorn_divergence(c(POINTS), c(OTHERS), **EPSILON),
    "sliced_permutations": lambda c: coupling.sliced_permutations(0, c(POINTS), c(OTHERS), 3),
    "sliced_plan": lambda c: coupling.sliced_plan(0, c(POINTS), c(OTHERS), 3, mode="average", temperature=0.5),
    "sliced_wasserstein": lambda c: coupling.sliced_plans.sliced_wasserstein(0, c(POINTS), c(OTHERS), 3),
    "squared_euclidean_cost": lambda c: coupling.costs.squared_euclidean_cost(c(POINTS), c(OTHERS)),
    "transport": lambda c: coupling.transport(c(COST), c(WEIGHTS[0]), c(WEIGHTS[0][::-1])),
    "unbalanced_sinkhorn": lambda c: jax.tree.map(
        jnp.nan_to_num, coupling.unbalanced_sinkhorn(c(COST), c(WEIGHTS[0]), c(WEIGHTS[1]), rho=1.0, **EPSILON)
    ),
    "velocity_pairs": lambda c: coupling.velocity_pairs(c(POINTS[None]), c(OTHERS[None])),
    "wasserstein_1d": lambda c: coupling.wasserstein_1d(c(PLACES), c(PLACES[::-1] + 1), c(MASS), p=3.0),
}
REPORTS = {"init_report", "init_warm_start", "report_of"}
BY_A_MODEL_OF_THE_CALLER = {"hierarchical_trajectories", "hierarchical_velocities", "second_stage_path"}
KEEP_DTYPE = {
    "bridge_path",
    "conditional_path",
    "flow_matching_pairs",
    "hierarchical_path",
    "immiscible_noise",
    "nearest_noise",
    "schroedinger_bridge_pairs",
    "velocity_pairs",
}


def cases_of_couplings():
    for path in sorted(Path(__file__).parent.rglob("*_test.py")):
        if "\nCASES = {" in path.read_text():
            name = ".".join(("tests", *path.relative_to(Path(__file__).parents[1]).with_suffix("").parts))
            yield from importlib.import_module(name).CASES.items()


CASES = dict(cases_of_couplings())


def test_every_public_function_is_in_the_table():
    assert set(public_functions("coupling")) == set(FUNCTIONS) | REPORTS | BY_A_MODEL_OF_THE_CALLER


@pytest.mark.parametrize("name,dtype", list(zip(FUNCTIONS, itertools.cycle(DTYPES))))
def test_a_function_computes_in_float32(name, dtype):
    check_like_float32(FUNCTIONS[name], dtype, name in KEEP_DTYPE)


@pytest.mark.parametrize("name", CASES)
def test_a_coupling_computes_in_float32(name):
    check_transformation(CASES[name], jnp.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_a_plan_in_half_precision(dtype):
    slopes = [kantorovich_slope(lambda x, d=d: jnp.asarray(x, d)) for d in (dtype, jnp.float32)]
    assert slopes[0].dtype == dtype
    np.testing.assert_array_equal(slopes[0], slopes[1].astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_in_half_precision_is_gaussian(dtype):
    image = jnp.zeros((4096, 8), dtype)
    path = coupling.conditional_path(0, image, image, sigma=1.0).xt
    bridge = coupling.bridge_path(0, image, image, 1.0).noise
    for noise in (coupling.nearest_noise(0, image, 1), path, bridge):
        drawn = np.asarray(noise, np.float64)
        assert abs(drawn.std() - 1) < 0.01 and np.abs(drawn).max() > 3.5
        assert len(np.unique(drawn)) > 700


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_small_steps_of_a_flow_add_up(dtype):
    """A step of 1 / 1000 of the way is less than half precision can add."""
    x0 = jnp.zeros((4096, 1), dtype)
    places = coupling.hierarchical_trajectories(0, lambda s, t: 3 - s[:, 1] * 0, x0, steps=(1, 1000))
    drawn = np.asarray(places[-1], np.float64) - 3
    assert places.dtype == dtype and abs(drawn.mean()) < 0.06 and abs(drawn.std() - 1) < 0.05


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bridge_is_finite_at_its_ends(dtype):
    x0, x1 = jnp.zeros((2, 1), dtype), jnp.ones((2, 1), dtype)
    path = coupling.bridge_path(0, x0, x1, 0.5, t=jnp.array([0.0, 1.0], dtype))
    assert np.all(np.isfinite(np.asarray(path.ut, np.float64))) and path.t.dtype == jnp.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_small_masses_add_up(dtype):
    plans_of_pairs = jnp.full((64, 64, 1, 1), 1 / 4096, dtype)
    index = jnp.zeros((64, 1), int)
    assert float(coupling.scatter_plans(plans_of_pairs, index, index, (1, 1))[0, 0]) == 1
    drawn = sample_pairs(0, jnp.full((1, 400), 1 / 512, dtype), 4000)
    assert len(np.unique(drawn.target)) > 380
