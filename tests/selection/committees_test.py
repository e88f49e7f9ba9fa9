import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_disputed": Case(lambda: selection.keep_disputed(5, key=0), draws.committee),
}


LOGITS = (2 * np.random.default_rng(0).normal(size=(30, 6, 4))).astype(np.float32)
P = softmax(LOGITS.astype(np.float64), axis=2)
VOTES = np.stack([np.bincount(row.argmax(1), minlength=4) for row in LOGITS]) / 6
SCORES = {
    "divergence": entropy(P.mean(1), axis=1) - entropy(P, axis=2).mean(1),  # the formula of BALD
    "votes": entropy(VOTES, axis=1),
}
FUNCTIONS = {"divergence": selection.consensus_divergence, "votes": selection.vote_entropy}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scores_are_those_of_scipy_and_the_highest_are_kept(name):
    np.testing.assert_allclose(FUNCTIONS[name](jnp.asarray(LOGITS)), SCORES[name], rtol=1e-5, atol=1e-6)
    pool = jnp.ones(30).at[7].set(0)
    tx = selection.keep_disputed(5, key=0, score=name)
    kept = np.asarray(tx.update(pool, tx.init(pool), committee_logits=jnp.asarray(LOGITS))[0]) > 0
    assert kept.sum() == 5 and not kept[7]
    left = ~kept & (np.arange(30) != 7)
    assert SCORES[name][kept].min() >= SCORES[name][left].max() - 1e-6  # votes tie


def test_the_divergence_is_the_mean_divergence_from_the_mean():
    expected = entropy(P, P.mean(1, keepdims=True), axis=2).mean(1)
    np.testing.assert_allclose(selection.consensus_divergence(jnp.asarray(LOGITS)), expected, rtol=1e-5)


def test_members_who_agree_dispute_nothing_and_a_small_dispute_is_measured():
    equal = np.repeat(LOGITS[:, :1], 6, axis=1)
    np.testing.assert_allclose(selection.consensus_divergence(jnp.asarray(equal)), 0, atol=1e-6)
    assert not selection.vote_entropy(jnp.asarray(equal)).any()
    p = np.array([[1e-9, 1 - 1e-9], [3e-9, 1 - 3e-9]])
    found = selection.consensus_divergence(jnp.asarray(np.log(p), jnp.float32)[None])
    wanted = np.mean([1e-9 * np.log(0.5), 3e-9 * np.log(1.5)])  # and (1 - p) ln((1 - p) / (1 - q)) sums to 0
    np.testing.assert_allclose(found, [wanted], rtol=1e-4)


def test_impossible_classes_and_members_without_a_softmax():
    with np.errstate(divide="ignore"):
        rows = np.log(np.array([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]] * 4))
    rows[1, 0] = np.nan
    rows[2, 1] = -np.inf
    rows[3, 0, 2] = np.inf
    expected = entropy([0.75, 0.25]) - entropy([0.5, 0.5]) / 2
    found = selection.consensus_divergence(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(found, [expected, np.nan, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(selection.vote_entropy(jnp.asarray(rows, jnp.float32)), [0, np.nan, np.nan, np.nan])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"committee_logits has shape \[3, 2\], wanted"):
        selection.vote_entropy(jnp.zeros((3, 2)))
    with pytest.raises(TypeError, match="committee_logits has dtype int32"):
        selection.consensus_divergence(jnp.zeros((3, 2, 2), jnp.int32))
    with pytest.raises(ValueError, match="score is 'margin', wanted one of"):
        selection.keep_disputed(1, key=0, score="margin")
    with pytest.raises(ValueError, match=r"committee_logits has shape \[2, 2, 2\]"):
        tx = selection.keep_disputed(1, key=0)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), committee_logits=jnp.zeros((2, 2, 2)))
