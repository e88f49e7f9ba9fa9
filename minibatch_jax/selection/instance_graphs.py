"""Graphs over the rows of a table, as lists of neighbors of one length: by distance in batches, or by hashing.

Edges point from a row to its neighbors. All similarities are cosines of rows whose columns were standardized. The four
graphs are those of GAIS; its repository held no code when this was written, so all numbers are defaults of this
library.

References:
  Rustamov et al., Scalable graph attention-based instance selection via mini-batch sampling and hierarchical hashing,
  AI Open 6, 2025 (arXiv 2502.20293).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import (
    as_key,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._loops import bind, map_rows
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import measurable_rows, product, unit_rows

BLOCK = 1024


class InstanceGraph(NamedTuple):
    """Neighbors of each row.

    Attributes:
      neighbors: `[N, K]` int32, distinct in a row; N, one past the end, where there is none.
      weights: `[N, K]`, weight of each edge; 0 where there is none.
    """

    neighbors: jax.Array
    weights: jax.Array


def distance_graph(
    key: jax.Array | int,
    features: jax.Array,
    labels: jax.Array,
    k: int = 10,
    *,
    batch_size: int = 512,
    threshold: float = -1.0,
    where: jax.Array | None = None,
) -> InstanceGraph:
    """Return the k most similar rows within random batches that have each class in its share; O(N batch_size D).

    Rows of one label, in random order, are dealt to the batches in turn. With one batch these are the k nearest
    neighbors. Draw the graph anew from time to time: rows of different batches never meet.

    Args:
      key: int seed or key of the batches.
      features: `[N, D]`, floating point. Rows that are not finite, or too large, have no neighbors and are none.
      labels: `[N]`, integers.
      k: neighbors of a row, fewer than a batch has rows, static.
      batch_size: rows of a batch at most, static. The batches are as equal as can be: of 14 rows, at most 12 in a
        batch, there are 7 and 7.
      threshold: neighbors have at least this cosine.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `InstanceGraph(neighbors, weights)` with K = k, the most similar first; weights are cosines.

    Raises:
      TypeError: if the features are not floating point, labels not integers or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.0], [-2.0, -1.0]])
      >>> distance_graph(0, x, jnp.array([0, 0, 1, 1]), k=1).neighbors[:, 0].tolist()
      [1, 0, 3, 2]
    """
    size = features.shape[0]
    check_shape("labels", labels, (size,))
    check_integer("labels", labels)
    check_count("k", k, size - 1, "the number of other rows")
    check_count("batch_size", batch_size)
    check_number("threshold", threshold)
    batches = -(-size // batch_size)
    check_count("k", k, -(-size // batches) - 1, "the number of other rows of a batch")
    rows, exists = standardized(features, where)
    chance = jax.random.uniform(as_key(key), (size,))
    order = jnp.lexsort((chance, labels, ~exists)).astype(jnp.int32)
    dealt = jnp.pad(order, (0, -size % batches), constant_values=size).reshape(-1, batches).T
    near = map_rows(bind(_nearest_in_batch, rows, exists, k=k, threshold=threshold), dealt)
    neighbors, weights = (x.reshape(-1, k) for x in near)
    place = dealt.reshape(-1)
    empty = jnp.full((size, k), size, jnp.int32), jnp.zeros((size, k), rows.dtype)
    return InstanceGraph(*(e.at[place].set(x, mode="drop") for e, x in zip(empty, (neighbors, weights))))


def hash_graph(
    key: jax.Array | int, features: jax.Array, k: int = 5, *, num_bits: int = 8, where: jax.Array | None = None
) -> InstanceGraph:
    """Return rows with the same hash: the signs of random projections (locality-sensitive hashing), one level.

    A row looks at the k rows before and the k rows after it among the rows in order of their hash, and in order of
    their index within a hash. Rows of a hash that more than k others share do not all meet. O(N log N) time.

    Args:
      key: int seed or key of the projections.
      features: `[N, D]`, floating point. Rows that are not finite, or too large, have no neighbors and are none.
      k: rows to look at on each side, at most N - 1, static.
      num_bits: of a hash, at most 32, static.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `InstanceGraph(neighbors, weights)` with K = 2 k; weights are cosines.

    Raises:
      TypeError: if the features are not floating point or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> x = jnp.array([[2.0, 1.0], [-1.0, -1.0], [2.0, 1.0], [-3.0, -1.0]])
      >>> hash_graph(0, x, k=1).neighbors[0].tolist()
      [4, 2]
    """
    rows, exists = _checked(features, k, (num_bits,), where)
    code = _codes(as_key(key), rows, num_bits)
    neighbors = _same_hash(code, exists, k)
    return InstanceGraph(neighbors, _on_edges(_cosines_to, neighbors, rows))


def multilevel_hash_graph(
    key: jax.Array | int,
    features: jax.Array,
    k: int = 5,
    *,
    levels: tuple[int, ...] = (4, 8, 16),
    where: jax.Array | None = None,
) -> InstanceGraph:
    """Return rows that share a prefix of a hash, for several lengths of the prefix.

    The weight of an edge grows with the levels that its rows share: level l of L counts `l / (1 + ... + L)`.

    Args:
      key: int seed or key of the projections.
      features: `[N, D]`, floating point. Rows that are not finite, or too large, have no neighbors and are none.
      k: rows to look at on each side and level, at most N - 1, static.
      levels: bits of each prefix, ascending, at most 32, static.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `InstanceGraph(neighbors, weights)` with K = 2 k L, the longest prefix first.

    Raises:
      TypeError: if the features are not floating point or a count is not a static int.
      ValueError: if shapes do not match, a count is out of range or the levels do not ascend.

    Examples:
      >>> x = jnp.array([[2.0, 1.0], [-1.0, -1.0], [2.0, 1.0], [-3.0, -1.0]])
      >>> float(multilevel_hash_graph(0, x, k=1).weights[0].max())
      1.0
    """
    rows, exists = _checked(features, k, levels, where)
    if not levels or list(levels) != sorted(set(levels)):
        raise ValueError(f"levels is {levels}, wanted numbers of bits that ascend.")
    code = _codes(as_key(key), rows, levels[-1])
    prefixes = jnp.stack([code >> (levels[-1] - bits) for bits in levels], axis=1)
    lists = [_same_hash(prefixes[:, level], exists, k) for level in reversed(range(len(levels)))]
    neighbors = _without_repeats(jnp.concatenate(lists, axis=1))
    share = jnp.arange(1, len(levels) + 1, dtype=rows.dtype)
    return InstanceGraph(neighbors, _on_edges(_agreement, neighbors, prefixes, share / jnp.sum(share)))


def multiview_hash_graph(
    key: jax.Array | int,
    features: jax.Array,
    k: int = 5,
    *,
    num_views: int = 4,
    num_bits: int = 8,
    where: jax.Array | None = None,
) -> InstanceGraph:
    """Return rows that share a hash in one of several views, each a random half of the columns.

    Args:
      key: int seed or key of the views and projections.
      features: `[N, D]`, floating point. Rows that are not finite, or too large, have no neighbors and are none.
      k: rows to look at on each side and view, at most N - 1, static.
      num_views: V, static.
      num_bits: of a hash, at most 32, static.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `InstanceGraph(neighbors, weights)` with K = 2 k V; the weight of an edge is the fraction of the views that agree.

    Raises:
      TypeError: if the features are not floating point or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> x = jnp.array([[2.0, 1.0], [-1.0, -1.0], [2.0, 1.0], [-3.0, -1.0]])
      >>> float(multiview_hash_graph(0, x, k=1).weights[0].max())
      1.0
    """
    check_count("num_views", num_views)
    rows, exists = _checked(features, k, (num_bits,), where)
    width, codes = rows.shape[1], []
    for view in jax.random.split(as_key(key), num_views):
        columns, projection = jax.random.split(view)
        seen = jax.random.permutation(columns, width) < -(-width // 2)
        codes.append(_codes(projection, jnp.where(seen[None], rows, 0), num_bits))
    lists = [_same_hash(code, exists, k) for code in codes]
    neighbors = _without_repeats(jnp.concatenate(lists, axis=1))
    share = jnp.full(num_views, 1 / num_views, rows.dtype)
    return InstanceGraph(neighbors, _on_edges(_agreement, neighbors, jnp.stack(codes, axis=1), share))


def standardized(features: jax.Array, where: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Return the rows with columns of mean 0 and variance 1, scaled to length 1, and which rows exist.

    Args:
      features: `[N, D]`, floating point; a constant column becomes 0.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `[N, D]`, float32 (float64 if the features are), 0 in rows that do not exist or cannot be measured; `[N]` bool.

    Raises:
      TypeError: if the features are not floating point or `where` is not bool.
      ValueError: if shapes do not match.

    Examples:
      >>> standardized(jnp.array([[1.0, 7.0], [3.0, 7.0]]))[0].tolist()
      [[-1.0, 0.0], [1.0, 0.0]]
    """
    check_shape("features", features, (None, None))
    check_floating("features", features)
    rows, exists = measurable_rows(features)
    exists &= mask_or_all("where", where, exists.shape)
    rows = jnp.where(exists[:, None], rows - rows[jnp.argmax(exists)][None], 0)  # a constant column is 0 exactly
    rows = rows / nonzero(jnp.max(jnp.abs(rows), axis=0))[None]  # so that no square leaves the range of floats
    count = jnp.maximum(jnp.sum(exists, dtype=rows.dtype), 1)
    mean = jnp.sum(rows, axis=0) / count
    centered = jnp.where(exists[:, None], rows - mean[None], 0)
    deviation = jnp.sqrt(jnp.sum(centered**2, axis=0) / count)
    return unit_rows(centered / nonzero(deviation)[None]), exists


def _checked(features, k, bits, where):
    for number in bits:
        check_count("num_bits", number, 32, "the bits of a hash")
    rows, exists = standardized(features, where)
    check_count("k", k, rows.shape[0] - 1, "the number of other rows")
    return rows, exists


def _nearest_in_batch(rows, exists, batch, *, k, threshold):
    size = rows.shape[0]
    present = (batch < size) & exists[jnp.minimum(batch, size - 1)]
    own = rows[jnp.minimum(batch, size - 1)]
    pairs = present[:, None] & present[None] & ~jnp.eye(batch.shape[0], dtype=bool)
    cosines = jnp.where(pairs, product(own, own.T), -jnp.inf)
    values, places = jax.lax.top_k(cosines, k)
    near = (values >= threshold) & (values > -jnp.inf)
    return jnp.where(near, batch[places], size), jnp.where(near, values, 0)


def _codes(key, rows, num_bits):
    """Return the signs of random projections as the bits of a number, the first bit highest, `[N]` uint32."""
    projection = jax.random.normal(key, (rows.shape[1], num_bits), rows.dtype)
    bits = (product(rows, projection) > 0).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(num_bits - 1, -1, -1, dtype=jnp.uint32)[None], axis=1, dtype=jnp.uint32)


def _same_hash(code, exists, k):
    """Return the rows of the same code among the k before and the k after each, in order of the codes, `[N, 2 k]`."""
    size = code.shape[0]
    order = jnp.lexsort((code, ~exists)).astype(jnp.int32)
    steps = jnp.concatenate([jnp.arange(-k, 0), jnp.arange(1, k + 1)])
    places = jnp.arange(size)[:, None] + steps[None]
    inside = (places >= 0) & (places < size)
    others = order[jnp.clip(places, 0, size - 1)]
    same = inside & (code[others] == code[order][:, None]) & exists[others] & exists[order][:, None]
    return jnp.zeros((size, 2 * k), jnp.int32).at[order].set(jnp.where(same, others, size))


def _without_repeats(neighbors):
    """Return the lists with N in place of a neighbor that comes earlier in its list."""
    size = neighbors.shape[0]
    return map_rows(bind(_first_of_each, size=size), neighbors, block_size=min(BLOCK, size))


def _first_of_each(listed, *, size):
    number = jnp.arange(listed.shape[0])
    earlier = (listed[:, None] == listed[None]) & (number[:, None] > number[None])
    return jnp.where(jnp.any(earlier, axis=1), size, listed)


def _on_edges(weigh, neighbors, *arrays):
    """Return the weight of each edge, 0 where there is none."""
    size = neighbors.shape[0]
    inputs = jnp.arange(size), neighbors
    return map_rows(bind(_of_row, *arrays, weigh=weigh, size=size), inputs, block_size=min(BLOCK, size))


def _of_row(*inputs, weigh, size):
    *arrays, (row, listed) = inputs
    return jnp.where(listed < size, weigh(*arrays, row, jnp.minimum(listed, size - 1)), 0)


def _cosines_to(rows, row, listed):
    return product(rows[listed], rows[row])


def _agreement(codes, share, row, listed):
    return product((codes[listed] == codes[row][None]).astype(share.dtype), share)
