"""Pairs of flow matching over several devices; those of one device are in `plans_test`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across
from minibatch_jax.coupling import (
    assignment,
    condition_aware_cost,
    couple_assignment,
    couple_sinkhorn,
    couple_transport,
    flow_matching_pairs,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost


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


LABELS = np.array([0, 0, 1, 2, 1, 2, 0])


def best_within_classes(cost, labels):
    orders = [p for p in itertools.permutations(range(len(labels))) if np.array_equal(labels[list(p)], labels)]
    return min(sum(cost[i, j] for i, j in enumerate(p)) for p in orders)


def test_class_labels_pair_within_classes_at_the_least_cost():
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 7, 2)).astype(np.float32)
    pairs = flow_matching_pairs(0, x0, x1, couple_assignment(), conditions=LABELS)
    np.testing.assert_array_equal(LABELS[pairs.source], LABELS[pairs.target])
    np.testing.assert_array_equal(pairs.target, np.arange(7))
    assert sorted(np.asarray(pairs.source).tolist()) == list(range(7))
    cost = np.sum((x0[:, None] - x1) ** 2, axis=2)
    np.testing.assert_allclose(np.sum((pairs.x0 - pairs.x1) ** 2), best_within_classes(cost, LABELS), rtol=1e-5)


def test_class_labels_leave_each_row_its_mass():
    x0, x1 = np.random.default_rng(1).normal(size=(2, 7, 2)).astype(np.float32)
    for coupling in (couple_transport(), couple_sinkhorn(0.5, tolerance=1e-5)):
        draw = jax.jit(
            jax.vmap(lambda k, c=coupling: flow_matching_pairs(k, x0, x1, c, conditions=LABELS, mode="joint"))
        )
        pairs = draw(jax.random.split(jax.random.key(0), 2000))
        np.testing.assert_array_equal(LABELS[pairs.source], LABELS[pairs.target])
        for rows in (pairs.source, pairs.target):
            np.testing.assert_allclose(np.bincount(np.asarray(rows).ravel(), minlength=7) / 14_000, 1 / 7, atol=0.015)


def test_condition_vectors_cost_what_the_condition_aware_cost_says():
    rng = np.random.default_rng(2)
    x0, x1, conditions = (jnp.asarray(x) for x in rng.normal(size=(3, 7, 2)).astype(np.float32))
    apart = squared_euclidean_cost(conditions, conditions)
    cost = condition_aware_cost(squared_euclidean_cost(x0, x1), apart, fraction=0.3)
    found = flow_matching_pairs(0, x0, x1, couple_assignment(), conditions=conditions, condition_fraction=0.3)
    np.testing.assert_array_equal(np.argsort(found.source), assignment(cost).columns)
    assert not np.array_equal(found.source, flow_matching_pairs(0, x0, x1, couple_assignment()).source)


def test_conditions_that_do_not_fit_are_named():
    x = jnp.ones((7, 2))
    with pytest.raises(ValueError, match=r"conditions has shape \[6\], wanted \[7\]"):
        flow_matching_pairs(0, x, x, couple_assignment(), conditions=LABELS[1:])
    with pytest.raises(ValueError, match=r"conditions has shape \[7\], wanted \[7, any size > 0\]"):
        flow_matching_pairs(0, x, x, couple_assignment(), conditions=jnp.ones(7))
    with pytest.raises(ValueError, match="conditions are given for a coupling of type NoneType"):
        flow_matching_pairs(0, x, x, None, conditions=LABELS)
    with pytest.raises(ValueError, match="x0 of 6 and x1 of 7 items"):
        flow_matching_pairs(0, x[1:], x, couple_assignment(), conditions=LABELS)


def test_over_an_axis_conditions_are_those_of_all_parts():
    rng = np.random.default_rng(3)
    x0, x1 = (jnp.asarray(rng.normal(size=(16, 2)), jnp.float32) for _ in range(2))
    labels = jnp.asarray(rng.integers(0, 3, 16))
    expected = flow_matching_pairs(5, x0, x1, couple_assignment(), conditions=labels)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def part(a, b, c):
        return flow_matching_pairs(5, a, b, couple_assignment(), conditions=c, axis_name="data")[:-1]

    found = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x0, x1, labels)
    np.testing.assert_array_equal(found[3], expected.source)
