import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from minibatch_jax import selection
from minibatch_jax.selection import adaptive_inconsistency, cardinality_inconsistency
from tests.case import Case
from tests.selection import draws

CASES = {"keep_inconsistent": Case(lambda: selection.keep_inconsistent(5, 1.2, key=0), draws.predicted)}
LOGITS = (2 * np.random.default_rng(0).normal(size=(60, 3))).astype(np.float32)
P = expit(LOGITS.astype(np.float64))


def separation(p, threshold):
    """The margin one example at a time; the classes are sorted into two lists."""
    inside, outside = [x for x in p if x > threshold], [x for x in p if x <= threshold]
    return min(inside, default=threshold) - max(outside, default=threshold)


def top_two(p, threshold):
    return sorted(p)[-1] - sorted(p)[-2]


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_inconsistency_counts_classes(threshold):
    expected = [abs(sum(x > threshold for x in p) - 1.7) for p in P]
    found = cardinality_inconsistency(jnp.asarray(LOGITS), 1.7, threshold=threshold)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("margin", [separation, top_two], ids=["separation", "top_two"])
@pytest.mark.parametrize("balance", [0.0, 0.25, 1.0])
def test_the_adaptive_score_is_the_formula(margin, balance):
    assert {0, 3} < {int((p > 0.5).sum()) for p in P}  # sides without a class
    expected = [
        (1 / max(margin(p, 0.5), 0.01)) ** balance * (1 + abs((p > 0.5).sum() - 1.7)) ** (1 - balance) for p in P
    ]
    found = adaptive_inconsistency(jnp.asarray(LOGITS), 1.7, balance=balance, margin=margin.__name__)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_certain_class_counts_and_an_unknown_one_has_no_score():
    logits = jnp.array([[jnp.inf, -jnp.inf], [jnp.nan, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(cardinality_inconsistency(logits, 0.0), [1, np.nan, 0])
    np.testing.assert_allclose(adaptive_inconsistency(logits, 1.0), [1, np.nan, 10 * np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(
        adaptive_inconsistency(logits, 1.0, margin="top_two"), [1, np.nan, 10 * np.sqrt(2)], rtol=1e-6
    )


def test_a_pool_keeps_the_highest_scores():
    pool = jnp.ones(60).at[7].set(0)
    tx = selection.keep_inconsistent(6, 1.7, key=0, balance=0.25)
    kept = tx.update(pool, tx.init(pool), logits=jnp.asarray(LOGITS))[0]
    scores = [1 / max(separation(p, 0.5), 0.01) * (1 + abs((p > 0.5).sum() - 1.7)) ** 3 for p in P]  # to the power of 4
    assert sorted(np.flatnonzero(kept)) == sorted(sorted(np.flatnonzero(pool), key=lambda i: -scores[i])[:6])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mean_labels is -1, wanted a number in"):
        cardinality_inconsistency(jnp.asarray(LOGITS), -1)
    with pytest.raises(ValueError, match="threshold is 2, wanted a number in"):
        cardinality_inconsistency(jnp.asarray(LOGITS), 1, threshold=2)
    with pytest.raises(ValueError, match="balance is 1.5, wanted a number in"):
        adaptive_inconsistency(jnp.asarray(LOGITS), 1, balance=1.5)
    with pytest.raises(ValueError, match="margin is 'largest', wanted one of"):
        adaptive_inconsistency(jnp.asarray(LOGITS), 1, margin="largest")
    with pytest.raises(ValueError, match="wanted at least 2 classes"):
        adaptive_inconsistency(jnp.asarray(LOGITS[:, :1]), 1, margin="top_two")
