"""Train two embedders on sub-batches that are worth most together, by the losses of their pairs and a reference's.

Method: JEST
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from minibatch_jax.selection.jest_embeddings import sigmoid_pair_losses
from tests.recipes import digits, halves


def recipe(embeddings, params, reference, optimizer, data, num_rows, key):
    sampler = sampling.shuffled(num_rows, 64)
    select = optax.chain(selection.keep_by_jest(16, 4, key), normalize())

    def losses(params, batch):
        pairs = sigmoid_pair_losses(embeddings(params, batch))
        return jnp.sum(pairs, axis=1), {"pair_losses": pairs}

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        expected = sigmoid_pair_losses(embeddings(reference, batch))
        fn = value_and_grad(losses, select, gather=16, has_aux=True)
        (_, aux), grads, state = fn(params, batch, state, reference_pair_losses=expected)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), rows.indices[aux.indices]

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    return jax.lax.scan(step, start, length=150)


def test_mismatched_pairs_are_left_out():
    data, wrong = halves.mismatched()
    (params, *_), rows = recipe(
        halves.embeddings, halves.init(), halves.reference(), digits.OPTIMIZER, data, len(wrong), digits.KEY(0)
    )
    assert rows.shape == (150, 16) and all(len(set(r)) == 16 for r in np.asarray(rows).tolist())
    assert np.mean(wrong[np.asarray(rows)]) < 0.2  # of a half
    assert halves.recall(params) > 0.3  # 0.24 from random rows
