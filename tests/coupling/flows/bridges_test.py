import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.coupling import (
    assignment_plan,
    bridge_path,
    condition_aware_cost,
    condition_weight,
    schroedinger_bridge_pairs,
    sinkhorn,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost


def test_pairs_follow_the_entropic_plan_at_twice_the_variance():
    rng = np.random.default_rng(0)
    x0, x1 = jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
    draw = jax.jit(jax.vmap(lambda k: schroedinger_bridge_pairs(k, x0, x1, 0.7, mode="joint", tolerance=1e-5)))
    pairs = draw(jax.random.split(jax.random.key(0), 4000))
    counts = np.zeros((4, 4))
    np.add.at(counts, (np.asarray(pairs.source), np.asarray(pairs.target)), 1)
    expected = sinkhorn(squared_euclidean_cost(x0, x1), epsilon=2 * 0.49, tolerance=1e-5).matrix
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.012)
    np.testing.assert_array_equal(pairs.x0[7], x0[pairs.source[7]])


def test_bridges_have_their_variance_and_their_velocity_is_that_of_the_flow():
    x0, x1 = jnp.zeros((20_000, 1)), jnp.ones((20_000, 1))
    path = jax.jit(lambda: bridge_path(0, x0, x1, 0.8, t=jnp.full(20_000, 0.3)))()
    t, xt, _, noise = map(np.asarray, path)
    np.testing.assert_allclose(np.mean(xt), 0.3, atol=0.02)
    np.testing.assert_allclose(np.var(xt), 0.64 * 0.21, rtol=0.05)
    np.testing.assert_allclose(xt, t[:, None] + 0.8 * np.sqrt(0.21) * noise, rtol=1e-4, atol=1e-5)
    with jax.enable_x64(True):
        x0, x1, times = jnp.zeros((9, 1)), jnp.ones((9, 1)), jnp.linspace(0.1, 0.9, 9)
        place = lambda s: bridge_path(1, x0, x1, 0.8, t=s).xt  # noqa: E731
        slope = jax.jit(lambda s: jax.jvp(place, (s,), (jnp.ones_like(s),))[1])(times)
        velocity = jax.jit(lambda s: bridge_path(1, x0, x1, 0.8, t=s).ut)(times)
        np.testing.assert_allclose(velocity, slope, rtol=1e-6)


def test_ends_are_finite():
    path = bridge_path(0, jnp.zeros((2, 3)), jnp.ones((2, 3)), 1.0, t=jnp.array([0.0, 1.0]))
    assert jnp.all(jnp.isfinite(path.ut)) and jnp.all(jnp.isfinite(path.xt))


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.4])
def test_the_condition_weight_leaves_the_wanted_share(ratio):
    rng = np.random.default_rng(0)
    x0, x1, conditions = rng.normal(size=(3, 32, 2)).astype(np.float32)
    squares = jax.jit(squared_euclidean_cost)
    cost, condition_cost = np.asarray(squares(x0, x1)), np.asarray(squares(conditions, conditions))
    w = float(jax.jit(lambda *costs: condition_weight(*costs, fraction=ratio))(cost, condition_cost))
    share = lambda w: np.mean(cost + w * condition_cost <= np.diagonal(cost + w * condition_cost)[:, None])  # noqa: E731
    assert share(w) <= ratio < share(0.99 * w - 1e-3) + 2e-3
    total = jax.jit(lambda *costs: condition_aware_cost(*costs, fraction=ratio))(cost, condition_cost)
    np.testing.assert_allclose(total, cost + w * condition_cost, rtol=1e-5, atol=1e-5)


def test_no_weight_is_plain_transport_and_a_great_one_keeps_the_conditions():
    rng = np.random.default_rng(1)
    x0, x1 = rng.normal(size=(2, 12, 2)).astype(np.float32)
    places = 10 * np.arange(12, dtype=np.float32)[:, None]
    cost, apart = (jax.jit(squared_euclidean_cost)(*points) for points in ((x0, x1), (places, places)))
    plain, strict = jax.jit(lambda *costs: [condition_aware_cost(*costs, fraction=f) for f in (1.0, 1 / 12)])(
        cost, apart
    )
    np.testing.assert_array_equal(plain, cost)
    plan = jax.jit(assignment_plan)(strict, jnp.ones((12, 12)) / 144)
    np.testing.assert_allclose(plan, np.eye(12) / 12, rtol=1e-5)


def test_bad_input_raises():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="sigma is 0"):
        bridge_path(0, x, x, 0.0)
    with pytest.raises(ValueError, match="sigma is -1"):
        schroedinger_bridge_pairs(0, x, x, -1.0)
    with pytest.raises(ValueError, match=r"cost has shape \[3, 2\]"):
        condition_weight(x, x, fraction=0.1)
    with pytest.raises(ValueError, match="fraction is 0"):
        condition_weight(jnp.ones((2, 2)), jnp.ones((2, 2)), fraction=0.0)


def test_a_noise_too_small_for_the_iterations_is_told():
    rng = np.random.default_rng(0)
    x0, x1 = (jnp.asarray(rng.normal(size=(64, 2)), jnp.float32) for _ in range(2))
    for sigma, done in ((0.01, False), (1.0, True)):
        state = schroedinger_bridge_pairs(0, x0, x1 + jnp.array([[5.0, 2.0]]), sigma=sigma).state
        assert bool(state.converged) == done and (state.error > 1e-3) != done
