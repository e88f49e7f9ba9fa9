"""Fit laws of three losses to 24 small runs, and take the best mixture that repeats no domain too often.

Method: data mixing laws
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import mixing
from tests.recipes import digits, small_runs


def recipe(train, mixtures, targets, caps):
    law = mixing.fit_mixing_law(mixtures, train(mixtures), key=0, num_starts=4)
    return law, mixing.best_mixture(law, targets, caps)


def test_the_law_predicts_other_mixtures_and_the_best_one_is_near_that_of_a_grid():
    mixtures = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(3), 24), jnp.float32)
    targets, caps = jnp.array([1.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 0.4])
    law, found = digits.run(recipe, small_runs.losses, mixtures, targets, caps)
    others = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(3), 36), jnp.float32)
    true = np.asarray(small_runs.losses(others))
    error = np.asarray(mixing.predict_losses(law, others)) - true
    inputs = np.column_stack([mixtures, np.ones(24)])
    line = np.linalg.lstsq(inputs, small_runs.losses(mixtures))[0]
    linear = np.column_stack([others, np.ones(36)]) @ line - true
    assert ((error**2).mean(axis=0) < 0.08 * true.var(axis=0)).all()
    assert (np.abs(error).mean(axis=0) < 0.6 * np.abs(linear).mean(axis=0)).all()
    grid = jnp.asarray(small_runs.grid(20), jnp.float32)
    losses = np.where(grid[:, 2] <= caps[2], small_runs.losses(grid) @ targets, np.inf)
    reached = float((small_runs.losses(found.mixture[None]) @ targets)[0])
    assert found.mixture[2] <= 0.4001 and reached < losses.min() + 0.05
    assert float((small_runs.losses(jnp.full((1, 3), 1 / 3)) @ targets)[0]) > reached
