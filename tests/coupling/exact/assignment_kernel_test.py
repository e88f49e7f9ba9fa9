"""The kernels in Pallas' interpret mode against scipy and against the loops, and their way into programs for a TPU."""

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

from minibatch_jax import _platforms
from minibatch_jax.coupling import assignment
from minibatch_jax.coupling.exact import assignments
from minibatch_jax.coupling.exact._assignment_kernel import pair_in_kernel
from minibatch_jax.coupling.exact._assignment_stacks import pair_on_lanes, pair_stack
from tests.coupling.exact.families import FAMILIES, FORBIDDEN


def one_by_one(held):
    pair = functools.partial(pair_in_kernel, held=held, interpret=True)
    return lambda *problems: lax.map(lambda problem: pair(*problem), problems)


KERNELS = {
    "costs in the kernel": one_by_one(True),
    "costs outside": one_by_one(False),
    "lanes": functools.partial(pair_on_lanes, interpret=True),
}


def problems(n, m):
    """One problem of each family, with all rows and with some."""
    rng = np.random.default_rng(0)
    costs = np.stack([draw(rng, n, m) for draw in FAMILIES.values()]).astype(np.float32)
    active = np.stack([np.full(n, True), np.arange(n) % 5 > 0])
    costs, active = np.tile(costs, (2, 1, 1)), np.repeat(active, len(costs), axis=0)
    return costs - costs.min(2, keepdims=True), active


def empty(stack, n, m):
    """Matchings without a pair."""
    return np.full((stack, n), -1, np.int32), np.full((stack, m), -1, np.int32), np.zeros((stack, m), np.float32)


@pytest.mark.parametrize(("n", "m"), [(24, 140), (20, 20), (40, 64)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_its_matching_costs_what_that_of_scipy_costs_and_is_that_of_the_loops(kernel, n, m):
    if kernel == "lanes" and m > 128:
        n, m = 24, 128
    costs, active = problems(n, m)

    @jax.jit
    def pair(costs, active):
        potentials = jax.vmap(assignments._potentials)(costs, costs < FORBIDDEN)
        all_paired = jnp.all(active, axis=1, keepdims=True) & (n == m)
        potentials = jnp.where(all_paired, potentials, 0)
        start = jax.vmap(assignments._start)(costs, active, potentials)
        return jax.vmap(assignments._pair_in_loops)(costs, active, *start), KERNELS[kernel](costs, active, *start)

    loops, found = pair(costs, active)
    for actual, expected in zip(found, loops):
        np.testing.assert_array_equal(actual, expected)
    for cost, paired, columns, rows in zip(costs, active, *map(np.asarray, found[:2])):
        i, j = linear_sum_assignment(cost[paired].astype(np.float64))
        index = np.flatnonzero(paired)
        assert len(set(columns[index])) == len(index)
        np.testing.assert_array_equal(columns[~paired], -1)
        np.testing.assert_array_equal(rows[columns[index]], index)
        np.testing.assert_allclose(cost[index, columns[index]].sum(), cost[paired][i, j].sum(), rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_ends_for_costs_that_are_nan(kernel):
    n, m = 12, 16
    cost = problems(n, m)[0][2]
    bids, searches = cost.copy(), cost.copy()
    bids[3], searches[:, 7] = np.nan, np.nan
    bad = np.stack([bids, searches, np.full_like(cost, np.nan)])
    jax.block_until_ready(jax.jit(KERNELS[kernel])(bad, np.full((3, n), True), *empty(3, n, m)))


def test_a_stack_goes_to_lanes_if_there_are_many_small_problems():
    def kernels(*shape):
        stack, n, m = shape
        types = ((shape, jnp.float32), ((stack, n), bool), ((stack, n), jnp.int32), ((stack, m), jnp.int32))
        arguments = [jax.ShapeDtypeStruct(*x) for x in (*types, ((stack, m), jnp.float32))]
        return str(jax.make_jaxpr(pair_stack)(*arguments))

    assert "pair_on_lanes" in kernels(32, 20, 128)
    for shape in ((31, 20, 128), (32, 20, 129), (3, 1100, 1200)):
        assert "pair_on_lanes" not in kernels(*shape)
        assert "pair_in_kernel" in kernels(*shape)


def kernels_of(program, platforms, *shape):
    exported = jax.export.export(jax.jit(program), platforms=platforms)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return exported.mlir_module().count("tpu_custom_call")


def test_it_is_in_the_program_for_a_tpu_and_in_no_other():
    for platforms in (["tpu"], ["cuda"], ["rocm"], ["cpu"], ["cpu", "tpu", "cuda"]):
        assert kernels_of(assignment, platforms, 20, 24) == ("tpu" in platforms)


@pytest.mark.parametrize("stack", [(8,), (8, 9)])
def test_it_is_in_programs_of_stacks(stack):
    program = functools.reduce(lambda f, _: jax.vmap(f), stack, assignment)
    assert kernels_of(program, ["tpu"], *stack, 20, 24) == 1
    assert kernels_of(program, ["cpu"], *stack, 20, 24) == 0


def test_it_is_in_programs_of_stacks_of_any_size():
    (size,) = jax.export.symbolic_shape("size")
    for stack in ((size,), (size, 3)):
        program = functools.reduce(lambda f, _: jax.vmap(f), stack, assignment)
        assert kernels_of(program, ["tpu"], *stack, 20, 24) == 1


def test_stacks_of_which_some_arguments_have_an_axis_are_paired_as_each_problem_alone():
    rng = np.random.default_rng(0)
    costs, active = rng.random((2, 3, 9, 11)).astype(np.float32), rng.random((3, 9)) < 0.8
    start = [x[0] for x in empty(1, 9, 11)]
    inner = jax.vmap(assignments._pair, (2, 1, None, None, None))
    found = jax.jit(jax.vmap(inner, (0, None, None, None, None)))(np.moveaxis(costs, 1, 3), active.T, *start)
    for i, j in np.ndindex(2, 3):
        for actual, expected in zip(found, assignments._pair(costs[i, j], active[j], *start)):
            np.testing.assert_array_equal(actual[i, j], expected)


def test_a_stack_on_a_tpu_has_all_axes_in_one():
    def add(given, state):
        return (state + given[0],)

    def add_to_stack(given, state):
        assert given.shape == (6, 4) and state.shape == (6, 5)
        return (state + given[:, :1],)

    rng = np.random.default_rng(0)
    given, state = rng.random((2, 4)), rng.random((2, 3, 5))
    ways = _platforms.Completion(1, add, add, add_to_stack)
    for function in (_platforms._do_on_tpu, _platforms._do_everywhere):
        (found,) = function(given, state, ways=ways, levels=((True, True), (False, True)))
        np.testing.assert_allclose(found, state + given[:, None, :1], rtol=1e-6)


def test_its_loops_are_found_in_a_program():
    (eqn,) = jax.make_jaxpr(jax.vmap(assignments._pair))(*problems(6, 7), *empty(14, 6, 7)).eqns
    assert _platforms.jaxpr_everywhere(eqn).out_avals == [x.aval for x in eqn.outvars]


@pytest.mark.parametrize("shape", [(8, 20, 20), (256, 20, 20), (8, 1100, 1100)])
def test_it_is_in_programs_of_shards_of_stacks(shape):
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    stacks = jax.shard_map(
        jax.vmap(lambda c: assignment(c).columns), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    text = jax.jit(stacks).trace(jax.ShapeDtypeStruct(shape, jnp.float32)).lower(lowering_platforms=("tpu",))
    assert text.as_text().count("tpu_custom_call") == 1


def test_it_runs_where_nothing_is_compiled():
    cost = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    with jax.disable_jit():
        columns = assignment(cost).columns
    np.testing.assert_array_equal(columns, linear_sum_assignment(cost)[1])


def test_a_process_without_a_tpu_does_not_import_it(monkeypatch):
    monkeypatch.setattr(assignments, "_pair_in_kernel", lambda *_: pytest.fail("traced for no TPU"))
    jax.jit(lambda cost: assignment(cost)).lower(jax.ShapeDtypeStruct((7, 8), jnp.float32))
