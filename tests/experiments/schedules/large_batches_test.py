"""Each arm has the rates, the batches and the momentum that its name says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.schedules import large_batches
from experiments.schedules.large_batches import RECIPES, Config, optimizer_of, places, schedule_of, stages_of

CONFIG = Config(examples=64, epochs=9, warmup=2, small=2, middle=4, large=16)
"""four steps an epoch; the rate falls after three, six and eight epochs"""


def rates(name):
    stages = stages_of(CONFIG, name)
    steps, _ = places(CONFIG, stages)
    recipe = RECIPES[name]
    schedule = schedule_of(CONFIG, recipe, stages, jnp.float32(0.8 if recipe.rate else 0.1))
    return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


FALLS = np.repeat([1, 0.1, 0.01, 0.001], [12, 12, 8, 4])
RISE = np.concatenate([0.1 + np.arange(8) * 0.7 / 8, np.full(28, 0.8)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small batch", 0.1 * np.repeat(FALLS, 8)),
        ("same rate", 0.1 * FALLS),
        ("linear", 0.8 * FALLS),
        ("square root", 0.1 * 8**0.5 * FALLS),
        ("linear, warm-up", RISE * FALLS),
        ("SGD, tuned", RISE * FALLS),
        # two epochs in batches of 4 with twice the base rate, then one epoch less two until the first fall
        ("linear, growing batch", np.concatenate([np.full(32, 0.2), 0.8 * FALLS[8:]])),
    ],
)
def test_rates_of_every_step(name, expected):
    np.testing.assert_allclose(rates(name), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["small batch", "linear", "linear, growing batch"])
def test_an_arm_sees_every_example_once_an_epoch(name):
    stages = stages_of(CONFIG, name)
    steps, seen = places(CONFIG, stages)
    sizes = np.diff(np.append(seen[:steps], CONFIG.epochs * CONFIG.examples))
    assert set(sizes) == set(stages.batch_sizes)


def test_the_rate_in_the_buffer_is_corrected_or_not_and_biases_are_left_out_of_lars():
    rng = np.random.default_rng(0)
    params = [(jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), jnp.zeros(2))]
    gradients = [(rng.normal(size=(6, 3, 2)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32))]

    def moves(recipe):
        optimizer = optimizer_of(recipe, optax.piecewise_constant_schedule(1.0, {3: 0.1}))

        def step(state, g):
            updates, state = optimizer.update(g, state, params)
            return state, updates

        return jax.jit(lambda g: jax.lax.scan(step, optimizer.init(params), g)[1])(gradients)

    outside, inside, corrected, lars = (
        moves(RECIPES["linear"]._replace(buffer=buffer, trust=trust))[0]
        for buffer, trust in (("outside", None), ("inside", None), ("corrected", None), ("outside", "paper"))
    )
    np.testing.assert_allclose(corrected[0], outside[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inside[0][:3], outside[0][:3], rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(inside[0][3] - outside[0][3])) > 0.3
    np.testing.assert_allclose(lars[1], outside[1], rtol=1e-6)
    g, w = gradients[0][0][0], np.asarray(params[0][0])
    norms = np.linalg.norm(w), np.linalg.norm(g)
    ratio = large_batches.TRUST * norms[0] / (norms[1] + large_batches.WEIGHT_DECAY * norms[0])
    np.testing.assert_allclose(lars[0][0], -ratio * (g + large_batches.WEIGHT_DECAY * w), rtol=1e-5)
