import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import coupling
from minibatch_jax.coupling import (
    couple_semidiscrete,
    independent_plan,
    plan_rows,
    semidiscrete_plan,
    sharded_sinkhorn,
    sharded_targets,
    sinkhorn,
)
from minibatch_jax.coupling.costs import cosine_cost, squared_euclidean_cost
from minibatch_jax.coupling.plans import Potentials
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_semidiscrete": Case(
        lambda: coupling.couple_semidiscrete(0.5, 0.1), draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-5
    ),
}


def train(epsilon, steps, items, b, rate):
    tx = couple_semidiscrete(epsilon, rate, decay=0.98)
    weights = independent_plan(jnp.full(256, 1 / 256, jnp.float32), b)

    def step(state, key):
        noise = jax.random.normal(key, (256, 2))
        return tx.update(weights, state, cost=squared_euclidean_cost(noise, items))[1], None

    return jax.jit(lambda s, k: jax.lax.scan(step, s, k)[0])(
        tx.init(weights), jax.random.split(jax.random.key(0), steps)
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_learned_potentials_give_the_plan_and_marginals_of_a_large_problem(epsilon):
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    b = rng.uniform(0.5, 1, 8)
    b = jnp.asarray(b / b.sum(), jnp.float32)
    state = train(epsilon, 600, items, b, 0.1)
    noise = jax.random.normal(jax.random.key(9), (1500, 2))
    cost = jax.jit(squared_euclidean_cost)(noise, items)
    plan = jax.jit(lambda cost: semidiscrete_plan(cost, state.average, b, epsilon=epsilon))(cost)
    plan = np.asarray(plan) / 1500
    np.testing.assert_allclose(plan.sum(0), b, atol=0.035)
    a, wide = np.full(1500, 1 / 1500), np.asarray(cost, np.float64)
    mass = np.asarray(b, np.float64) / np.asarray(b, np.float64).sum()
    if epsilon == 0:
        best = ot.emd2(a, mass, wide)
    else:
        best = np.sum(ot.sinkhorn(a, mass, wide, epsilon) * wide)
    np.testing.assert_allclose(np.sum(plan * wide), best, rtol=0.03)


def test_rows_are_probabilities_and_zero_masses_are_never_drawn():
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4)), jnp.float32).at[2].set(jnp.nan)
    b = jnp.array([0.5, 0.0, 0.25, 0.25])
    g = jnp.array([0.0, 9.0, 0.1, -0.2])
    for epsilon in (0.0, 0.2):
        plan = np.asarray(semidiscrete_plan(cost, g, b, epsilon=epsilon))
        np.testing.assert_allclose(plan.sum(1), [1, 1, 0, 1, 1], rtol=1e-6)
        np.testing.assert_array_equal(plan[:, 1], 0)
    kernel = np.asarray(b) * np.exp((np.asarray(g) - np.asarray(cost)) / 0.2)
    np.testing.assert_allclose(plan[0], (kernel / kernel.sum(1, keepdims=True))[0], rtol=1e-5)


def clouds():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(32, 3)), jnp.float32), jnp.asarray(rng.normal(size=(24, 3)) + 1, jnp.float32)


@pytest.mark.parametrize("chunk", [2, 4])
def test_eight_devices_find_the_plan_of_one(chunk):
    x0, x1 = clouds()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def solve(x0, x1):
        found = sharded_sinkhorn(x0, x1, epsilon=0.5, max_iterations=300, block_size=chunk, axis_name="data")
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
    alone = jax.jit(lambda *x: sharded_sinkhorn(*x, epsilon=0.5, max_iterations=300, block_size=16))(x0, x1)
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
    with pytest.raises(ValueError, match="learning_rate is 0"):
        couple_semidiscrete(0.1, 0.0)
    with pytest.raises(ValueError, match=r"potentials has shape \[3\]"):
        semidiscrete_plan(jnp.ones((2, 4)), jnp.ones(3), jnp.ones(4), epsilon=0.1)


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
            x0, x1, epsilon=0.5, max_iterations=100, block_size=8, a=jnp.asarray(a), b=jnp.asarray(b), cost_fn=cost_fn
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
    loss = lambda x, y: sharded_sinkhorn(x, y, epsilon=0.5, max_iterations=20, block_size=256).value  # noqa: E731
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(points, points).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes < 2e9
