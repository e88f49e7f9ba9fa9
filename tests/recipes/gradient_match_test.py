"""Train on eight examples of each batch, with the weights that give them the gradient of the whole batch.

Method: GradMatch
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import scores, selection, value_and_grad
from tests.recipes import digits


def recipe(logits, params, optimizer, data, key):
    def items(params, batch):
        out = logits(params, batch["x"])
        losses = optax.softmax_cross_entropy_with_integer_labels(out, batch["y"])
        return losses, {"features": scores.last_layer_gradients(out, batch["y"])}

    select = selection.keep_by_gradient_match(8)
    fn = value_and_grad(items, select, has_aux=True, gather=8)

    def step(carry, key):
        params, opt_state, state = carry
        rows = jax.random.choice(key, len(data["y"]), (64,))
        batch = jax.tree.map(lambda a: a[rows], data)
        (_, aux), grads, state = fn(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), (aux.weights, aux.signals)

    start = params, optimizer.init(params), select.init(jnp.ones(64))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, *seen


def test_eight_examples_have_the_gradient_of_64_and_teach_the_digits():
    run = digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    params, weights, signals = digits.run(recipe, digits.logits, *run)
    assert np.all(np.count_nonzero(weights, axis=1) <= 8)
    features = signals["features"]
    whole = features.mean(axis=1)
    lacking = np.linalg.norm(np.einsum("tb,tbd->td", weights, features) - whole, axis=1)
    first = np.linalg.norm(features[:, :8].mean(axis=1) - whole, axis=1)
    assert np.median(lacking) < 0.3 * np.median(first)
    assert digits.accuracy(params) > 0.9
