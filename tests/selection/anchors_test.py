import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_near_anchors": Case(
        lambda: selection.keep_near_anchors(3, key=0, num_classes=3, num_anchors=2, num_neighbors=3),
        draws.near_references,
    )
}
RNG = np.random.default_rng(1)
POOL = RNG.normal(size=(50, 3)).astype(np.float32)
LABELED = RNG.normal(size=(7, 3)).astype(np.float32)
LABELS = np.array([0, 1, 0, 0, 1, 5, -1])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_draws_have_the_chances_of_k_means_plus_plus():
    draws_of = jax.jit(
        jax.vmap(
            lambda key: selection.anchor_indices(
                key, jnp.asarray(LABELED), jnp.asarray(LABELS), num_classes=3, num_anchors=3
            )
        )
    )
    found = np.asarray(draws_of(jax.random.split(jax.random.key(0), 4000)))
    assert set(found[:, 1, 2]) == {7} and set(found[:, 2].ravel()) == {7}, "nobody is left"
    x = unit(LABELED.astype(float))
    for first, second, third in itertools.permutations([0, 2, 3]):
        squares = {i: np.sum((x[i] - x[first]) ** 2) for i in (second, third)}
        chance = squares[second] / sum(squares.values()) / 3
        share = np.mean(np.all(found[:, 0] == [first, second, third], axis=1))
        assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)
    assert abs(np.mean(found[:, 1, 0] == 1) - 0.5) < 0.04
    assert np.all(found[:, 1, 0] + found[:, 1, 1] == 1 + 4)


def test_equal_examples_of_a_class_are_each_drawn_once():
    features = jnp.asarray(np.ones((5, 2)), jnp.float32).at[4, 0].set(jnp.nan)
    found = selection.anchor_indices(3, features, jnp.zeros(5, jnp.int32), num_classes=1, num_anchors=6)
    assert sorted(found[0].tolist()) == [0, 1, 2, 3, 5, 5]


@pytest.mark.parametrize("block_size", [2, 64])
def test_scores_are_means_over_the_anchors_that_propose(block_size):
    free, exists = RNG.random(50) < 0.8, np.arange(7) != 3
    found = selection.anchor_scores(
        jnp.asarray(POOL),
        jnp.asarray(LABELED),
        num_neighbors=9,
        where=jnp.asarray(free),
        anchor_mask=jnp.asarray(exists),
        block_size=block_size,
    )
    proposed = {}
    for anchor in np.flatnonzero(exists):
        cosines = unit(POOL.astype(float)) @ unit(LABELED.astype(float))[anchor]
        for i in sorted(np.flatnonzero(free), key=lambda i: -cosines[i])[:9]:
            proposed.setdefault(i, []).append(cosines[i])
    expected = [np.mean(proposed.get(i, [-np.inf])) for i in range(50)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert max(map(len, proposed.values())) > 1


def test_anchors_propose_as_many_examples_of_a_rare_class_as_of_a_common_one():
    """5 of 100 labels, and 5 % of the pool, are of the rare class; all of what its anchors propose is kept."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [950, 50])
    centers = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    pool = jnp.asarray(centers[classes] + 0.2 * rng.normal(size=(1000, 3)), jnp.float32)
    labeled = np.concatenate([np.arange(95), np.arange(950, 955)])
    weights = jnp.ones(1000).at[labeled].set(0)
    tx = selection.keep_near_anchors(400, key=0, num_classes=2, num_anchors=5, num_neighbors=30)
    references = {"reference_features": pool[labeled], "reference_labels": jnp.asarray(classes[labeled])}
    kept = np.asarray(tx.update(weights, tx.init(weights), features=pool, **references)[0])
    assert 30 <= kept[950:].sum() <= 45 and 60 <= kept[:950].sum() <= 150


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="labels has dtype float32"):
        selection.anchor_indices(0, jnp.ones((3, 2)), jnp.ones(3), num_classes=2)
    with pytest.raises(ValueError, match="num_classes is 0, wanted at least 1"):
        selection.keep_near_anchors(1, 0, num_classes=0)
    with pytest.raises(ValueError, match="num_neighbors is 50, wanted at most 3"):
        selection.anchor_scores(jnp.ones((3, 2)), jnp.ones((1, 2)))
