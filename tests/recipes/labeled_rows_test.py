"""Train where few rows have a label, with some of those in every batch.

Method: a quota of labeled rows
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, labeled, key):
    sampler = sampling.labelled_quota(64, 16)

    def objective(params, rows):
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        return losses(params, batch) @ rows.weights

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        grads = jax.grad(objective)(params, rows)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices

    start = params, optimizer.init(params), sampler.init(key, labeled=labeled)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def smoothed_losses(params, batch):
    """Cross-entropy of labeled rows; of the others, entropy of what the model predicts."""
    log_p = jax.nn.log_softmax(digits.logits(params, batch["x"]))
    labels = jax.nn.one_hot(batch["y"], digits.CLASSES)  # zeros where the label is -1
    known = (batch["y"] >= 0)[:, None]
    return -jnp.sum(jnp.where(known, labels, 0.1 * jnp.exp(log_p)) * log_p, axis=1)


def test_each_batch_has_sixteen_labeled_rows_and_the_digits_are_learned_from_a_hundred():
    data = digits.train()
    labeled = jnp.arange(len(data["y"])) < 100
    data = data | {"y": jnp.where(labeled, data["y"], -1)}
    params, seen = digits.run(recipe, smoothed_losses, digits.init(), digits.OPTIMIZER, data, labeled, digits.KEY(0))
    assert np.all(np.sum((seen >= 0) & (seen < 100), axis=1) == 16)
    assert digits.accuracy(params) > 0.85
