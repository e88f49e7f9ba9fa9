"""The loss with a traced rate of dropout, and the parts of the summary."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.modules import early_dropout as experiment
from experiments.modules.early_dropout import Config, Images

BATCH = Images(jax.random.uniform(jax.random.key(0), (12, 14, 14)), jnp.arange(12) % 10)
PARAMS = experiment.init_mlp(jax.random.key(1), (196, 16, 10))


def test_one_program_serves_all_rates_and_rate_zero_drops_nothing():
    traced = []
    loss = jax.jit(lambda *arguments: traced.append(1) or experiment.loss(*arguments))
    hidden = jax.nn.relu(BATCH.x.reshape(12, -1) @ PARAMS[0][0])
    expected = -jnp.mean(jax.nn.log_softmax(hidden @ PARAMS[1][0])[jnp.arange(12), BATCH.y])
    np.testing.assert_allclose(loss(PARAMS, BATCH, jnp.float32(0), jax.random.key(2)), expected, rtol=1e-5)
    assert abs(loss(PARAMS, BATCH, jnp.float32(0.5), jax.random.key(2)) - expected) > 1e-2
    assert len(traced) == 1


def test_images_move_by_whole_pixels_and_change_their_brightness():
    seen = experiment.shifted(BATCH, jnp.array([3, 3, 3, 3, 3, 3]), jax.random.key(3))
    padded = np.pad(BATCH.x[3], 3)
    for image in np.asarray(seen.x):
        windows = [padded[i : i + 14, j : j + 14] for i in range(7) for j in range(7)]
        factors = [np.sum(image * w) / np.sum(w * w) for w in windows]
        errors = [np.abs(image - f * w).max() for f, w in zip(factors, windows)]
        assert min(errors) < 1e-5 and 0.49 < factors[int(np.argmin(errors))] < 1.51


def test_the_summary_leaves_out_the_first_measurement():
    found = experiment.summary(Config(early=300, measure_every=100), {}, np.array([9.0, 1, 3, 5, 7]), np.zeros(5))
    assert found["early_variance"] == 2 and found["late_variance"] == 6
