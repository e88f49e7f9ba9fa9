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
        z, w = logits(params, batch["x"]), batch["w"]
        terms = modules.class_balance(z, w) + 0.5 * modules.mean_entropy(z, w)
        return {"labels": -jax.nn.log_softmax(z), "terms": jnp.broadcast_to(terms, len(z))}

    fn = value_and_grad(items, optax.identity())

    def step(carry, _):
        params, opt_state, place, soft = carry
        rows, moved = sampler.sample(place)
        batch, w = {"x": x[rows.indices], "w": rows.weights}, rows.weights
        _, grads, _ = fn(
            params,
            batch,
            optax.EmptyState(),
            weights={"labels": w[:, None] * soft.labels[rows.indices], "terms": 0.8 * w},
        )
        soft = modules.write_soft_labels(
            soft,
            rows.indices,
            jax.nn.softmax(logits(params, batch["x"])),
        )
        soft = modules.publish_soft_labels(soft, moved.epochs[0] > place.epochs[0])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, moved, soft), None

    start = (
        params,
        optimizer.init(params),
        sampler.init(key, labeled=labels >= 0),
        modules.init_soft_labels(labels, 10),
    )
    return jax.lax.scan(step, start, length=300)[0]


def test_digits_are_learned_from_twenty_labels_better_than_from_those_alone():
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
