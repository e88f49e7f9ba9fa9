import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {"keep_near_labeled": Case(lambda: selection.keep_near_labeled(2), draws.near_references)}
RNG = np.random.default_rng(0)
POOL, LABELED = (RNG.normal(size=(n, 4)).astype(np.float32) for n in (60, 9))
FREE = RNG.random(60) < 0.7
MASK = np.arange(9) != 2


def by_loops(pool, free, labeled, mask, k):
    """Union of the k rows of largest cosine to each labeled row, in float64."""
    near = np.zeros(len(pool), bool)
    for row in labeled[mask].astype(float):
        cosines = [x @ row / np.linalg.norm(x) / np.linalg.norm(row) for x in pool.astype(float)]
        for i in sorted(np.flatnonzero(free), key=lambda i: -cosines[i])[:k]:
            near[i] = True
    return near


@pytest.mark.parametrize("k", [1, 3, 60])
@pytest.mark.parametrize("block_size", [4, 64])
def test_the_union_of_neighbors_is_that_of_loops(k, block_size):
    found = selection.near_labeled_mask(
        jnp.asarray(POOL),
        jnp.asarray(LABELED),
        num_neighbors=k,
        where=jnp.asarray(FREE),
        reference_mask=jnp.asarray(MASK),
        block_size=block_size,
    )
    expected = by_loops(POOL, FREE, LABELED, MASK, k)
    np.testing.assert_array_equal(found, expected)
    assert (expected.sum() == FREE.sum()) == (k == 60)


def test_rows_that_are_not_finite_are_near_to_none():
    pool, labeled = POOL.copy(), LABELED.copy()
    pool[3, 1], labeled[0, 0] = np.nan, np.inf
    found = selection.near_labeled_mask(jnp.asarray(pool), jnp.asarray(labeled), num_neighbors=2)
    free = np.arange(60) != 3
    np.testing.assert_array_equal(found, by_loops(np.nan_to_num(pool), free, labeled, np.arange(9) > 0, 2))


def test_mask_then_select():
    logits = jnp.asarray(RNG.normal(size=(60, 3)), jnp.float32)
    weights = jnp.asarray(np.where(FREE, 0.5, 0), jnp.float32)
    tx = optax.chain(selection.keep_near_labeled(3), selection.keep_uncertain(4, key=0))
    labels = jnp.asarray(np.where(MASK, 1, -1), jnp.int32)
    signals = {"features": jnp.asarray(POOL), "reference_features": jnp.asarray(LABELED), "reference_labels": labels}
    kept = tx.update(weights, tx.init(weights), logits=logits, **signals)[0]
    near = by_loops(POOL, FREE, LABELED, MASK, 3)
    margins = np.diff(np.sort(jax.nn.softmax(logits), axis=1)[:, -2:], axis=1)[:, 0]
    best = sorted(np.flatnonzero(near), key=lambda i: margins[i])[:4]
    np.testing.assert_array_equal(kept, np.where(np.isin(np.arange(60), best), 0.5, 0))
    nobody = {**signals, "reference_labels": jnp.full(9, -1)}
    assert not np.any(tx.update(weights, tx.init(weights), logits=logits, **nobody)[0])


def test_bad_input_is_named():
    pool, labeled = jnp.asarray(POOL), jnp.asarray(LABELED)
    with pytest.raises(ValueError, match="num_neighbors is 61, wanted at most 60"):
        selection.near_labeled_mask(pool, labeled, num_neighbors=61)
    with pytest.raises(ValueError, match=r"reference_features has shape \[9, 3\]"):
        selection.near_labeled_mask(pool, labeled[:, :3], num_neighbors=2)
    tx = selection.keep_near_labeled(2)
    with pytest.raises(ValueError, match=r"reference_labels has shape \[8\], wanted \[9\]"):
        tx.update(
            jnp.ones(60),
            tx.init(jnp.ones(60)),
            features=pool,
            reference_features=labeled,
            reference_labels=jnp.ones(8, jnp.int32),
        )
