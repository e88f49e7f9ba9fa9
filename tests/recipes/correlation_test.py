"""Train two networks on the upper and lower halves of the images, so that their outputs are most correlated.

Method: DCCA, DCCAE
"""

import jax
import numpy as np
import optax

from minibatch_jax import modules, sampling
from tests.recipes import digits


def recipe(network, params, optimizer, views, key):
    sampler = sampling.shuffled(len(views[0]), 256)

    def objective(params, batch):
        outputs = [network(p, view) for p, view in zip(params, batch, strict=True)]
        return -modules.canonical_correlation(*outputs, ridge=0.01)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = [view[rows.indices] for view in views]
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    params = jax.lax.scan(step, start, length=100)[0][0]
    outputs = [network(p, view) for p, view in zip(params, views, strict=True)]
    return params, modules.linear_cca(*outputs)


def test_unseen_images_are_more_correlated_than_by_linear_maps():
    halves = [[data["x"][:, :32], data["x"][:, 32:]] for data in (digits.train(), digits.held_out())]
    params = [digits.init_mlp(jax.random.key(seed), 32, 64, 8) for seed in (0, 1)]
    params, maps = digits.run(recipe, digits.mlp, params, digits.OPTIMIZER, halves[0], digits.KEY(0))
    outputs = [digits.mlp(p, half) for p, half in zip(params, halves[1], strict=True)]
    linear = modules.linear_cca(*halves[0], num_components=8)
    assert correlation(outputs, maps) > correlation(halves[1], linear) + 0.4


def correlation(views, maps):
    """Return the sum of the correlations of two projected views."""
    first, second = (np.asarray(a) @ np.asarray(m) for a, m in zip(views, maps[:2], strict=True))
    return sum(np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True))
