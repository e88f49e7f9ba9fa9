"""Mini-batches of one epoch, by counting."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import epoch_rows

LIVE = np.arange(10) % 3 != 1


@functools.cache
def drawn(fill, cut, seeds=200):
    """Rows of many epochs of ten in batches of four."""
    where = jnp.asarray(LIVE) if cut else None
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    found = jax.jit(jax.vmap(lambda k: epoch_rows(k, 10, 4, where=where, fill=fill)))(keys)
    return jax.device_get(found)


@pytest.mark.parametrize("cut", [False, True])
def test_masked_batches_have_every_row_once_and_padding_without_weight(cut):
    rows = drawn("mask", cut)
    wanted = np.flatnonzero(LIVE) if cut else np.arange(10)
    for indices, weights in zip(*rows):
        assert sorted(indices[indices >= 0]) == wanted.tolist()
        np.testing.assert_array_equal(weights > 0, indices >= 0)
        counts = np.sum(indices >= 0, axis=1)
        np.testing.assert_allclose(weights.sum(axis=1), counts > 0, rtol=1e-6)
        np.testing.assert_allclose(weights, (indices >= 0) / np.maximum(counts, 1)[:, None], rtol=1e-6)
    assert len({tuple(indices.flatten()) for indices in rows.indices}) == len(rows.indices)


@pytest.mark.parametrize("cut", [False, True])
def test_tiled_batches_have_no_padding_and_repeat_each_row_at_most_once_more_than_others(cut):
    rows = drawn("tile", cut)
    wanted = np.flatnonzero(LIVE) if cut else np.arange(10)
    low, more = divmod(12, len(wanted))
    for indices in rows.indices:
        counts = Counter(indices.flatten().tolist())
        assert set(counts) == set(wanted.tolist())
        assert sorted(counts.values()) == [low] * (len(wanted) - more) + [low + 1] * more
    np.testing.assert_allclose(rows.weights, 0.25)


@pytest.mark.parametrize("fill", ["mask", "tile"])
def test_every_row_is_equally_often_in_the_first_batch(fill):
    first = drawn(fill, False).indices[:, 0]
    counts = np.bincount(first[first >= 0], minlength=10)
    assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < 28  # 9 degrees of freedom, p = .001


@pytest.mark.parametrize("fill", ["mask", "tile"])
def test_without_a_row_all_is_padding(fill):
    rows = epoch_rows(0, 4, 2, where=jnp.zeros(4, bool), fill=fill)
    np.testing.assert_array_equal(rows.indices, -1)
    np.testing.assert_array_equal(rows.weights, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epoch_rows(0, 4, 5), "batch_size is 5, wanted at most 4"),
        (lambda: epoch_rows(0, 4, 2, fill="drop"), "fill is 'drop', wanted one of 'mask', 'tile'"),
        (lambda: epoch_rows(0, 4, 2, where=jnp.ones(3, bool)), r"where has shape \[3\], wanted \[4\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
