"""The kernel in Pallas' interpret mode against scipy and against the loops, and its way into programs for a TPU."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from scipy.optimize import linear_sum_assignment

from minibatch_jax.coupling import assignment
from minibatch_jax.coupling.exact import assignments
from minibatch_jax.coupling.exact._assignment_kernel import pair_in_kernel

N, M = 24, 140
FORBIDDEN = 30.0


def squared_distances(rng, d):
    x0, x1 = rng.normal(size=(N, d)), rng.normal(size=(M, d))
    return np.sum((x0[:, None] - x1[None]) ** 2, axis=-1)


FAMILIES = {
    "points of a plane": lambda rng: squared_distances(rng, 2),
    "points of 64 dimensions": lambda rng: squared_distances(rng, 64),
    "uniform": lambda rng: rng.random((N, M)),
    "ties": lambda rng: rng.integers(0, 8, (N, M)),
    "constant": lambda rng: np.ones((N, M)),
    "product": lambda rng: np.arange(1, N + 1)[:, None] * np.arange(1, M + 1)[None] / N,
    "forbidden": lambda rng: np.where(rng.random((N, M)) < 0.3, rng.random((N, M)), FORBIDDEN),
}


@jax.jit
def pair(reduced, active, v):
    start = assignments._start(reduced, active, v)
    loops = assignments._pair_in_loops(reduced, active, *start)
    return tuple(loops), pair_in_kernel(reduced, active, *start, interpret=True)


def reduced_cost(family, seed):
    cost = FAMILIES[family](np.random.default_rng(seed)).astype(np.float32)
    return cost - cost.min(1, keepdims=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_matching_costs_what_that_of_scipy_costs_and_is_that_of_the_loops(family):
    for seed, active in enumerate((np.full(N, True), np.arange(N) % 5 > 0)):
        cost = reduced_cost(family, seed)
        loops, (columns, rows, v) = pair(cost, active, np.zeros(M, np.float32))
        for actual, expected in zip((columns, rows, v), loops):
            np.testing.assert_array_equal(actual, expected)
        i, j = linear_sum_assignment(cost[active].astype(np.float64))
        paired, columns = np.flatnonzero(active), np.asarray(columns)
        assert len(set(columns[paired])) == len(paired)
        np.testing.assert_array_equal(columns[~active], -1)
        np.testing.assert_array_equal(np.asarray(rows)[columns[paired]], paired)
        np.testing.assert_allclose(cost[paired, columns[paired]].sum(), cost[active][i, j].sum(), rtol=1e-6)


def test_it_ends_for_costs_that_are_nan():
    cost = reduced_cost("uniform", 0)
    bids, searches = cost.copy(), cost.copy()
    bids[3], searches[:, 7] = np.nan, np.nan
    start = np.full(N, -1, np.int32), np.full(M, -1, np.int32), np.zeros(M, np.float32)
    end = jax.jit(lambda c: pair_in_kernel(c, jnp.full(N, True), *start, interpret=True))
    for bad in (bids, searches, np.full_like(cost, np.nan)):
        jax.block_until_ready(end(bad))


def test_it_is_in_the_program_for_a_tpu_and_in_no_other():
    cost = jax.ShapeDtypeStruct((N, M), jnp.float32)
    for platform in ("tpu", "cuda", "rocm", "cpu"):
        text = jax.export.export(jax.jit(assignment), platforms=[platform])(cost).mlir_module()
        assert ("tpu_custom_call" in text) == (platform == "tpu")


def test_it_is_in_programs_of_shards_and_of_stacks():
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    stacks = jax.shard_map(
        jax.vmap(lambda c: assignment(c).columns), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    text = jax.jit(stacks).trace(jax.ShapeDtypeStruct((8, 20, 20), jnp.float32)).lower(lowering_platforms=("tpu",))
    assert text.as_text().count("tpu_custom_call") == 1
