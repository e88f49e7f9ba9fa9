"""Train on mixed pairs of examples, with their soft labels as weights of the losses of all classes.

Method: mixup, Mosaic
"""

import jax
import jax.numpy as jnp
import optax
import pytest

from minibatch_jax import modules, sampling, value_and_grad
from tests.recipes import digits


def recipe(logits, params, optimizer, data, key, mix):
    sampler = sampling.shuffled(len(data["y"]), 64)
    fn = value_and_grad(lambda params, x: -jax.nn.log_softmax(logits(params, x)), optax.identity())

    def step(carry, key):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        labels = jax.nn.one_hot(data["y"][rows.indices], 10)
        mixed = mix(key, data["x"][rows.indices], labels, weights=rows.weights)
        weights = rows.weights[:, None] * mixed.targets
        _, grads, _ = fn(params, mixed.inputs, optax.EmptyState(), weights=weights)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, jax.random.split(key, 300))[0][0]


def image_logits(params, images):
    return digits.logits(params, images.reshape(len(images), -1))


@pytest.mark.parametrize("mix", [modules.mixup, modules.mosaic])
def test_the_digits_are_learned_from_mixed_images_alone(mix):
    data = digits.train()
    images = data | {"x": jnp.reshape(data["x"], (-1, 8, 8))}
    params = digits.run(recipe, image_logits, digits.init(), digits.OPTIMIZER, images, digits.KEY(0), mix)
    assert digits.accuracy(params) > 0.9
