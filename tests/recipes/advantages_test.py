"""Estimate advantages of rollouts that run over ends of episodes and time limits, and normalize them.

Method: generalized advantage estimation
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import scores
from tests.recipes import digits


def recipe(value, rollout):
    found = scores.generalized_advantages(
        rollout["reward"],
        jax.vmap(value)(rollout["state"]),
        value(rollout["next_state"]),
        rollout["terminated"],
        truncated=rollout["truncated"],
        final_values=jax.vmap(value)(rollout["state_after"]),
        discount=0.9,
        decay=0.8,
    )
    return found.returns, scores.normalized_advantages(found.advantages)


def value(state):
    """The discounted reward of one in each step, which is right in every state of the walk below."""
    return jnp.full(state.shape, 10.0)


def walk(steps=40, walks=3):
    """A walk that is never over, with a reward of one in each step, cut off by a time limit of 7 steps."""
    time = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.float32)[:, None], (steps, walks))
    none = jnp.zeros(time.shape, bool)
    return {
        "state": time % 7,
        "state_after": time % 7 + 1,
        "next_state": jnp.full(walks, steps % 7, jnp.float32),
        "reward": jnp.ones(time.shape),
        "terminated": none,
        "truncated": time % 7 == 6,
    }


def test_a_time_limit_hides_no_reward_and_taken_for_an_end_it_does():
    returns, advantages = digits.run(recipe, value, walk())
    np.testing.assert_allclose(returns, 10, rtol=1e-5)
    as_ends = walk() | {"terminated": walk()["truncated"], "truncated": walk()["terminated"]}
    returns, advantages = digits.run(recipe, value, as_ends)
    assert np.all(returns[6] < 2) and np.all(returns[:7] < 10)
    np.testing.assert_allclose([advantages.mean(), advantages.std(ddof=1)], [0, 1], atol=1e-5)
