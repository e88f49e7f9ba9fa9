import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_reducible_loss": Case(lambda: selection.keep_by_reducible_loss(5), draws.loss_pairs),
}


finite = st.floats(-100, 100, width=32, allow_subnormal=False)  # XLA takes these for 0 on a CPU


def select(losses, reference, k):
    tx = selection.keep_by_reducible_loss(k)
    weights = jnp.ones(len(losses))
    return tx.update(weights, tx.init(weights), losses=jnp.asarray(losses), reference_losses=jnp.asarray(reference))[0]


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(hnp.arrays(np.float32, (2, 7), elements=finite), st.integers(1, 7))
def test_keeps_what_a_stable_sort_keeps(pair, k):
    expected = np.zeros(7)
    expected[np.argsort(-(pair[0] - pair[1]), kind="stable")[:k]] = 1
    np.testing.assert_array_equal(select(*pair, k), expected)


def test_without_irreducible_loss_it_is_the_top_loss_and_without_reducible_loss_the_first():
    losses = np.array([0.5, 3.0, 1.0, 2.0], np.float32)
    top = selection.keep_topk(2)
    expected = top.update(jnp.ones(4), top.init(jnp.ones(4)), losses=jnp.asarray(losses))[0]
    np.testing.assert_array_equal(select(losses, np.zeros(4, np.float32), 2), expected)
    np.testing.assert_array_equal(select(losses, losses, 2), [1, 1, 0, 0])


def test_negative_scores_are_ranked_not_clipped():
    np.testing.assert_array_equal(select(np.float32([1, 1, 1]), np.float32([3, 2, 4]), 1), [0, 1, 0])


def test_half_precision_is_subtracted_in_float32():
    score = selection.reducible_loss(jnp.array([256.0], jnp.bfloat16), jnp.array([0.5], jnp.bfloat16))
    assert score.dtype == jnp.float32 and float(score[0]) == 255.5


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="k is 0"):
        selection.keep_by_reducible_loss(0)
    with pytest.raises(ValueError, match="k is 5, wanted at most 3"):
        select(np.ones(3, np.float32), np.ones(3, np.float32), 5)
    with pytest.raises(ValueError, match="reference_losses has shape"):
        selection.reducible_loss(jnp.ones(3), jnp.ones(2))
    with pytest.raises(TypeError, match="reference_losses has dtype int32"):
        selection.reducible_loss(jnp.ones(3), jnp.arange(3))
