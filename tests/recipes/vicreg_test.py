"""Train an embedding without labels: two views are equal, and every feature varies on its own.

Method: VICReg
"""

import jax
import numpy as np
import optax

from minibatch_jax import modules
from tests.recipes import digits


def recipe(network, params, optimizer, images, augment, key):
    def objective(params, views):
        return modules.vicreg_loss(*(network(params, v) for v in views), covariance=25.0)

    def step(carry, key):
        params, opt_state = carry
        x = jax.random.choice(key, images, (128,))
        grads = jax.grad(objective)(params, [augment(k, x) for k in jax.random.split(key, 2)])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jax.random.split(key, 150))[0][0]


def test_the_features_vary_on_their_own_and_the_embedding_is_learned_without_labels():
    params = digits.run(
        recipe, digits.mlp, digits.init_embedder(), digits.OPTIMIZER, digits.train()["x"], digits.augment, digits.KEY(0)
    )
    z, before = (np.asarray(digits.mlp(p, digits.held_out()["x"])) for p in (params, digits.init_embedder()))
    assert z.std(axis=0).min() > 0.2
    print("C", common(z), common(before), digits.precision(params))
    assert common(z) < 1.5 * common(before)
    assert digits.precision(params) > digits.precision(digits.init_embedder()) + 0.1


def common(z):
    """Return the mean squared correlation of two features."""
    return np.mean(np.corrcoef(z.T)[~np.eye(z.shape[1], dtype=bool)] ** 2)
