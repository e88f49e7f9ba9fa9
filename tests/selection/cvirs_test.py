import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import entropy

from minibatch_jax.selection import category_inconsistency, cvirs_scores, uncertainty_ranks

RNG = np.random.default_rng(0)
N, M, C = 23, 8, 5
LOGITS = (2 * RNG.normal(size=(N, C))).astype(np.float32)
CLASSES = RNG.random((M, C)) < 0.4
CLASSES[0], CLASSES[1] = False, True
LOGITS[0], LOGITS[1] = -2, 2  # predictions without a class, and of all classes


def distance(a, b):
    """The rule of one pair, from the table of the two vectors of bits."""
    if np.all(a != b):
        return 1.0
    joint = np.array([np.mean((a == i) & (b == j)) for i in (0, 1) for j in (0, 1)])
    h = entropy(joint, base=2)
    first, second = (entropy([np.mean(x), 1 - np.mean(x)], base=2) for x in (a, b))
    return (2 * h - first - second) / h if h > 0 else 0.0


def reference(logits, classes, pool):
    bits, sureness = logits > 0, np.abs(2 * expit(logits.astype(float)) - 1).round(12)
    inconsistency = np.array([np.mean([distance(a, b) for b in classes]) for a in bits])
    ranks = np.array([[np.sum(sureness[pool, c] < x) for c, x in enumerate(row)] for row in sureness])
    return inconsistency, np.sum(pool.sum() - ranks, axis=1) / (C * (pool.sum() - 1))


@pytest.mark.parametrize("block_size", [4, 64])
def test_the_score_is_the_rule_of_pairs_and_ranks(block_size):
    pool, known = np.arange(N) % 5 != 3, np.arange(M) != 5
    inconsistency, ranks = reference(LOGITS, CLASSES[known], pool)
    arrays = jnp.asarray(LOGITS), jnp.asarray(CLASSES), jnp.asarray(known), jnp.asarray(pool)
    found = jax.jit(lambda x, y, known: category_inconsistency(x, y, reference_mask=known, block_size=block_size))(
        *arrays[:3]
    )
    np.testing.assert_allclose(found, inconsistency, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(uncertainty_ranks(arrays[0], where=arrays[3]), np.where(pool, ranks, np.nan), rtol=1e-6)
    scores = cvirs_scores(*arrays[:2], reference_mask=arrays[2], where=arrays[3])
    np.testing.assert_allclose(scores, np.where(pool, inconsistency * ranks, np.nan), rtol=1e-5, atol=1e-6)


def test_equal_examples_share_a_rank():
    """Two examples are as sure, though of the opposite, and no example is between them."""
    found = uncertainty_ranks(jnp.array([[1.0], [-1.0], [0.5]]))
    np.testing.assert_allclose(found, [1.0, 1.0, 1.5])
    np.testing.assert_allclose(uncertainty_ranks(jnp.ones((1, 3))), [1.0])


def test_unknown_examples_have_no_score_and_change_no_rank():
    logits = np.concatenate([LOGITS, np.full((2, C), np.nan, np.float32)])
    found = cvirs_scores(jnp.asarray(logits), jnp.asarray(CLASSES))
    np.testing.assert_allclose(found[:N], cvirs_scores(jnp.asarray(LOGITS), jnp.asarray(CLASSES)), rtol=1e-6)
    assert np.isnan(found[N:]).all()
    nobody = jnp.zeros(M, bool)
    assert np.isnan(cvirs_scores(jnp.asarray(LOGITS), jnp.asarray(CLASSES), reference_mask=nobody)).all()


def test_bad_input_is_named():
    logits, classes = jnp.asarray(LOGITS), jnp.asarray(CLASSES)
    with pytest.raises(ValueError, match=r"reference_classes has shape \[8, 4\], wanted \[8, 5\]"):
        cvirs_scores(logits, classes[:, :4])
    with pytest.raises(TypeError, match="reference_classes has dtype int32, wanted bool"):
        cvirs_scores(logits, classes.astype(jnp.int32))
    with pytest.raises(ValueError, match="threshold is 2, wanted a number in"):
        cvirs_scores(logits, classes, threshold=2)
