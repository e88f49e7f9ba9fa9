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
    z = np.asarray(digits.mlp(params, digits.held_out()["x"]))
    assert z.std(axis=0).min() > 0.25
    common = np.corrcoef(z.T)[~np.eye(16, dtype=bool)] ** 2
    assert np.mean(common) < 0.2  # of two features; 0.99 without the term of covariances
    assert digits.precision(params) > digits.precision(digits.init_embedder()) + 0.1
