"""Train on a quarter of a batch from a mixture: a tiny source whole, and medoids of the gradients of the others.

Method: CoLM
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, scores, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, domains, key, keep_domains=(2,)):
    sampler = sampling.shuffled(len(data["y"]), 64)
    sizes = {"num_features": 640, "num_coordinates": 256}
    select = selection.keep_by_colm(16, 3, keep_domains=keep_domains, **sizes)
    select = optax.chain(select, normalize())

    def step(carry, key):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        z = scores.zeroth_order_features(key, losses, params, batch, parameter="1/w")
        fn = value_and_grad(losses, select, gather=16)
        (_, aux), grads, state = fn(params, batch, state, features=z, domains=domains[rows.indices])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    return jax.lax.scan(step, start, jax.random.split(key, 150))


def test_the_tiny_source_is_kept_whole_and_learned_better():
    data, labels = digits.train(), np.asarray(digits.train()["y"])
    rows = np.flatnonzero((labels < 8) | (np.cumsum(labels >= 8) <= 40))  # 40 images are left of the eights and nines
    data, labels = jax.tree.map(lambda a: a[rows], data), labels[rows]
    domains = jnp.asarray(np.where(labels < 5, 0, np.where(labels < 8, 1, 2)))
    test = digits.held_out()
    right = {}
    for keep_domains in ((2,), ()):
        (params, _, state, _), (seen, weights) = recipe(
            digits.losses, digits.init(), digits.OPTIMIZER, data, domains, digits.KEY(0), keep_domains
        )
        found = np.asarray(jnp.argmax(digits.logits(params, test["x"]), axis=1) == test["y"])
        right[keep_domains] = found[np.asarray(test["y"]) >= 8].mean()
        assert found.mean() > 0.85
        assert int(state[0].updates) == 150 and float(state[0].variance.min()) >= 0
        of_source, kept = np.asarray(domains)[seen], np.asarray(weights) > 0
        sizes, budgets = (
            np.stack([(m & (of_source == d)).sum(axis=1) for d in range(3)], axis=1) for m in (True, kept)
        )
        if keep_domains:
            np.testing.assert_array_equal(budgets[:, 2], sizes[:, 2])
            left = jax.vmap(selection.domain_budgets)(jnp.asarray(sizes[:, :2]), jnp.asarray(16 - sizes[:, 2]))
            np.testing.assert_array_equal(budgets[:, :2], left)
    assert right[(2,)] > right[()] + 0.02
