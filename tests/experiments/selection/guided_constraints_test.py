"""The controller, the logs and the constraint of the experiment with guiding transitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import guided_constraints as experiment
from experiments.selection.guided_constraints import Config

pytest.importorskip("gymnax", reason="gymnax wants jax below 0.12")


def test_the_controller_holds_the_pendulum_up_and_random_torques_do_not():
    scores = {}
    for kind in (experiment.RANDOM, experiment.EXPERT):
        rows = experiment.log_episodes(kind, 10 * experiment.EPISODE, jax.random.key(0))
        scores[kind] = float(rows["reward"].reshape(10, -1).sum(1).mean())
        last = np.asarray(rows["observation"]).reshape(10, -1, 3)[:, -1, 0]
        assert (last > 0.95).all() == (kind == experiment.EXPERT)
    assert scores[experiment.EXPERT] > -400 > -900 > scores[experiment.RANDOM]


def test_the_next_observation_is_that_of_the_next_row_and_shares_are_as_asked_for():
    data, guide = experiment.make_data(Config(transitions=2000, guiding=50), jax.random.key(1))
    first = jax.tree.map(lambda x: np.asarray(x)[: experiment.EPISODE], data)
    np.testing.assert_allclose(first["next"][:-1], first["observation"][1:], atol=1e-6)
    assert np.bincount(data["kind"]).tolist() == [1000, 600, 400] and len(guide["reward"]) == 50
    logged = {row.tobytes() for row in np.asarray(data["observation"])}
    assert not logged & {row.tobytes() for row in np.asarray(guide["observation"])}


def test_the_constraint_is_zero_for_the_policy_that_acted():
    policy = experiment.init_mlp(jax.random.key(0), (3, 8, 1))
    observations = jax.random.normal(jax.random.key(1), (5, 3))
    rows = {"observation": observations, "action": experiment.act(policy, observations)}
    np.testing.assert_allclose(experiment.constraints(policy, rows), 0, atol=1e-12)
    moved = rows | {"action": rows["action"] + jnp.float32(0.5)}
    np.testing.assert_allclose(experiment.constraints(policy, moved), 0.25, rtol=1e-5)
