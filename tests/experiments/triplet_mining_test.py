"""The random baseline against the exact expectation, and the splits of the experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.triplet_mining import class_rows, mine_random, random_triplet_weights, rows_of_one_class
from minibatch_jax.mining import negative_mask, positive_mask, triplet_pair_weights

LABELS = jnp.array([0, 0, 0, 1, 1, 2, 3])


def distances(seed=0):
    return jax.random.uniform(jax.random.key(seed), (7, 7))


def test_random_triplets_are_on_average_all_triplets():
    masks = positive_mask(LABELS), negative_mask(LABELS)
    margin = 10.0  # every triplet is active, so the number of active ones is not random
    draws = jax.jit(jax.vmap(lambda key: random_triplet_weights(key, distances(), *masks, margin)))
    mean = jnp.mean(draws(jax.random.split(jax.random.key(1), 20_000)), axis=0)
    # each positive pair has weight 1/8 and spreads it evenly over the negatives of its anchor
    positives, negatives = (np.asarray(mask) for mask in masks)
    expected = positives / 8 + negatives * positives.sum(1, keepdims=True) / negatives.sum(1, keepdims=True) / 8
    np.testing.assert_allclose(mean, expected, atol=2e-3)


def test_one_draw_is_the_loss_of_one_negative_for_each_positive_pair():
    margin = 0.2
    weights = np.asarray(mine_random(margin, 3).update(*start(), distances=distances(), labels=LABELS)[0])
    positives, negatives = (np.asarray(mask(LABELS)) for mask in (positive_mask, negative_mask))
    assert (weights[~positives & ~negatives] == 0).all()
    _, all_active = triplet_pair_weights(distances(), positive_mask(LABELS), negative_mask(LABELS), margin)
    assert (weights[np.asarray(all_active) == 0] == 0).all()  # a pair in no active triplet is not used
    np.testing.assert_allclose(weights[positives].sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.where(positives, weights, 0).sum(1), np.where(negatives, weights, 0).sum(1), rtol=1e-6
    )


def test_random_triplets_ignore_padding():
    tx = mine_random(0.2, 3)
    weights = jnp.ones((7, 7)).at[5:].set(0).at[:, 5:].set(0)
    first = tx.update(weights, tx.init(weights), distances=distances(), labels=LABELS)[0]
    other = distances().at[5:].set(1e6).at[:, 5:].set(jnp.nan)
    second = tx.update(weights, tx.init(weights), distances=other, labels=LABELS)[0]
    np.testing.assert_array_equal(first, second)
    assert float(first.sum()) > 0 and not first[5:].any() and not first[:, 5:].any()


def test_every_update_draws_anew():
    tx = mine_random(10.0, 3)
    weights, state = start()
    first, state = tx.update(weights, state, distances=distances(), labels=LABELS)
    second, _ = tx.update(weights, state, distances=distances(), labels=LABELS)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("validate", [False, True])
def test_rows_hold_one_class_and_test_classes_are_new(validate):
    splits = rows_of_one_class("digits", validate)
    assert not set(splits["train"]["label"]) & set(splits["test"]["label"])
    assert {rows["image"].shape[1:] for rows in splits.values()} == {(4, 64)}


def test_class_rows_are_images_of_their_class():
    from minibatch_jax.data import arrays

    data, rows = arrays("digits", "test"), class_rows("digits", "test", 5, 10)
    classes = {image.tobytes(): label for image, label in zip(data["image"].astype(np.float32), data["label"])}
    assert all(classes[image.tobytes()] == label for row, label in zip(*rows.values()) for image in row)


def start():
    return jnp.ones((7, 7)), mine_random(0.2, 3).init(jnp.ones((7, 7)))
