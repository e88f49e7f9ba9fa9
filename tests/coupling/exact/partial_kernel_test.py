"""The kernel of the partial pairing in Pallas' interpret mode against scipy and the loops; its way into programs."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from scipy.optimize import linear_sum_assignment

from minibatch_jax.coupling import partial_assignments
from minibatch_jax.coupling.exact import _growth
from minibatch_jax.coupling.exact._partial_kernel import grow_in_kernel
from tests.coupling.exact.families import FAMILIES, FORBIDDEN


def problems(n, m):
    """One problem of each family, forbidden pairs at infinity; then one whose rows allow two columns only."""
    rng = np.random.default_rng(0)
    costs = np.stack([draw(rng, n, m) for draw in FAMILIES.values()])
    few = np.where(np.arange(m) < 2, costs[2], FORBIDDEN)
    costs = np.concatenate([costs, few[None]]).astype(np.float32)
    return np.where(costs == FORBIDDEN, np.inf, costs - costs.min((1, 2), keepdims=True))


@jax.jit
def grow(costs, pairs):
    count, n, m = costs.shape
    history = jnp.full((count, min(n, m) + 1, n), -1)
    stack = costs, jnp.broadcast_to(pairs, count), history, jnp.zeros(count, jnp.int32)
    kernel = functools.partial(grow_in_kernel, interpret=True)
    return [lax.map(lambda problem, f=f: f(*problem), stack) for f in (_growth._grow_in_loops, kernel)]


def cheapest(cost, size):
    """Cost of the best `size` pairs, as one assignment with dummy rows and columns."""
    n, m = cost.shape
    padded = np.zeros((n + m - size,) * 2)
    padded[:n, :m] = np.where(np.isfinite(cost), cost, 1e5)
    padded[n:, m:] = 1e7
    return padded[linear_sum_assignment(padded)].sum()


@pytest.mark.parametrize(("n", "m"), [(20, 140), (30, 20), (40, 40)])
def test_its_pairings_cost_what_those_of_scipy_cost_and_are_those_of_the_loops(n, m):
    costs = problems(n, m)
    for pairs in (min(n, m), 7, 0):
        loops, found = grow(costs, pairs)
        for actual, expected in zip(found, loops):
            np.testing.assert_array_equal(actual, expected)
        for k, (cost, history, size) in enumerate(zip(costs, *map(np.asarray, found))):
            assert size == min(pairs, 2 if k == len(FAMILIES) else pairs)
            for wanted in {size // 2, size}:
                rows = np.flatnonzero(history[wanted] >= 0)
                columns = history[wanted][rows]
                assert len(rows) == len(set(columns)) == wanted
                np.testing.assert_allclose(cost[rows, columns].sum(), cheapest(cost, wanted), rtol=1e-5, atol=1e-5)


def test_it_ends_for_costs_that_are_nan():
    costs = problems(10, 12)
    costs[0], costs[1, 3], costs[2, :, 5] = np.nan, np.nan, np.nan
    jax.block_until_ready(grow(costs, 10)[1])


def test_it_is_in_programs_for_a_tpu_of_one_problem_of_stacks_and_of_shards():
    def kernels(program, platforms, *shape):
        cost = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.export.export(jax.jit(program), platforms=platforms)(cost).mlir_module().count("tpu_custom_call")

    for platforms in (["tpu"], ["cpu"], ["cpu", "tpu", "cuda"]):
        assert kernels(partial_assignments, platforms, 20, 24) == ("tpu" in platforms)
    assert kernels(jax.vmap(jax.vmap(partial_assignments)), ["tpu"], 2, 3, 20, 24) == 1
    assert kernels(partial_assignments, ["tpu"], 20, 1025) == 0
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    shards = jax.shard_map(jax.vmap(partial_assignments), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    lowered = jax.jit(shards).trace(jax.ShapeDtypeStruct((8, 20, 20), jnp.float32)).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") == 1
