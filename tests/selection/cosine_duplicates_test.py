import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_distinct_by_cosine": Case(lambda: selection.keep_distinct_by_cosine(0.9), draws.features),
}


def first_original(cosines, clusters, threshold):
    """Walk through the rows: each is sent to its first near row of the cluster, and on from there."""
    originals = []
    for i in range(len(cosines)):
        near = [j for j in range(i) if cosines[i, j] >= threshold and clusters[i] == clusters[j] >= 0]
        originals.append(originals[near[0]] if near else i)
    return originals


@functools.cache
def program(block_size):
    return jax.jit(functools.partial(selection.near_duplicates_by_cosine, block_size=block_size))


@pytest.mark.parametrize("block_size", [8, 1024])
@pytest.mark.parametrize("kinds", [1, 7])
def test_originals_are_those_of_a_walk_through_all_pairs(block_size, kinds):
    rng = np.random.default_rng(kinds)
    x = rng.normal(size=(20, 3))[rng.integers(0, 20, 60)] + 0.2 * rng.normal(size=(60, 3))
    clusters = rng.integers(0, kinds, 60)
    clusters[11] = -1
    x[5], x[17] = 0, np.nan
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    expected = np.array(first_original(np.nan_to_num(unit @ unit.T), clusters, 0.97))
    expected[[11, 17]] = -1
    found = program(block_size)(x.astype(np.float32), 0.97, clusters=clusters.astype(np.int32))
    np.testing.assert_array_equal(found.originals, expected)
    np.testing.assert_array_equal(found.keep, expected == np.arange(60))
    earlier = np.tril(np.nan_to_num(unit @ unit.T), -1) * (clusters[:, None] == clusters[None])
    exists = expected >= 0
    np.testing.assert_allclose(np.asarray(found.similarities)[exists], np.maximum(earlier.max(1), 0)[exists], atol=1e-5)


def test_exact_copies_are_found_at_one_and_rows_of_zeros_are_like_no_other():
    x = np.random.default_rng(0).normal(size=(30, 3))
    x = np.concatenate([x, np.float32(3.3) * x]).astype(np.float32)
    x[[5, 35]] = 0
    found = program(1024)(x, 1.0, clusters=np.zeros(60, np.int32))
    assert np.all(found.keep[:30]) and np.flatnonzero(found.keep[30:]).tolist() == [5]
    assert np.all(np.asarray(program(1024)(x, 0.0, clusters=np.zeros(60, np.int32)).keep)[[5, 35]])


def test_bad_input_is_named():
    for threshold in (1.1, -0.1):
        with pytest.raises(ValueError, match=rf"threshold is {threshold}, wanted a number in \[0, 1\]"):
            selection.keep_distinct_by_cosine(threshold)
    with pytest.raises(TypeError, match="clusters has dtype float32"):
        selection.near_duplicates_by_cosine(jnp.ones((3, 2)), clusters=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"clusters has shape \[2\], wanted \[3\]"):
        selection.near_duplicates_by_cosine(jnp.ones((3, 2)), clusters=jnp.zeros(2, jnp.int32))
