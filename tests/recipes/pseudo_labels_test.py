"""Train on labels that the model gave to unlabeled rows in the epoch before, kept from collapsing to few classes.

Method: pseudo-labels by example, balanced
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import modules, sampling, value_and_grad
from tests.recipes import digits


def recipe(logits, params, optimizer, x, labels, key):
    sampler = sampling.labelled_quota(64, 16)

    def items(params, batch):
        z, rows = logits(params, batch["x"]), len(batch["x"])
        balance = 0.8 * modules.class_balance(z, batch["w"]) + 0.4 * modules.mean_entropy(z, batch["w"])
        return {"labels": -jax.nn.log_softmax(z), "balance": jnp.broadcast_to(balance, rows)}

    fn = value_and_grad(items, optax.identity())

    def step(carry, _):
        params, opt_state, place, soft = carry
        rows, next_place = sampler.sample(place)
        batch, weights = {"x": x[rows.indices], "w": rows.weights}, rows.weights[:, None] * soft.labels[rows.indices]
        _, grads, _ = fn(params, batch, optax.EmptyState(), weights={"labels": weights, "balance": rows.weights})
        soft = modules.write_soft_labels(soft, rows.indices, jax.nn.softmax(logits(params, batch["x"])))
        ended = next_place.epochs[0] > place.epochs[0]
        soft = jax.tree.map(lambda new, old: jnp.where(ended, new, old), modules.publish_soft_labels(soft), soft)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, next_place, soft), None

    place, soft = sampler.init(key, labeled=labels >= 0), modules.init_soft_labels(labels, 10)
    return jax.lax.scan(step, (params, optimizer.init(params), place, soft), length=300)[0]


def test_digits_are_learned_from_ten_labels_better_than_from_those_alone():
    data = digits.train()
    y = np.asarray(data["y"])
    first = [np.flatnonzero(y == c)[:2] for c in range(10)]
    labels = np.where(np.isin(np.arange(len(y)), np.concatenate(first)), y, -1).astype(np.int32)
    arguments = digits.logits, digits.init(), digits.OPTIMIZER, data["x"], jnp.asarray(labels), digits.KEY(0)
    params, _, place, soft = digits.run(recipe, *arguments)
    assert place.epochs[0] == 300 // -(-1516 // 48) and not np.any(np.sum(soft.labels, axis=1) < 0.99)
    few = jax.tree.map(lambda a: a[np.concatenate(first)], data)
    alone = digits.fit(digits.init(), few, steps=300)
    assert digits.accuracy(params) > digits.accuracy(alone) + 0.03
