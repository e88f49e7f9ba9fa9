import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from minibatch_jax import coupling, sample_pairs, weights_of
from minibatch_jax.coupling import (
    assignment_plan,
    couple_assignment,
    couple_hierarchical,
    couple_independent,
    couple_partial,
    couple_sinkhorn,
    hierarchical_plan,
    scatter_plans,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_hierarchical": Case(
        lambda: coupling.couple_hierarchical(couple_assignment(), couple_assignment(), mini_batches=2),
        draws.cost,
        draws.pairs,
        tolerance=1e-5,
    ),
}


def block_costs(x0, x1):
    return jax.vmap(lambda a: jax.vmap(lambda b: squared_euclidean_cost(a, b))(x1))(x0)


def batches(seed=0, k=3, m=4):
    rng = np.random.default_rng(seed)
    x0, x1 = rng.normal(size=(2, k, m, 2))
    return jnp.asarray(x0, jnp.float32), jnp.asarray(x1 + 1, jnp.float32)


def inner_costs(cost):
    """Costs of the best pairing of every block, by scipy."""
    solve = lambda c: c[linear_sum_assignment(c)].mean()  # noqa: E731
    return np.array([[solve(np.asarray(c)) for c in row] for row in cost])


COST = block_costs(*batches())


def run(outer, inner=None, cost=COST, weights=None):
    return jax.jit(lambda c: hierarchical_plan(c, inner or couple_assignment(), outer, weights))(cost)


def test_exact_outer_problem_is_an_assignment_of_mini_batches():
    found, expected = run(couple_assignment()), inner_costs(COST)
    np.testing.assert_allclose(found.costs, expected, rtol=1e-5)
    rows, columns = linear_sum_assignment(expected)
    np.testing.assert_allclose(found.value, expected[rows, columns].mean(), rtol=1e-5)
    assert float(found.value) <= expected.mean()
    np.testing.assert_allclose(jnp.sum(found.plans), 1, rtol=1e-6)


def test_the_two_limits_of_the_entropic_outer_problem():
    expected = inner_costs(COST)
    blurred = run(couple_sinkhorn(1e6))
    np.testing.assert_allclose(blurred.value, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(run(couple_independent()).value, expected.mean(), rtol=1e-5)
    sharp = run(couple_sinkhorn(1e-3, max_iterations=5000))
    np.testing.assert_allclose(sharp.value, run(couple_assignment()).value, rtol=1e-3)
    diagonal = run(couple_independent(), weights=jnp.eye(3) / 3)
    np.testing.assert_allclose(diagonal.value, np.trace(expected) / 3, rtol=1e-5)


def test_one_batch_is_plain_transport_and_equal_batches_cost_nothing():
    single = run(couple_assignment(), cost=COST[:1, :1])
    np.testing.assert_allclose(single.plans[0, 0], assignment_plan(COST[0, 0], jnp.ones((4, 4)) / 16), atol=1e-7)
    x0, _ = batches()
    assert float(run(couple_assignment(), cost=block_costs(x0, x0[jnp.array([2, 0, 1])])).value) < 1e-5


def test_scattered_plan_has_the_marginals_of_the_draws():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 9, (3, 4)), rng.integers(0, 7, (3, 4))
    plan = np.asarray(scatter_plans(run(couple_assignment()).plans, source, target, (9, 7)))
    np.testing.assert_allclose(plan.sum(1), np.bincount(source.ravel(), minlength=9) / 12, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), np.bincount(target.ravel(), minlength=7) / 12, atol=1e-6)


def test_partial_inner_plans_move_less():
    found = run(couple_assignment(), couple_partial(0.5))
    np.testing.assert_allclose(jnp.sum(found.plans), 0.5, rtol=1e-5)


WAYS = {"all pairs": couple_independent(), "equal pairs": None, "BoMb-OT": couple_assignment()}
K, M = 3, 4


def plan_by_loops(cost, way):
    """The plan of a batch of K mini-batches on each side, block by block with scipy."""
    plan, costs = np.zeros((2, K * M, K * M)), np.zeros((K, K))
    for u in range(K):
        for v in range(K):
            block = np.s_[u * M : (u + 1) * M], np.s_[v * M : (v + 1) * M]
            rows, columns = linear_sum_assignment(cost[block])
            plan[0][block][rows, columns] = 1 / M
            costs[u, v] = cost[block][rows, columns].mean()
    counts = np.eye(K)
    if way == "all pairs":
        counts = np.full((K, K), 1 / K)
    elif way == "BoMb-OT":
        counts = counts[linear_sum_assignment(costs)[1]]
    return plan[0] * np.kron(counts / K, np.ones((M, M)))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_cut_and_coupled_as_by_hand(way):
    cost = np.random.default_rng(1).uniform(size=(K * M, K * M)).astype(np.float32)
    tx = couple_hierarchical(couple_assignment(), WAYS[way], mini_batches=K)
    plan = jax.jit(lambda w: weights_of(tx, w, cost=cost))(jnp.full(cost.shape, 1 / cost.size))
    np.testing.assert_allclose(plan, plan_by_loops(cost, way), atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_padding_in_a_mini_batch_influences_nothing(way):
    """The last row of each mini-batch is padding: the plan is that of the other rows and columns."""
    rng = np.random.default_rng(2)
    cost = rng.uniform(size=(K * M, K * M)).astype(np.float32)
    live = np.arange(K * M) % M < M - 1
    padded = np.where(live[:, None] & live[None], cost, np.where(live[None], np.nan, 0)).astype(np.float32)
    weights = np.outer(live, live) / live.sum() ** 2
    tx = couple_hierarchical(couple_assignment(), WAYS[way], mini_batches=K)
    run = jax.jit(lambda w, c: weights_of(tx, w, cost=c))
    plan = np.asarray(run(jnp.asarray(weights, jnp.float32), padded))
    kept = cost[np.ix_(live, live)]
    expected = run(jnp.full(kept.shape, 1 / kept.size), kept)
    np.testing.assert_allclose(plan[np.ix_(live, live)], expected, atol=1e-6)
    np.testing.assert_allclose(plan.sum(), 1, rtol=1e-6)


@pytest.mark.slow
def test_two_passes_give_the_gradient_of_one():
    x0, x1 = batches()

    def whole(x0):
        return hierarchical_plan(block_costs(x0, x1), couple_assignment(), couple_assignment()).value

    first = hierarchical_plan(block_costs(x0, x1), couple_assignment(), couple_assignment())
    source, target, weights = sample_pairs(0, first.outer, mode="permutation")

    def second(x0):
        def one(u, v, w):
            cost = squared_euclidean_cost(x0[u], x1[v])
            return w * jnp.sum(assignment_plan(cost, jnp.ones((4, 4)) / 16) * cost)

        return jnp.sum(jax.lax.map(lambda p: one(*p), (source, target, weights)))

    np.testing.assert_allclose(jax.grad(second)(x0), jax.grad(whole)(x0), rtol=1e-4, atol=1e-6)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="cost has shape"):
        hierarchical_plan(jnp.ones((2, 2)), couple_assignment(), couple_assignment())
    with pytest.raises(ValueError, match=r"weights has shape \[2, 2\]"):
        hierarchical_plan(COST, couple_assignment(), couple_assignment(), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"weights has shape \[3, 3, 4, 5\]"):
        hierarchical_plan(COST, couple_assignment(), couple_assignment(), jnp.ones((3, 3, 4, 5)))
    with pytest.raises(ValueError, match="mini_batches is 3, wanted a divisor of the 4 rows and of the 6 columns"):
        couple_hierarchical(couple_assignment(), mini_batches=3).init(jnp.ones((4, 6)))
    with pytest.raises(ValueError, match=r"source_indices has shape \[3, 3\]"):
        scatter_plans(COST, jnp.ones((3, 3), int), jnp.ones((3, 4), int), (5, 5))
