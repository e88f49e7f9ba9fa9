"""The rows of a rollout fit together, and their first gradient is that of PPO's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import init_mlp
from experiments.schedules import ppo_minibatches as ppo

gymnax = pytest.importorskip("gymnax", reason="gymnax, of the extra rl, wants jax below 0.12 and is missing here")
CONFIG = ppo.Config(environments=2, horizon=40, hidden=4)


@pytest.fixture(scope="module")
def rollout():
    environment, _ = gymnax.make("Breakout-MinAtar")
    params = init_mlp(jax.random.key(0), (400, 4, 4))
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def run(key):
        observations, states = jax.vmap(environment.reset)(keys)
        agent = ppo.Agent(params, (), states, observations, jnp.zeros(2))
        return ppo.act(CONFIG, environment, agent, key)

    agent, rows, finished = run(jax.random.key(2))
    return params, agent, rows, finished


def test_rows_of_a_rollout_are_those_of_one_step(rollout):
    params, agent, rows, (total, episodes) = rollout
    items, signals = ppo.losses(params, rows)
    np.testing.assert_allclose(signals["log_ratios"], 0, atol=1e-5)
    values = ppo.heads(params, rows["observation"])[1]
    np.testing.assert_allclose(rows["return"] - rows["advantage"], values, atol=1e-5)
    np.testing.assert_allclose(items["value"], 0.25 * rows["advantage"] ** 2, rtol=1e-4, atol=1e-6)
    balls = np.asarray(rows["observation"]).reshape(40, 2, 10, 10, 4)[..., 1]
    assert np.all(balls.sum((2, 3)) == 1)
    started = np.sum((balls[1:, :, 3, 0] + balls[1:, :, 3, 9] > 0) & (np.argmax(balls[:-1].sum(3), axis=2) >= 8))
    assert started <= int(episodes) <= started + 2 and int(episodes) > 2  # a new ball follows one that was missed
    assert float(total) + float(agent.score.sum()) >= 0
