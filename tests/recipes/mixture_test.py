"""Draw the classes in a mixture that follows their losses while training.

Method: a mixture of domains, drawn or reweighed
"""

import jax
import numpy as np
import optax

from minibatch_jax import mixing, sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.mixture(digits.CLASSES, 64, mixing.mix_by_odm("perplexity", decay=0.5))

    def mean_loss(params, batch, weights):
        found = losses(params, batch)
        return found @ weights, found

    def step(carry, _):
        params, opt_state, mixture = carry
        rows, mixture = sampler.sample(mixture)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads, found = jax.grad(mean_loss, has_aux=True)(params, batch, rows.weights)
        mixture = sampler.update(mixture, rows, losses=found)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, mixture), mixture.weights

    start = params, optimizer.init(params), sampler.init(key, domains=data["y"])
    (params, *_), mixtures = jax.lax.scan(step, start, length=150)
    return params, mixtures


def test_hard_classes_come_more_often_and_the_digits_are_learned():
    train = digits.train()
    params, mixtures = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, train, digits.KEY(0))
    losses = np.asarray(digits.losses(digits.fit(digits.init(), train, 60), train))
    by_class = np.array([losses[np.asarray(train["y"]) == c].mean() for c in range(10)])
    share = np.asarray(mixtures)[20:].mean(axis=0)
    assert np.argmax(share) in np.argsort(by_class)[-3:]
    assert np.corrcoef(share, by_class)[0, 1] > 0.5
    assert digits.accuracy(params) > 0.95
