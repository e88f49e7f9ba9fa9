"""Pairs of flow matching over several devices; those of one device are in `plans_test`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across
from minibatch_jax.coupling import couple_assignment, flow_matching_pairs


@pytest.mark.parametrize("mode", ["columns", "rows", "permutation"])
def test_under_shard_map_an_axis_makes_one_problem_of_all_parts(mode):
    rng = np.random.default_rng(3)
    x0, x1 = (jnp.asarray(rng.normal(size=(16, 2)), jnp.float32) for _ in range(2))
    coupling = couple_assignment()
    expected = flow_matching_pairs(5, x0, x1, coupling, mode=mode)

    def part(a, b):
        return flow_matching_pairs(5, a, b, coupling, mode=mode, axis_name="data")[:-1]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    found = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P("data")))(x0, x1)
    for actual, wanted in zip(found, expected[:-1]):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)
    assert sorted(np.asarray(found[3]).tolist()) == sorted(np.asarray(found[4]).tolist()) == list(range(16))


def test_under_shard_map_a_cost_of_local_columns_is_refused():
    x = jnp.ones((16, 2))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    part = lambda a, b: flow_matching_pairs(0, a, b, across("data", couple_assignment())).x0  # noqa: E731
    with pytest.raises(ValueError, match=r"cost has shape \[2, 2\] on each of 8 devices, wanted the rows"):
        jax.shard_map(part, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P("data"))(x, x)
