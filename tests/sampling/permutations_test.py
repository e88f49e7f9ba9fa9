"""Permutations without a sort: each number once, and every order and every pair of neighbors equally often."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling._permutations import permuted


@functools.partial(jax.jit, static_argnums=2)
def drawn(seeds, size, count):
    """`[seeds, count]` first numbers of one permutation for each seed."""
    places = jnp.arange(count, dtype=jnp.int32)
    return jax.vmap(lambda seed: permuted(jax.random.key(seed), places, size))(seeds)


def test_every_number_comes_once():
    places = jnp.arange(1000, dtype=jnp.int32)
    whole = jax.jit(permuted)
    for size in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 255, 257, 999, 1000):
        found = np.asarray(whole(jax.random.key(size), jnp.minimum(places, size - 1), size))[:size]
        assert sorted(found.tolist()) == list(range(size))


def test_large_sizes_do_not_repeat_and_reach_the_whole_range():
    places = jnp.arange(100_000, dtype=jnp.int32)
    for size in (1_000_000, 2**31 - 1):
        found = np.asarray(jax.jit(permuted)(jax.random.key(0), places, size))
        assert len(np.unique(found)) == 100_000 and found.min() >= 0 and found.max() < size
        assert found.min() < size // 1000 and found.max() > size - size // 1000


@pytest.mark.parametrize(("size", "limit"), [(3, 21), (5, 180)])  # five standard deviations, and four
def test_every_order_comes_equally_often(size, limit):
    orders = list(itertools.permutations(range(size)))
    each = 60_000 // len(orders)
    counts = Counter(map(tuple, np.asarray(drawn(jnp.arange(60_000), size, size)).tolist()))
    assert set(counts) == set(orders)
    assert sum((n - each) ** 2 / each for n in counts.values()) < limit


@pytest.mark.parametrize("size", [64, 1000])
@pytest.mark.parametrize("distance", [1, 32])
def test_neighbors_and_places_are_independent(size, distance):
    parts = np.asarray(drawn(jnp.arange(2000), size, 64)) * 8 // size
    table = np.zeros((8, 8))
    np.add.at(table, (parts[:, :-distance].ravel(), parts[:, distance:].ravel()), 1)
    shares = np.where(np.eye(8) > 0, size / 8 * (size / 8 - 1), (size / 8) ** 2) / (size * (size - 1))
    expected = shares * table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 63 + 4 * np.sqrt(2 * 63)
    places = np.stack([np.bincount(column, minlength=8) for column in parts.T])
    assert ((places - 250) ** 2 / 250).sum() < 448 + 4 * np.sqrt(2 * 448)
