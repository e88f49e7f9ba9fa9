import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import chisquare

from minibatch_jax import selection
from minibatch_jax.selection import keep_bottomk, keep_topk, topk_mask
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_topk": Case(lambda: selection.keep_topk(5), draws.losses),
    "keep_bottomk": Case(lambda: selection.keep_bottomk(5), draws.losses),
}


SCORES = hnp.arrays(
    np.float32,
    st.sampled_from([1, 6]),
    elements=st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan]),
)


def numpy_topk(scores, k, where):
    """Walk through the items from the highest score, the lowest index first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i) if np.isfinite(scores[i]) else (np.inf, i))
    kept = [i for i in order if np.isfinite(scores[i]) and where[i]][:k]
    return np.isin(np.arange(len(scores)), kept)


@hypothesis.given(SCORES, st.data())
@hypothesis.settings(deadline=None, max_examples=40)
def test_mask_equals_a_walk_through_the_sorted_scores(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    where = data.draw(hnp.arrays(bool, len(scores)))
    np.testing.assert_array_equal(
        topk_mask(jnp.asarray(scores), k, where=jnp.asarray(where)), numpy_topk(scores, k, where)
    )


@hypothesis.given(st.permutations(range(8)), st.integers(1, 8))
@hypothesis.settings(deadline=None, max_examples=30)
def test_selection_follows_a_permutation_of_the_batch(permutation, k):
    losses = np.linspace(0.1, 2.0, 8, dtype=np.float32)
    order = np.array(permutation)
    for tx in (keep_topk(k), keep_bottomk(k)):
        kept, _ = tx.update(jnp.ones(8), tx.init(jnp.ones(8)), losses=jnp.asarray(losses))
        permuted, _ = tx.update(jnp.ones(8), tx.init(jnp.ones(8)), losses=jnp.asarray(losses[order]))
        np.testing.assert_array_equal(permuted, np.asarray(kept)[order])


@pytest.mark.parametrize("k", [1, 3, 7])
def test_weights_are_the_gradient_of_the_sum_of_the_k_extreme_losses(k):
    losses = np.random.default_rng(0).normal(size=7).astype(np.float32)
    step = 1e-2

    def extreme_sum(values, sign):
        return sign * np.sort(sign * values)[::-1][:k].sum()

    for tx, sign in ((keep_topk(k), 1), (keep_bottomk(k), -1)):
        kept, _ = tx.update(jnp.ones(7), tx.init(jnp.ones(7)), losses=jnp.asarray(losses))
        slopes = [
            (extreme_sum(losses + step * e, sign) - extreme_sum(losses - step * e, sign)) / (2 * step)
            for e in np.eye(7)
        ]
        np.testing.assert_allclose(kept, slopes, atol=1e-3)


@pytest.mark.parametrize("scores", [[-0.0, 0.0, 0.0], [0.0, -0.0, 0.0]])
def test_zeros_of_both_signs_tie(scores):
    assert topk_mask(jnp.array(scores), 1).tolist() == [True, False, False]


def test_a_key_breaks_ties_uniformly_and_changes_nothing_else():
    scores = jnp.array([1.0, 2.0, 1.0, jnp.nan, 1.0, 0.0, 1.0])
    where = jnp.array([True, True, True, True, True, True, False])
    draws = jax.vmap(lambda key: topk_mask(scores, 3, where=where, key=key))(jax.random.split(jax.random.key(0), 3000))
    subsets, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert {tuple(np.flatnonzero(row)) for row in subsets} == {(0, 1, 2), (0, 1, 4), (1, 2, 4)}
    assert chisquare(counts).pvalue > 1e-3
