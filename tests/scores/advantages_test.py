"""Against the sum over all later steps, written as two loops, and numpy's statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax.scores import generalized_advantages, normalized_advantages

T, N = 9, 3
RNG = np.random.default_rng(0)
REWARDS, VALUES, FINAL = RNG.normal(size=(3, T, N)).astype(np.float32)
NEXT = RNG.normal(size=N).astype(np.float32)
TERMINATED = RNG.random((T, N)) < 0.2
TRUNCATED = (RNG.random((T, N)) < 0.2) & ~TERMINATED


def summed(discount, decay, terminated, truncated, final):
    """Every later error of the same episode, with its weight: O(T^2)."""
    values = np.vstack([VALUES, NEXT]).astype(np.float64)
    advantages = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            for k in range(t, T):
                following = 0 if terminated[k, n] else final[k, n] if truncated[k, n] else values[k + 1, n]
                error = REWARDS[k, n] + discount * following - values[k, n]
                advantages[t, n] += (discount * decay) ** (k - t) * error
                if terminated[k, n] or truncated[k, n]:
                    break
    return advantages


@jax.jit
def found(discount, decay, terminated, truncated):
    return generalized_advantages(
        REWARDS, VALUES, NEXT, terminated, truncated=truncated, final_values=FINAL, discount=discount, decay=decay
    )


@pytest.mark.parametrize(("discount", "decay"), [(0.9, 0.8), (0.9, 0.0), (0.9, 1.0), (1.0, 0.95)])
def test_equals_the_sum_over_later_steps(discount, decay):
    actual = found(discount, decay, TERMINATED, TRUNCATED)
    expected = summed(discount, decay, TERMINATED, TRUNCATED, FINAL)
    np.testing.assert_allclose(actual.advantages, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(actual.returns, expected + VALUES, rtol=1e-4, atol=1e-5)


def test_ends_of_the_range_of_decay_are_the_error_and_the_discounted_return():
    none = np.zeros((T, N), bool)
    following = np.vstack([VALUES[1:], NEXT])
    np.testing.assert_allclose(
        found(0.9, 0.0, none, none).advantages, REWARDS + 0.9 * following - VALUES, rtol=1e-5, atol=1e-6
    )
    returns, following = np.zeros((T, N)), NEXT.astype(np.float64)
    for t in reversed(range(T)):
        returns[t] = following = REWARDS[t] + 0.9 * following
    np.testing.assert_allclose(found(0.9, 1.0, none, none).returns, returns, rtol=1e-5, atol=1e-5)


def test_a_time_limit_is_no_end():
    as_end = found(0.9, 0.8, TERMINATED | TRUNCATED, np.zeros((T, N), bool)).advantages
    bootstrapped = found(0.9, 0.8, TERMINATED, TRUNCATED).advantages
    np.testing.assert_allclose(np.asarray(bootstrapped - as_end)[TRUNCATED], 0.9 * FINAL[TRUNCATED], rtol=1e-4)
    plain = generalized_advantages(REWARDS[:, 0], VALUES[:, 0], NEXT[0], TERMINATED[:, 0])
    no_limits = generalized_advantages(REWARDS, VALUES, NEXT, TERMINATED).advantages
    np.testing.assert_allclose(plain.advantages, no_limits[:, 0], rtol=1e-5)


def test_normalized_advantages_are_those_of_the_whole_mini_batch_on_several_devices():
    rows, exists = RNG.normal(3, 5, 16).astype(np.float32), np.arange(16) < 13
    alone = np.where(exists, (rows - rows[:13].mean()) / rows[:13].std(ddof=1), 0)
    one = normalized_advantages(jnp.asarray(rows), where=jnp.asarray(exists))
    np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-6)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    cut = jax.shard_map(
        lambda a, w: normalized_advantages(a, where=w, axis_name="data"),
        mesh=mesh,
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
    )
    np.testing.assert_allclose(jax.jit(cut)(rows, exists), alone, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_finite_stay_and_equal_rows_become_zero():
    found = normalized_advantages(jnp.array([1.0, jnp.nan, 3.0, jnp.inf]))
    np.testing.assert_allclose(found, [-(0.5**0.5), np.nan, 0.5**0.5, np.inf], rtol=1e-5)
    np.testing.assert_array_equal(normalized_advantages(jnp.full(3, 2.0), epsilon=0.0), 0)
    np.testing.assert_array_equal(normalized_advantages(jnp.ones(1)), 0)
    half = normalized_advantages(jnp.full(4000, 60, jnp.float16).at[:2000].set(0))
    np.testing.assert_allclose(half[-1], (3999 / 4000) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize("rows, value", [(7, 0.3), (13, 123.456)])
def test_equal_rows_become_zero_where_their_mean_is_rounded(rows, value):
    np.testing.assert_array_equal(normalized_advantages(jnp.full(rows, value)), 0)


@pytest.mark.parametrize("decay, known", [(0.9, [0, 1]), (0.0, [0, 1, 2])])
def test_what_is_not_finite_does_not_leave_its_episode(decay, known):
    rewards, ends = jnp.array([1.0, 2.0, 3.0, jnp.nan]), jnp.array([False, True, False, False])
    clean = generalized_advantages(jnp.nan_to_num(rewards), jnp.ones(4), jnp.array(1.0), ends, decay=decay)
    found = generalized_advantages(rewards, jnp.ones(4), jnp.array(1.0), ends, decay=decay)
    np.testing.assert_array_equal(np.isfinite(found.advantages), np.isin(np.arange(4), known))
    np.testing.assert_array_equal(found.returns[jnp.array(known)], clean.returns[jnp.array(known)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: generalized_advantages(REWARDS, VALUES, NEXT, TERMINATED, truncated=TRUNCATED),
            TypeError,
            "one of truncated and final_values is given, wanted both or neither",
        ),
        (
            lambda: generalized_advantages(REWARDS, VALUES, VALUES, TERMINATED),
            ValueError,
            r"next_value has shape \[9, 3\], wanted \[3\]",
        ),
        (
            lambda: generalized_advantages(REWARDS, VALUES, NEXT, REWARDS),
            TypeError,
            "terminated has dtype float32, wanted bool",
        ),
        (
            lambda: generalized_advantages(REWARDS, VALUES, NEXT, TERMINATED, discount=1.1),
            ValueError,
            r"discount is 1.1, wanted a number in \[0, 1\]",
        ),
        (lambda: normalized_advantages(jnp.arange(3)), TypeError, "advantages has dtype int32"),
        (lambda: normalized_advantages(jnp.ones(3), epsilon=-1.0), ValueError, "epsilon is -1.0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
