"""Train two embedders on jointly chosen sub-batches, drawn from embeddings, without a matrix of losses of all pairs.

Method: JEST from embeddings
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, selection
from minibatch_jax.selection.jest_embeddings import sigmoid_pair_losses
from tests.recipes import digits, halves


def recipe(embeddings, params, reference, optimizer, data, num_rows, key):
    sampler = sampling.shuffled(num_rows, 64)

    def loss(params, batch):
        return jnp.mean(jnp.sum(sigmoid_pair_losses(embeddings(params, batch)), axis=1))

    def step(carry, key):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        models = embeddings(params, batch), embeddings(reference, batch)
        chosen = selection.jest_indices_from_embeddings(key, *models, 16, 4)
        grads = jax.grad(loss)(params, jax.tree.map(lambda a: a[chosen], batch))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices[chosen]

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, jax.random.split(key, 150))


def test_mismatched_pairs_are_left_out():
    data, wrong = halves.mismatched()
    (params, *_), rows = recipe(
        halves.embeddings, halves.init(), halves.reference(), digits.OPTIMIZER, data, len(wrong), digits.KEY(0)
    )
    assert np.mean(wrong[np.asarray(rows)]) < 0.2  # of a half
    assert halves.recall(params) > 0.3  # 0.24 from random rows


def test_rows_are_those_of_the_matrix_of_losses():
    batch = jax.tree.map(lambda a: a[:64], halves.mismatched()[0])
    models = [halves.embeddings(p, batch) for p in (halves.init(), halves.reference())]
    learnability = sigmoid_pair_losses(models[0]) - sigmoid_pair_losses(models[1])
    expected = selection.jest_indices(digits.KEY(3), learnability, 16, 4)
    np.testing.assert_array_equal(selection.jest_indices_from_embeddings(digits.KEY(3), *models, 16, 4), expected)
