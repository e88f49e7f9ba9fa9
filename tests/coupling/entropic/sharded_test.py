"""Sinkhorn in blocks: the plan of the dense solver, on one device and several, within the memory of one block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax.coupling import plan_rows, sharded_sinkhorn, sharded_targets, sinkhorn
from minibatch_jax.coupling.costs import cosine_cost, squared_euclidean_cost
from minibatch_jax.coupling.plans import Potentials


def clouds():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(32, 3)), jnp.float32), jnp.asarray(rng.normal(size=(24, 3)) + 1, jnp.float32)


@pytest.mark.parametrize("chunk", [2, 4])
def test_eight_devices_find_the_plan_of_one(chunk):
    x0, x1 = clouds()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def solve(x0, x1):
        found = sharded_sinkhorn(
            x0, x1, epsilon=0.5, max_iterations=300, block_size=chunk, tolerance=None, axis_name="data"
        )
        return found, sharded_targets(0, x0, x1, found, epsilon=0.5, block_size=chunk, axis_name="data")

    shape = jax.eval_shape(lambda: sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=1, block_size=4))
    out = type(shape)(P("data"), *(P(),) * 5), P("data")
    run = jax.jit(jax.shard_map(solve, mesh=mesh, in_specs=(P("data"), P()), out_specs=out))
    found, targets = run(x0, x1)
    cost = jax.jit(squared_euclidean_cost)(x0, x1)
    row, column = np.asarray(found.row), np.asarray(found.column)
    plan = np.exp((row[:, None] + column[None, :] - cost) / 0.5)
    whole = jax.jit(lambda cost: sinkhorn(cost, epsilon=0.5, tolerance=1e-6))(cost)
    np.testing.assert_allclose(plan, whole.matrix, atol=2e-6)
    assert found.error < 1e-4
    alone = jax.jit(lambda *x: sharded_sinkhorn(*x, epsilon=0.5, max_iterations=300, block_size=16, tolerance=None))(
        x0, x1
    )
    np.testing.assert_allclose(found.column, alone.column, rtol=1e-4, atol=1e-4)
    assert targets.shape == (32,) and np.all(plan[np.arange(32), targets] > 0)


def test_targets_follow_the_rows_of_the_plan():
    x0, x1 = (x[:4] for x in clouds())
    found = sharded_sinkhorn(x0, x1, epsilon=1.0, max_iterations=200, block_size=2)
    draw = jax.jit(jax.vmap(lambda k: sharded_targets(k, x0, x1, found, epsilon=1.0, block_size=2)))
    targets = np.asarray(draw(jax.random.split(jax.random.key(0), 8000)))
    plan = np.asarray(sinkhorn(squared_euclidean_cost(x0, x1), epsilon=1.0, tolerance=1e-6).matrix)
    for i in range(4):
        np.testing.assert_allclose(np.bincount(targets[:, i], minlength=4) / 8000, 4 * plan[i], atol=0.03)


def test_memory_holds_one_chunk_and_never_the_block_of_a_device():
    x0, x1 = jax.ShapeDtypeStruct((1024, 4), jnp.float32), jax.ShapeDtypeStruct((2048, 4), jnp.float32)
    run = jax.jit(lambda a, b: sharded_sinkhorn(a, b, epsilon=0.5, max_iterations=10, block_size=16))
    memory = run.lower(x0, x1).compile().memory_analysis().temp_size_in_bytes
    assert memory < 1024 * 2048 * 4 / 8


def test_bad_input_raises():
    x0, x1 = clouds()
    with pytest.raises(ValueError, match="block_size is 5, wanted a divisor of the 32 rows"):
        sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=1, block_size=5)
    with pytest.raises(ValueError, match="epsilon is 0"):
        sharded_sinkhorn(x0, x1, epsilon=0.0, max_iterations=1, block_size=4)
    with pytest.raises(ValueError, match="wanted equal masses"):
        sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=1, block_size=4, a=jnp.ones(32))
    with pytest.raises(ValueError, match=r"b has shape \[3\]"):
        sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=1, block_size=4, b=jnp.ones(3) / 3)
    found = Potentials(jnp.zeros(2), jnp.zeros(3), *jnp.zeros(4))
    with pytest.raises(ValueError, match="cost_block has 4 rows, wanted at most 2"):
        plan_rows(found, jnp.zeros((4, 3)), 0.5)
    with pytest.raises(ValueError, match="first_row is 1"):
        plan_rows(found, jnp.zeros((2, 3)), 0.5, first_row=1)
    with pytest.raises(ValueError, match="epsilon is 0"):
        plan_rows(found, jnp.zeros((1, 3)), 0.0)
    with pytest.raises(ValueError, match="tolerance is -1"):
        sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=1, block_size=4, tolerance=-1.0)


@pytest.mark.parametrize("cost_fn", [squared_euclidean_cost, cosine_cost])
def test_blocks_give_the_plan_of_masses_and_its_gradient(cost_fn):
    x0, x1 = clouds()
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.5, 1, 32).astype(np.float32), rng.uniform(0.5, 1, 24).astype(np.float32)
    a[[3, 30]], b[[0, 7]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    spoiled = x0.at[3].set(jnp.nan), x1.at[7].set(jnp.inf)

    def solve(x0, x1):
        found = sharded_sinkhorn(
            x0,
            x1,
            epsilon=0.5,
            max_iterations=100,
            block_size=8,
            tolerance=1e-6,
            a=jnp.asarray(a),
            b=jnp.asarray(b),
            cost_fn=cost_fn,
        )
        return found.value, found

    (value, found), slopes = jax.jit(jax.value_and_grad(solve, (0, 1), has_aux=True))(*spoiled)
    assert found.converged and np.all(np.isneginf(found.row[jnp.array([3, 30])])) and np.isneginf(found.column[7])

    def dense(x0, x1):
        found = sinkhorn(cost_fn(x0, x1), jnp.asarray(a), jnp.asarray(b), epsilon=0.5, tolerance=1e-6)
        return found.value, found.matrix

    (expected, plan), wanted = jax.jit(jax.value_and_grad(dense, (0, 1), has_aux=True))(x0, x1)
    rows = jax.jit(lambda start, cost: plan_rows(found, cost, 0.5, first_row=start))
    blocks = [rows(start, cost_fn(spoiled[0][start : start + 8], spoiled[1])) for start in range(0, 32, 8)]
    np.testing.assert_allclose(np.concatenate(blocks), plan, atol=2e-6)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for slope, want in zip(slopes, wanted):
        np.testing.assert_allclose(slope, want, atol=1e-5)


def test_mass_that_finds_no_partner_is_an_error():
    x0, x1 = clouds()
    solve = jax.jit(lambda x0: sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=100, block_size=16))
    found = solve(x0.at[5].set(jnp.nan))
    np.testing.assert_allclose(found.error, 2 / 32, rtol=1e-2)
    assert not found.converged and np.all(np.isfinite(np.delete(found.row, 5)))


def test_65536_points_need_less_than_two_gigabytes_forward_and_backward():
    points = jax.ShapeDtypeStruct((65536, 16), jnp.float32)
    loss = lambda x, y: sharded_sinkhorn(x, y, epsilon=0.5, max_iterations=500, block_size=256).value  # noqa: E731
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(points, points).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes < 2e9


def on_four_devices(function, outputs):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    return jax.shard_map(function, mesh=mesh, in_specs=(P("data"), P()), out_specs=outputs)


@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_the_gradient_over_four_devices_is_that_of_one(tolerance):
    masses = np.random.default_rng(1).uniform(0.5, 1, 32).astype(np.float32)
    masses[3] = 0

    def reading(x0, x1, axis=None):
        """Return a number that depends on the value and on all potentials, and the number of iterations."""
        rows = jnp.asarray(masses / masses.sum()).reshape(-1, x0.shape[0])
        a = rows[jax.lax.axis_index(axis) if axis else 0]
        found = sharded_sinkhorn(
            x0, x1, epsilon=0.5, max_iterations=30, block_size=4, tolerance=tolerance, a=a, axis_name=axis
        )
        squares = jnp.sum(a * jnp.where(a > 0, found.row, 0) ** 2)
        squares = jax.lax.psum(squares, axis) if axis else squares
        return found.value + squares + jnp.mean(found.column**3), found.iterations

    found, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(*clouds())
        for f in (on_four_devices(lambda x0, x1: reading(x0, x1, "data"), (P(), P())), reading)
    )
    assert int(found[0][1]) == int(expected[0][1])
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
    for slope, want in zip(found[1], expected[1]):
        np.testing.assert_allclose(slope, want, rtol=1e-5, atol=1e-5 * np.max(np.abs(want)))


def iterations_of_numpy(x0, x1, epsilon, tolerance):
    """Return the error of the rows of each plan whose columns are exact, until it is within the tolerance."""
    cost = np.sum((np.asarray(x0, float)[:, None] - np.asarray(x1, float)[None]) ** 2, axis=2)
    kernel, v, errors = np.exp(-cost / epsilon), np.ones(cost.shape[1]), []
    while not errors or errors[-1] > tolerance:
        u = 1 / cost.shape[0] / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
        errors.append(np.sum(np.abs(u * (kernel @ v) - 1 / cost.shape[0])))
    return errors


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
def test_it_stops_at_the_tolerance_with_the_result_of_as_many_iterations(tolerance):
    x0, x1 = clouds()
    options = {"epsilon": 0.5, "block_size": 8}
    errors = iterations_of_numpy(x0, x1, 0.5, tolerance)
    value = lambda x0, n, tolerance: sharded_sinkhorn(x0, x1, max_iterations=n, tolerance=tolerance, **options)  # noqa: E731
    solve = lambda n, tolerance: jax.jit(  # noqa: E731
        jax.value_and_grad(lambda x: (value(x, n, tolerance).value, value(x, n, tolerance)), has_aux=True)
    )(x0)
    (_, stopped), slope = solve(1000, tolerance)
    number = int(stopped.iterations)
    assert number == len(errors) + 1 and stopped.converged  # an iteration knows the error of the one before
    np.testing.assert_allclose(stopped.error, errors[-1], rtol=1e-3)
    (_, expected), wanted = solve(number, None)
    jax.tree.map(np.testing.assert_array_equal, stopped[:5], expected[:5])
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)
    assert not solve(number - 1, tolerance)[0][1].converged


def test_problems_under_vmap_stop_each_by_itself():
    x0, x1 = clouds()
    many = jnp.stack([x0, 4 * x0])
    solve = lambda x: sharded_sinkhorn(x, x1, epsilon=2.0, max_iterations=60, block_size=16)  # noqa: E731
    found = jax.jit(jax.vmap(solve))(many)
    alone = [jax.jit(solve)(x) for x in many]
    assert int(alone[0].iterations) < int(alone[1].iterations) < 60
    np.testing.assert_array_equal(found.iterations, [x.iterations for x in alone])
    np.testing.assert_allclose(found.value, [x.value for x in alone], rtol=1e-6)


def test_one_iteration_has_not_converged_though_it_moves_no_row():
    plan = jnp.broadcast_to(jnp.array([0.7, 0.1, 0.1, 0.1]) / 4, (4, 4))  # right rows, wrong columns
    options = {"epsilon": 1.0, "block_size": 4, "cost_fn": lambda x, y: -jnp.log(plan)}
    x = jnp.zeros((4, 1))
    found = sharded_sinkhorn(x, x, max_iterations=1, **options)
    assert found.error == 1 and not found.converged
    assert sharded_sinkhorn(x, x, max_iterations=5, **options).converged
