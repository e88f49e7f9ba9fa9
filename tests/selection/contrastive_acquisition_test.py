import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from minibatch_jax import selection
from minibatch_jax.selection import contrastive_scores
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_contrast": Case(
        lambda: selection.keep_by_contrast(5, key=0, num_neighbors=2), draws.contrasted, tolerance=1e-5
    ),
}


RNG = np.random.default_rng(0)
N, M, K = 17, 9, 3
LOGITS, REFERENCE_LOGITS = (2 * RNG.normal(size=(n, 4)).astype(np.float32) for n in (N, M))
FEATURES, REFERENCES = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (N, M))


def loop(exists):
    """The rule one example at a time, in float64."""
    scores = []
    for logits, x in zip(LOGITS, FEATURES):
        cosine = REFERENCES @ x / np.linalg.norm(REFERENCES, axis=1)
        near = [j for j in np.argsort(-cosine) if exists[j]][:K]
        scores.append(np.mean([entropy(softmax(REFERENCE_LOGITS[j].astype(float)), softmax(logits)) for j in near]))
    return np.array(scores)


def scores(logits=LOGITS, features=FEATURES, references=REFERENCES, mask=None, block_size=5, num_neighbors=K):
    arrays = map(jnp.asarray, (logits, features, REFERENCE_LOGITS, references))
    options = {"num_neighbors": num_neighbors, "block_size": block_size}
    return contrastive_scores(*arrays, reference_mask=None if mask is None else jnp.asarray(mask), **options)


@pytest.mark.parametrize("present", [M, 5, 2])
def test_is_the_loop_also_if_few_references_exist(present):
    mask = np.arange(M) < present
    np.testing.assert_allclose(scores(mask=mask), loop(mask), rtol=2e-5)


def test_blocks_and_lengths_of_features_change_nothing():
    expected = scores()
    np.testing.assert_allclose(scores(block_size=64), expected, rtol=1e-6)
    scale = RNG.uniform(0.1, 9, (N, 1)).astype(np.float32)
    np.testing.assert_allclose(scores(features=scale * FEATURES, references=3 * REFERENCES), expected, rtol=1e-5)


def test_a_reference_that_is_not_finite_does_not_count():
    references, mask = REFERENCES.copy(), np.ones(M, bool)
    references[4, 1], mask[4] = np.nan, False
    np.testing.assert_allclose(scores(references=references), scores(mask=mask), rtol=1e-6)


def test_examples_without_a_score():
    logits, features, expected = LOGITS.copy(), FEATURES.copy(), np.array(scores())
    logits[1, 0], features[3, 2], logits[5, 1] = np.nan, np.inf, -np.inf
    expected[[1, 3]], expected[5] = np.nan, np.inf
    np.testing.assert_allclose(scores(logits, features), expected, rtol=1e-6)
    assert np.all(np.isnan(scores(mask=np.zeros(M, bool))))


def test_a_pool_keeps_the_highest_scores():
    pool, labels = jnp.ones(N).at[4].set(0), jnp.where(jnp.arange(M) < 6, 1, -1)
    tx = selection.keep_by_contrast(5, key=0, num_neighbors=K)
    signals = {"reference_logits": REFERENCE_LOGITS, "reference_features": REFERENCES, "reference_labels": labels}
    kept = tx.update(pool, tx.init(pool), logits=LOGITS, features=FEATURES, **signals)[0]
    best = np.argsort(np.where(np.arange(N) == 4, np.inf, -loop(np.arange(M) < 6)))[:5]
    assert sorted(np.flatnonzero(kept)) == sorted(best)
    lowest = np.argmin(np.where(np.arange(N) == 4, np.inf, loop(np.arange(M) < 6)))
    logits = LOGITS.copy()
    logits[lowest, 0] = -np.inf  # its score is infinite: the highest
    kept = tx.update(pool, tx.init(pool), logits=logits, features=FEATURES, **signals)[0]
    assert sorted(np.flatnonzero(kept)) == sorted([lowest, *best[:4]])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"num_neighbors is 10, wanted at most 9 \(the number of references\)"):
        scores(num_neighbors=10)
    with pytest.raises(ValueError, match=r"features has shape \[4, 5\]"):
        scores(features=FEATURES[:4])
    with pytest.raises(ValueError, match=r"reference_features has shape \[9, 4\]"):
        scores(references=REFERENCES[:, :4])
    with pytest.raises(TypeError, match="reference_mask has dtype int32"):
        scores(mask=np.ones(M, np.int32))
    with pytest.raises(ValueError, match="block_size is 0"):
        scores(block_size=0)
