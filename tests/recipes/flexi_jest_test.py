"""Score a super-batch at a coarse resolution, and train on the chosen rows, half of them coarse and half fine.

Method: Flexi-JEST
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, selection
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses
from tests.recipes import digits, halves


def recipe(coarse, fine, params, reference, optimizer, data, num_rows, key):
    sampler = sampling.shuffled(num_rows, 64)

    def loss(params, batch, key):
        passes = functools.partial(coarse, params), functools.partial(fine, params)
        pair = selection.embed_at_two_resolutions(key, batch, *passes, num_cheap=8)
        return jnp.mean(jnp.sum(sigmoid_pair_losses(PairEmbeddings(*pair, 10.0, -5.0)), axis=1))

    def step(carry, key):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        models = [PairEmbeddings(*coarse(p, batch), 10.0, -5.0) for p in (params, reference)]
        chosen = selection.jest_indices_from_embeddings(key, *models, 16, 4)
        grads = jax.grad(loss)(params, jax.tree.map(lambda a: a[chosen], batch), key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices[chosen]

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, jax.random.split(key, 150))


def test_both_resolutions_are_learned_and_mismatched_pairs_left_out():
    data, wrong = halves.mismatched()
    towers = halves.init(), halves.reference()
    (params, *_), rows = recipe(halves.coarse, halves.embed, *towers, digits.OPTIMIZER, data, len(wrong), digits.KEY(0))
    assert np.mean(wrong[np.asarray(rows)]) < 0.25  # of a half
    assert halves.recall(params) > 0.24
    assert halves.recall(params, halves.coarse) > 0.17  # 0.11 if all rows are fine
