"""Train a classifier whose features attend to each other across the batch, and test it without.

Method: BatchFormer
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from minibatch_jax import modules, sampling
from tests.recipes import digits


def recipe(features, head, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    former = modules.BatchFormer(64, num_heads=4, dropout=0.0, rngs=nnx.Rngs(0))
    definition, attention, rest = nnx.split(former, nnx.Param, ...)

    def objective(params, batch):
        former = nnx.merge(definition, params["attention"], rest)
        logits = head(params, former(features(params, batch["x"])))
        labels = jnp.tile(batch["y"], 2)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        grads = jax.grad(objective)(params, jax.tree.map(lambda a: a[rows.indices], data))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    params = params | {"attention": attention}
    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=150)[0][0]


def features(params, x):
    return jax.nn.relu(digits.mlp(params["layers"][:1], x))


def head(params, z):
    return digits.mlp(params["layers"][1:], z)


def test_the_classifier_is_learned_and_is_good_with_and_without_attention():
    params = {"layers": digits.init()}
    params = digits.run(recipe, features, head, params, digits.OPTIMIZER, digits.train(), digits.KEY(0))
    assert digits.accuracy(params["layers"]) > 0.95
    test = digits.held_out()
    former = modules.BatchFormer(64, num_heads=4, dropout=0.0, rngs=nnx.Rngs(1))
    nnx.update(former, params["attention"])
    z = features(params, test["x"])
    attended = former(z)[256:]
    assert np.mean(np.argmax(head(params, attended), axis=1) == test["y"]) > 0.9
    alone = former(z[:1])[1:]
    assert np.max(np.abs(attended[:1] - alone)) > 0.01  # examples see each other
