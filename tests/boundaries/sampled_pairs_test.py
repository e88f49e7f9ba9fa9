import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chisquare

from minibatch_jax import sample_pairs
from minibatch_jax.coupling import (
    assignment_plan,
    conditional_path,
    couple_assignment,
    couple_independent,
    couple_sinkhorn,
    flow_matching_pairs,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost

DRAWS = 20_000


def plan(seed=0):
    p = np.random.default_rng(seed).uniform(size=(4, 5))
    p[1, 2] = p[3] = p[:, 4] = 0
    return (p / p.sum()).astype(np.float32)


def assert_follows(counts, probabilities):
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    probabilities = probabilities[possible].astype(np.float64)
    expected = probabilities / probabilities.sum() * counts.sum()
    assert chisquare(counts[possible], expected).pvalue > 1e-4


def count(source, target, shape):
    counts = np.zeros(shape)
    np.add.at(counts, (np.asarray(source), np.asarray(target)), 1)
    return counts


def test_joint_draws_follow_the_plan():
    p = plan()
    pairs = sample_pairs(0, p, DRAWS)
    assert_follows(count(pairs.source, pairs.target, p.shape), p)
    np.testing.assert_allclose(pairs.weights, 1 / DRAWS, rtol=1e-5)


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_each_row_or_column_is_kept_once_and_its_partner_follows_the_plan(mode):
    p = plan()
    draw = jax.jit(jax.vmap(lambda key: sample_pairs(key, p, mode=mode)))
    pairs = draw(jax.random.split(jax.random.key(1), DRAWS // 4))
    kept, partner = (pairs.source, pairs.target) if mode == "rows" else (pairs.target, pairs.source)
    q = p if mode == "rows" else p.T
    real = np.flatnonzero(q.sum(1))
    for i in real:
        np.testing.assert_array_equal(kept[:, i], i)
        assert_follows(np.bincount(partner[:, i], minlength=q.shape[1]), q[i])
    np.testing.assert_allclose(pairs.weights[0], q.sum(1), rtol=1e-6)
    empty = np.setdiff1d(np.arange(q.shape[0]), real)
    np.testing.assert_array_equal(pairs.weights[:, empty], 0)
    assert np.all(p[np.asarray(pairs.source), np.asarray(pairs.target)] > 0)


@pytest.mark.parametrize("mode", ["joint", "rows", "columns"])
def test_weighted_pairs_estimate_the_dense_sum(mode):
    p = 0.7 * plan(3)
    loss = np.random.default_rng(0).normal(size=p.shape)
    draw = jax.jit(jax.vmap(lambda key: sample_pairs(key, p, mode=mode)))
    source, target, weights = map(np.asarray, draw(jax.random.split(jax.random.key(0), DRAWS)))
    estimates = np.sum(weights * loss[source, target], axis=1)
    error = estimates.std() / np.sqrt(DRAWS)
    np.testing.assert_allclose(estimates.mean(), np.sum(p * loss), atol=5 * error)


def test_permutation_is_the_assignment():
    rng = np.random.default_rng(0)
    weights = jnp.ones((6, 6)).at[4].set(0).at[:, 1].set(0) / 36
    p = assignment_plan(jnp.asarray(rng.uniform(size=(6, 6)), jnp.float32), weights)
    source, target, w = sample_pairs(0, p, mode="permutation")
    real = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(np.asarray(source)[real], real)
    assert np.all(np.asarray(p)[source, target] > 0) and w[4] == 0
    assert sorted(np.asarray(target)[real]) == [0, 2, 3, 4, 5]
    np.testing.assert_allclose(np.sum(w), np.sum(p), rtol=1e-6)


def test_permutation_of_a_dense_plan_keeps_the_mass_of_each_row():
    p = jnp.full((4, 4), 1 / 16).at[2, 3].set(0.25)
    source, target, weights = sample_pairs(0, p, mode="permutation")
    np.testing.assert_array_equal(source, np.arange(4))
    np.testing.assert_array_equal(target, [0, 0, 3, 0])
    np.testing.assert_allclose(weights, np.sum(p, axis=1), rtol=1e-6)


@pytest.mark.parametrize("mode", ["joint", "rows", "columns", "permutation"])
def test_a_plan_of_nothing_gives_pairs_of_weight_zero(mode):
    source, target, weights = sample_pairs(0, jnp.full((3, 3), jnp.nan), mode=mode)
    np.testing.assert_array_equal(weights, 0)
    assert np.all((source >= 0) & (source < 3) & (target >= 0) & (target < 3))


def test_pairs_bring_a_shuffled_batch_back_together():
    rng = np.random.default_rng(0)
    x1 = rng.normal(size=(8, 2, 2)).astype(np.float32)
    order = rng.permutation(8)
    x0 = x1[order] + np.float32(0.01)
    for coupling, mode in [
        (couple_assignment(), "permutation"),
        (couple_assignment(), "columns"),
        (couple_sinkhorn(1e-4), "rows"),
    ]:
        pairs = jax.jit(lambda a, b, c=coupling, m=mode: flow_matching_pairs(0, a, b, c, mode=m))(x0, x1)
        np.testing.assert_allclose(pairs.x0, pairs.x1 + 0.01, atol=1e-5)
        np.testing.assert_allclose(pairs.weights, 1 / 8, rtol=1e-4)
        np.testing.assert_array_equal(order[np.asarray(pairs.source)], pairs.target)
    np.testing.assert_array_equal(
        flow_matching_pairs(0, x0, x1, assignment_plan(squared_euclidean_cost(x0, x1), jnp.ones((8, 8)))).x1, x1
    )


def test_no_coupling_pairs_each_with_its_like():
    x0, x1 = jnp.arange(6.0).reshape(3, 2), -jnp.arange(3.0)[:, None]
    for mode in ("columns", "permutation"):
        pairs = jax.jit(lambda a, b, m=mode: flow_matching_pairs(0, a, b, None, mode=m))(x0, x1)
        np.testing.assert_array_equal(pairs.x0, x0)
        np.testing.assert_array_equal(pairs.x1, x1)
        np.testing.assert_array_equal(pairs.source, pairs.target)
        np.testing.assert_allclose(pairs.weights, 1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="coupling is None for x0 of 3 and x1 of 2 items"):
        flow_matching_pairs(0, x0, x1[:2], None)
    with pytest.raises(ValueError, match="mode is 'best'"):
        flow_matching_pairs(0, x0, x1, None, mode="best")


X = jnp.ones((3, 1))
SWAPPED = [
    ((0, X, X, couple_assignment), r"coupling is <function couple_assignment.*couple_assignment\(\.\.\.\)"),
    ((0, X, X, "exact"), "coupling is 'exact', wanted a plan or a transformation"),
    ((0, X, couple_assignment(), X), "x1 is a .*, wanted an array; coupling comes after"),
    ((0, couple_assignment(), X, X), "x0 is a .*, wanted an array; coupling comes after"),
    ((X, X, 0, couple_assignment()), "key has dtype float32"),
]


@pytest.mark.parametrize(("arguments", "message"), SWAPPED, ids=[m for _, m in SWAPPED])
def test_wrong_or_swapped_arguments_say_what_was_wanted(arguments, message):
    with pytest.raises(TypeError, match=message):
        flow_matching_pairs(*arguments)


def test_coupled_pairs_are_shorter_than_independent_ones():
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 32, 2)).astype(np.float32)
    length = lambda p: float(jnp.sum(p.weights * jnp.sum((p.x1 - p.x0) ** 2, axis=1)))  # noqa: E731
    independent, entropic, exact = (
        length(flow_matching_pairs(0, x0, x1, tx, mode="rows"))
        for tx in (couple_independent(), couple_sinkhorn(0.05, relative_to="mean"), couple_assignment())
    )
    assert exact <= entropic < 0.5 * independent


def test_the_path_has_the_mean_and_noise_it_claims():
    x0, x1 = jnp.zeros((4000, 3)), jnp.full((4000, 3), 2.0)
    t, xt, ut = conditional_path(3, x0, x1, sigma=0.5)
    np.testing.assert_array_equal(ut, x1 - x0)
    residual = np.asarray(xt) - 2 * np.asarray(t)[:, None]
    np.testing.assert_allclose(residual.mean(), 0, atol=0.02)
    np.testing.assert_allclose(residual.std(), 0.5, rtol=0.03)
    assert chisquare(np.histogram(t, 10, (0, 1))[0]).pvalue > 1e-4
    exact = conditional_path(3, x0, x1)
    speed = (conditional_path(3, x0, x1, t=exact.t + 1e-2).xt - exact.xt) / 1e-2
    np.testing.assert_allclose(speed, exact.ut, rtol=1e-3)


def test_keys_give_other_pairs_and_raw_keys_raise():
    p = jnp.ones((32, 32)) / 1024
    one, other = sample_pairs(0, p), sample_pairs(1, p)
    assert np.any(np.asarray(one.target) != np.asarray(other.target))
    with pytest.raises(TypeError, match="key has dtype float32"):
        sample_pairs(jnp.zeros(2), p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_pairs": 0}, "num_pairs is 0"),
        ({"num_pairs": 3, "mode": "rows"}, "num_pairs is 3, wanted 4 in mode 'rows'"),
        ({"num_pairs": 4, "mode": "columns"}, "num_pairs is 4, wanted 5"),
        ({"mode": "best"}, "mode is 'best'"),
    ],
)
def test_bad_input_raises(options, message):
    with pytest.raises(ValueError, match=message):
        sample_pairs(0, plan(), **options)


def test_bad_flow_matching_input_raises():
    with pytest.raises(ValueError, match=r"coupling has shape \[2, 2\], wanted \[3, 3\]"):
        flow_matching_pairs(0, jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="sigma is -1"):
        conditional_path(0, jnp.ones((3, 1)), jnp.ones((3, 1)), sigma=-1.0)
    with pytest.raises(ValueError, match="x1 has shape"):
        conditional_path(0, jnp.ones((3, 1)), jnp.ones((4, 1)))


def test_a_chain_couples_too():
    tx = optax.chain(couple_independent(), couple_assignment())
    pairs = flow_matching_pairs(0, jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [0.0]]), tx)
    np.testing.assert_array_equal(pairs.x0, pairs.x1)
