"""Train a denoiser on a few clean images and many that came with noise.

Method: Ambient diffusion
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, value_and_grad
from tests.recipes import digits


def recipe(denoise, params, optimizer, data, key):
    count = mixing.reweigh_by_noise_level()

    def losses(params, batch):
        _, inputs, levels, corruption = batch
        error = denoise(params, inputs, jnp.log(levels)) - mixing.ambient_targets(*batch)
        return jnp.mean(error**2, axis=1), {"noise_levels": levels, "corruption": corruption}

    def step(carry, key):
        params, opt_state, state = carry
        keys = jax.random.split(key, 3)
        x, corruption = (jax.random.choice(keys[0], data[n], (64,)) for n in ("x", "corruption"))
        levels = mixing.ambient_noise_levels(keys[1], corruption, log_mean=-0.4, log_std=0.5)
        batch = x, mixing.ambient_inputs(keys[2], x, levels, corruption), levels, corruption
        (_, aux), grads, state = value_and_grad(losses, count, has_aux=True)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (
            (optax.apply_updates(params, updates), opt_state, state),
            (corruption, levels, aux.weights),
        )

    start = params, optimizer.init(params), count.init(jnp.zeros(64))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 1000))
    return params, seen


def trained(corruption, declared):
    """Parameters of a denoiser of points whose coordinates are 1 or -1; nine of ten have noise, maybe undeclared."""
    keys = jax.random.split(jax.random.key(1), 2)
    points = jnp.where(jax.random.bernoulli(keys[0], shape=(2000, 2)), 1.0, -1.0)
    noise = jnp.where(jnp.arange(2000) % 10 > 0, corruption, 0.0)
    data = {"x": points + noise[:, None] * jax.random.normal(keys[1], points.shape), "corruption": declared * noise}
    start = digits.init_mlp(jax.random.key(0), 3, 64, 2)
    return digits.run(recipe, digits.velocity, start, digits.OPTIMIZER, data, digits.KEY(0))


def error_of(params, level=0.7):
    """Mean squared distance to the mean of the points given an input of this level, which is tanh(input / level^2)."""
    inputs = 1.0 + level * jax.random.normal(jax.random.key(2), (1000, 2))
    denoised = digits.velocity(params, inputs, jnp.full(1000, jnp.log(level)))
    return float(jnp.mean((denoised - jnp.tanh(inputs / level**2)) ** 2))


def test_noisy_points_teach_the_denoiser_and_do_not_teach_it_their_noise():
    params, (corruption, levels, weights) = trained(0.5, 1.0)
    naive, _ = trained(0.5, 0.0)
    assert error_of(params) < 0.5 * error_of(naive)
    np.testing.assert_allclose(64 * weights, (1 - (corruption / levels) ** 2) ** 2, atol=1e-5)
    assert 0.05 < np.mean(corruption == 0) < 0.15 and np.all(levels >= corruption)
