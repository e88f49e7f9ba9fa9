"""Outliers of sub-centers against pytorch-metric-learning and against planted wrong labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mining import cosine_similarity, sub_center_outliers
from tests.mining.peer import LABELS, PEER, X


def test_outliers_are_those_of_the_peer():
    centers = jnp.asarray(np.array(PEER["weights"]).T)
    similarities = cosine_similarity(jnp.asarray(X), centers).reshape(len(X), 4, 3)
    found = jax.jit(lambda s, y: sub_center_outliers(s, y, angle=np.pi / 3))(similarities, jnp.asarray(LABELS))
    assert 0 < len(PEER["outliers"]) < len(X)
    np.testing.assert_array_equal(np.flatnonzero(found.mask), np.sort(PEER["outliers"]))


def test_planted_wrong_labels_are_found():
    rng = np.random.default_rng(0)
    directions = np.eye(6, dtype=np.float32)
    truth = rng.integers(0, 3, 300)
    labels = np.where(np.arange(300) < 30, (truth + 1) % 3, truth)
    x = directions[truth] + 0.1 * rng.normal(size=(300, 6)).astype(np.float32)
    centers = np.stack([directions[:3], directions[[2, 0, 1]]], axis=1).reshape(6, 6)
    similarities = cosine_similarity(jnp.asarray(x), jnp.asarray(centers)).reshape(300, 3, 2)
    found = sub_center_outliers(similarities, jnp.asarray(labels))
    np.testing.assert_array_equal(np.flatnonzero(found.mask), np.arange(30))
    assert found.dominant.tolist() == [0, 0, 0]


def test_examples_without_a_class_or_with_nan_are_no_outliers_and_do_not_vote():
    similarities = jnp.array([[[0.9, 0.1]], [[0.0, 0.8]], [[0.1, 0.9]], [[jnp.nan, 0.9]], [[0.0, 0.9]]])
    labels = jnp.array([0, 0, -1, 0, 7], jnp.int8)
    found = sub_center_outliers(similarities, labels)
    assert found.mask.tolist() == [False, True, False, False, False] and found.dominant.tolist() == [0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"labels has shape \[2\], wanted \[3\]"):
        sub_center_outliers(jnp.ones((3, 2, 2)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="angle is 4"):
        sub_center_outliers(jnp.ones((3, 2, 2)), jnp.zeros(3, int), angle=4.0)
