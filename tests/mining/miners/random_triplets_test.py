"""Random triplets against the exact expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining import draws as drawn

CASES = {
    "mine_random": drawn.case(lambda: mining.mine_random(key=0)),
}


LABELS = jnp.array([0, 0, 0, 1, 1, 2, 3])


def distances(seed=0):
    return jax.random.uniform(jax.random.key(seed), (7, 7))


def test_random_triplets_are_on_average_all_triplets():
    masks = mining.positive_mask(LABELS), mining.negative_mask(LABELS)
    margin = 10.0  # every triplet is active, so the number of active ones is not random
    draws = jax.jit(jax.vmap(lambda key: mining.random_triplet_weights(key, distances(), *masks, margin=margin)))
    mean = jnp.mean(draws(jax.random.split(jax.random.key(1), 20_000)), axis=0)
    # each positive pair has weight 1/8 and spreads it evenly over the negatives of its anchor
    positives, negatives = (np.asarray(mask) for mask in masks)
    expected = positives / 8 + negatives * positives.sum(1, keepdims=True) / negatives.sum(1, keepdims=True) / 8
    np.testing.assert_allclose(mean, expected, atol=2e-3)


def test_one_draw_is_the_loss_of_one_negative_for_each_positive_pair():
    margin = 0.2
    weights = np.asarray(mining.mine_random(3, margin).update(*start(), distances=distances(), labels=LABELS)[0])
    positives, negatives = (np.asarray(mask(LABELS)) for mask in (mining.positive_mask, mining.negative_mask))
    assert (weights[~positives & ~negatives] == 0).all()
    _, all_active = mining.losses.triplets.triplet_pair_weights(
        distances(), mining.positive_mask(LABELS), mining.negative_mask(LABELS), margin=margin
    )
    assert (weights[np.asarray(all_active) == 0] == 0).all()  # a pair in no active triplet is not used
    np.testing.assert_allclose(weights[positives].sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.where(positives, weights, 0).sum(1), np.where(negatives, weights, 0).sum(1), rtol=1e-6
    )


def test_random_triplets_ignore_padding():
    tx = mining.mine_random(3, 0.2)
    weights = jnp.ones((7, 7)).at[5:].set(0).at[:, 5:].set(0)
    first = tx.update(weights, tx.init(weights), distances=distances(), labels=LABELS)[0]
    other = distances().at[5:].set(1e6).at[:, 5:].set(jnp.nan)
    second = tx.update(weights, tx.init(weights), distances=other, labels=LABELS)[0]
    np.testing.assert_array_equal(first, second)
    assert float(first.sum()) > 0 and not first[5:].any() and not first[:, 5:].any()


def test_every_update_draws_anew():
    tx = mining.mine_random(3, 10.0)
    weights, state = start()
    first, state = tx.update(weights, state, distances=distances(), labels=LABELS)
    second, _ = tx.update(weights, state, distances=distances(), labels=LABELS)
    assert not np.array_equal(first, second)


def test_the_negative_is_uniform_among_the_finite_ones():
    d = distances().at[0, 4].set(jnp.nan).at[3, 4].set(jnp.inf)
    masks = mining.positive_mask(LABELS), mining.negative_mask(LABELS)
    draws = jax.jit(jax.vmap(lambda key: mining.random_triplet_weights(key, d, *masks, margin=jnp.inf)))
    mean = np.mean(draws(jax.random.split(jax.random.key(2), 20_000)), axis=0)
    assert mean[0, 4] == 0 and np.all(mean[3] == 0)  # anchor 3 has no positive left
    np.testing.assert_allclose(mean[0, [3, 5, 6]], 2 / 3 / 7, rtol=0.03)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="margin is nan"):
        mining.mine_random(0, float("nan"))
    with pytest.raises(TypeError, match="key has dtype float32"):
        mining.mine_random(jnp.zeros(2))
    with pytest.raises(TypeError, match="positives has dtype int32, wanted bool"):
        mining.random_triplet_weights(0, jnp.ones((2, 2)), jnp.ones((2, 2), jnp.int32), jnp.ones((2, 2), bool))


def start():
    return jnp.ones((7, 7)), mining.mine_random(3, 0.2).init(jnp.ones((7, 7)))
