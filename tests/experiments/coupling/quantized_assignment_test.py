"""What the experiment counts, on a matrix whose assignments are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import quantized_assignment as experiment


def test_counts_of_a_rounding_that_takes_the_dearer_pairs():
    cost = jnp.array([[1.0, 2.4], [2.0, 3.0]])  # 4.0 on the diagonal, 4.4 off it
    rounded = jnp.array([[1.0, 2.0], [1.0, 3.0]])
    found = experiment.compared(cost, rounded, repeats=1)
    assert (found["same"], found["levels"]) == (0, 3)
    assert found["regret"] == pytest.approx(10, rel=1e-5)
    assert found["gain"] == pytest.approx(100 * (1 - 4.4 / 4.2), rel=1e-4)
    exact = experiment.compared(cost, cost, repeats=1)
    assert (exact["same"], exact["regret"]) == (1, 0)


def test_roundings_are_as_fine_as_they_say():
    cost = jnp.asarray(np.random.default_rng(0).uniform(20, 40, (30, 30)), jnp.float32)
    arms = experiment.roundings(experiment.Config(bits=(8, 4)))
    levels = {name: len(np.unique(rounding(cost))) for name, rounding in arms.items()}
    assert levels["4 bits"] == 16 and levels["8 bits"] <= 256 < levels["float32"] == 900
    half = np.float16(np.asarray(cost) * np.float32(experiment.HALF_SCALE))
    np.testing.assert_array_equal(arms["float16"](cost), half.astype(np.float32))
