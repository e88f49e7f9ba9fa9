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
        online = [predict(params["predictor"], encode(params["online"], v)) for v in views]
        first = [encode(targets.first, v) for v in views[:2]]
        second = [encode(targets.second, v) for v in views[::2]]
        return jnp.mean(modules.tri_byol_losses(tuple(online), tuple(first), tuple(second)))

    def step(carry, key):
        params, opt_state, targets = carry
        x = jax.random.choice(key, images, (32,))
        views = [augment(k, x) for k in jax.random.split(key, 3)]
        grads = jax.grad(objective)(params, targets, views)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, modules.update_targets(targets, params["online"], 0.9)), None

    start = params, optimizer.init(params), modules.init_targets(params["online"])
    (params, _, targets), _ = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, targets


def normalized(layers, x):
    """A layer, batch normalization, and another layer."""
    hidden = digits.mlp(layers[:1], x)
    hidden = (hidden - jnp.mean(hidden, axis=0)) / (jnp.std(hidden, axis=0) + 1e-3)
    return digits.mlp(layers[1:], jax.nn.relu(hidden))


def encode(params, x):
    return normalized(params["projector"], digits.mlp(params["encoder"], x))


def test_the_embedding_is_learned_without_labels():
    projector, predictor = (digits.init_mlp(jax.random.key(seed), 16, 64, 16) for seed in (1, 2))
    online = {"encoder": digits.init_embedder(), "projector": projector}
    params, targets = digits.run(
        recipe,
        encode,
        normalized,
        {"online": online, "predictor": predictor},
        digits.OPTIMIZER,
        digits.train()["x"],
        digits.augment,
        digits.KEY(0),
    )
    first, second = (np.asarray(t["encoder"][0]["w"]) for t in (targets.first, targets.second))
    assert 0 < np.abs(first - second).max() < 0.1  # two targets, in turn
    assert digits.precision(params["online"]["encoder"]) > digits.precision(digits.init_embedder()) + 0.05
