"""Watch how large a batch is useful while training, from the micro-batches of each step.

Method: gradient noise scale
"""

import jax
import numpy as np
import optax

from minibatch_jax import sampling, scores
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    fn = scores.grouped_value_and_grad(losses, optax.identity(), micro_batches=8)
    watched = optax.chain(scores.noise_scale(decay=0.9), optimizer)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        _, grads, _, groups = fn(params, batch, optax.EmptyState(), weights=rows.weights)
        updates, opt_state = watched.update(grads, opt_state, params, groups=groups)
        return (optax.apply_updates(params, updates), opt_state, place), opt_state[0].noise_scale

    start = params, watched.init(params), sampler.init(key)
    (params, *_), noise_scales = jax.lax.scan(step, start, length=150)
    return params, noise_scales


def test_the_noise_scale_grows_as_the_digits_are_learned():
    params, noise_scales = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    assert digits.accuracy(params) > 0.95
    early, late = np.nanmedian(noise_scales[:20]), np.nanmedian(noise_scales[-30:])
    assert 10 < early < 100 and late > 3 * early
