"""Train an embedding without labels on three views of small batches, with two targets.

Method: TriBYOL
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import modules
from tests.recipes import digits


def recipe(encode, predict, params, optimizer, images, augment, key):
    def objective(params, targets, views):
        online = [predict(params["predictor"], encode(params["encoder"], v)) for v in views]
        first = [encode(targets.first, v) for v in views[:2]]
        second = [encode(targets.second, v) for v in views[::2]]
        return jnp.mean(modules.tri_byol_losses(tuple(online), tuple(first), tuple(second)))

    def step(carry, key):
        params, opt_state, targets = carry
        x = jax.random.choice(key, images, (32,))
        grads = jax.grad(objective)(params, targets, [augment(k, x) for k in jax.random.split(key, 3)])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, modules.update_targets(targets, params["encoder"], 0.9)), None

    start = params, optimizer.init(params), modules.init_targets(params["encoder"])
    (params, _, targets), _ = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, targets


def test_the_embedding_is_learned_without_labels():
    params = {"encoder": digits.init_embedder(), "predictor": digits.init_mlp(jax.random.key(1), 16, 32, 16)}
    params, targets = recipe(
        digits.mlp, digits.mlp, params, digits.OPTIMIZER, digits.train()["x"], digits.augment, digits.KEY(0)
    )
    first, second = (np.asarray(t[0]["w"]) for t in (targets.first, targets.second))
    assert 0 < np.abs(first - second).max() < 0.1  # two targets, in turn
    z = np.asarray(digits.embed(params["encoder"], digits.held_out()["x"]))
    print(z.std(axis=0).min(), digits.precision(params["encoder"]), digits.precision(digits.init_embedder()))
    assert digits.precision(params["encoder"]) > digits.precision(digits.init_embedder()) + 0.1
