"""The nearest rows in two stages: distances to compressed rows choose a short list, exact distances order it.

A product code cuts each row into parts, and writes for each part the number of the nearest of up to 256 centers of that
part, one byte. A query's squared distances to all centers make a table, and its distance to a compressed row is the sum
of one entry for each part. With 16 parts a million rows take 16 MB, whatever their width.

References:
  Jégou, Douze & Schmid, Product quantization for nearest neighbor search, TPAMI 33 (1), 2011.

Method: two-stage nearest search (product quantization)
Experiment: speed search
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax._vector import first_minima, nonzero
from minibatch_jax.geometry import squared_distances
from minibatch_jax.metrics._product_codes import (
    QUERIES,
    check_code,
    comparable,
    lists_of_queries,
    rank_exactly,
    shortlist_size,
)
from minibatch_jax.metrics._product_codes import ProductCode as ProductCode
from minibatch_jax.metrics.search import Neighbors


def product_code(
    key: jax.Array | int,
    rows: jax.Array,
    *,
    num_parts: int = 16,
    num_codes: int = 256,
    metric: str = "sqeuclidean",
    where: jax.Array | None = None,
    training_rows: int = 16384,
    max_iterations: int = 15,
    block_size: int = 256,
) -> ProductCode:
    """Compress rows to one byte a part, with centers by k-means in each part.

    Args:
      key: int seed or key, which draws the rows that k-means sees.
      rows: `[N, D]`, floating point. Rows that are not finite, or whose squared norm overflows, are not usable.
      num_parts: parts of a row, a divisor of D, static. More parts take more memory and need a shorter list.
      num_codes: centers of a part, at most 256 and at most the rows that k-means sees, static.
      metric: "sqeuclidean", "cosine" for rows scaled to length 1, or "inner_product".
      where: `[N]` bool, which rows exist; all by default.
      training_rows: at most so many rows, drawn at random, are what k-means sees, static.
      max_iterations: of k-means, static.
      block_size: rows compressed at a time, static; memory is O(block_size num_parts num_codes).

    Returns:
      `ProductCode(codebooks, codes, usable, metric)`; `jnp.sum(~usable)` rows were dropped.

    Raises:
      TypeError: if the rows are not floating point, `where` is not bool, a count is not a static int or the key no key.
      ValueError: if a shape or count does not fit or the metric is unknown.

    References:
      Jégou, Douze & Schmid, TPAMI 33 (1), 2011.

    Examples:
      >>> rows = jnp.array([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0], [jnp.nan, 0.0]])
      >>> made = product_code(0, rows, num_parts=2, num_codes=2)
      >>> len(set(map(tuple, made.codes[:4].tolist()))), made.usable.tolist()
      (4, [True, True, True, True, False])
    """
    check_shape("rows", rows, (None, None))
    check_floating("rows", rows)
    size, width = rows.shape
    check_code(size, width, num_parts, num_codes, metric, training_rows, max_iterations)
    check_count("block_size", block_size)
    points, usable = comparable(rows, metric)
    usable &= mask_or_all("where", where, (size,))
    order = jax.random.uniform(as_key(key), (size,)) - usable.astype(jnp.float32)
    seen = jax.lax.top_k(-order, min(training_rows, size))[1]
    codebooks = fit_codebooks(points[seen], usable[seen], num_parts, num_codes, max_iterations)
    return ProductCode(codebooks, encode_rows(codebooks, points, block_size=block_size), usable, metric)


def fit_codebooks(
    points: jax.Array, usable: jax.Array, num_parts: int, num_codes: int, max_iterations: int
) -> jax.Array:
    """Return centers of each part of rows in random order, by Lloyd's iterations from the first rows.

    Args:
      points: `[T, D]`, finite, in random order, those that are not usable last.
      usable: `[T]` bool.
      num_parts: parts of a row, static.
      num_codes: centers of a part, at most T, static.
      max_iterations: how many, static. A center without a row moves to a row that is far from its center.

    Returns:
      `[P, K, D / P]`, in the dtype of the points.

    Examples:
      >>> fit_codebooks(jnp.array([[1.0], [7.0], [2.0]]), jnp.ones(3, bool), 1, 2, 5).tolist()
      [[[1.5], [7.0]]]
    """
    parts = points.reshape(points.shape[0], num_parts, -1).swapaxes(0, 1)
    return map_rows(bind(_fit_part, usable, num_codes=num_codes, max_iterations=max_iterations), parts)


def encode_rows(codebooks: jax.Array, rows: jax.Array, *, block_size: int = 256) -> jax.Array:
    """Return the number of the nearest center of each part of each row.

    Args:
      codebooks: `[P, K, W]`, centers of each part.
      rows: `[N, P * W]`, floating point, as the metric wants them: of length 1 for cosines.
      block_size: rows at a time, static.

    Returns:
      `[N, P]` uint8; of rows that are not finite, any numbers.

    Raises:
      TypeError: if the rows are not floating point or the block size is not a static int.
      ValueError: if shapes do not match or the block size is below 1.

    Examples:
      >>> encode_rows(jnp.array([[[0.0], [1.0]], [[5.0], [7.0]]]), jnp.array([[0.9, 5.1], [0.2, 8.0]])).tolist()
      [[1, 0], [0, 1]]
    """
    check_shape("codebooks", codebooks, (None, None, None))
    parts, _, part_width = codebooks.shape
    check_shape("rows", rows, (None, parts * part_width))
    check_floating("rows", rows)
    check_count("block_size", block_size)
    size = rows.shape[0]
    block = min(block_size, size)
    blocks = jnp.pad(rows, ((0, -size % block), (0, 0))).reshape(-1, block, parts, part_width)
    return map_rows(bind(_encode_block, codebooks), blocks).reshape(-1, parts)[:size]


def quantized_neighbors(
    queries: jax.Array,
    references: jax.Array,
    code: ProductCode,
    k: int = 1,
    *,
    shortlist: int | None = None,
    block_size: int = 65536,
) -> Neighbors:
    """Return the k nearest references of each query, exact among the references of a short list by the product code.

    The recall, the fraction of the true k nearest that are found, grows with the short list and the parts of the code.
    Measure it on some queries with `neighbors`, and lengthen the list until it is enough. O(Q N P) time for the tables'
    entries, and no array is larger than `[block_size, 32]` or the exact rows of 32 short lists.

    Args:
      queries: `[Q, D]`, floating point. A query that is not finite finds nothing.
      references: `[N, D]`, floating point, the rows that the code was made of.
      code: `product_code(key, references)`, whose metric counts.
      k: number of neighbors, at most N, static.
      shortlist: references whose exact distance is computed, from k to N, static; by default 30 k, at least 100.
      block_size: compressed rows at a time, static.

    Returns:
      `Neighbors(indices, similarities)`: the similarity is minus the squared distance, the cosine or the inner product.
      Ties in the short list go to the lowest index. The index is -1 where there are fewer than k usable references.

    Raises:
      TypeError: if the queries or references are not floating point or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    References:
      Jégou, Douze & Schmid, TPAMI 33 (1), 2011.

    Examples:
      >>> rows = jnp.arange(12.0).reshape(6, 2)
      >>> code = product_code(0, rows, num_parts=2, num_codes=3)
      >>> quantized_neighbors(jnp.array([[4.0, 5.5]]), rows, code, k=2, shortlist=6).indices.tolist()
      [[2, 3]]
    """
    size, parts = code.codes.shape
    check_shape("references", references, (size, parts * code.codebooks.shape[2]))
    check_floating("references", references)
    check_shape("queries", queries, (None, references.shape[1]))
    check_floating("queries", queries)
    check_count("block_size", block_size)
    count = shortlist_size(k, shortlist, size)
    search = bind(_search, code, references, k=k, shortlist=count, block_size=block_size)
    return Neighbors(*_by_blocks(search, queries))


def short_lists(queries: jax.Array, code: ProductCode, shortlist: int, *, block_size: int = 65536) -> jax.Array:
    """Return the references that are nearest to each query by the product code alone.

    Args:
      queries: `[Q, D]`, floating point.
      code: compressed references, whose metric counts.
      shortlist: how many, at most N, static.
      block_size: compressed rows at a time, static.

    Returns:
      `[Q, shortlist]` int32, ascending; N where there are fewer usable references, or the query is not finite.

    Raises:
      TypeError: if the queries are not floating point or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> rows = jnp.arange(12.0).reshape(6, 2)
      >>> short_lists(jnp.array([[4.0, 5.5]]), product_code(0, rows, num_parts=1, num_codes=6), 2).tolist()
      [[2, 3]]
    """
    check_shape("queries", queries, (None, code.codebooks.shape[0] * code.codebooks.shape[2]))
    check_floating("queries", queries)
    check_count("shortlist", shortlist, code.codes.shape[0], "the number of references")
    check_count("block_size", block_size)
    return _by_blocks(bind(lists_of_queries, code, shortlist=shortlist, block_size=block_size), queries)


def _fit_part(usable, points, *, num_codes, max_iterations):
    return fori_loop(0, max_iterations, bind(_lloyd, points, usable), points[:num_codes])


def _lloyd(points, usable, _, centers):
    size, count = points.shape[0], centers.shape[0]
    squares = squared_distances(points, centers)
    least, owners = first_minima(squares, 1)
    weights = usable.astype(points.dtype)
    rows = jax.ops.segment_sum(weights, owners, count)
    means = jax.ops.segment_sum(points * weights[:, None], owners, count) / nonzero(rows)[:, None]
    empty = rows == 0
    farthest = jax.lax.top_k(jnp.where(usable, least, -1), min(count, size))[1]
    return jnp.where(empty[:, None], points[farthest[jnp.cumsum(empty) - 1]], means)


def _encode_block(codebooks, block):
    origin = jnp.mean(codebooks, axis=1)
    centers = codebooks - origin[:, None]
    rows = block.astype(codebooks.dtype) - origin[None]
    inner = jnp.einsum("pkw,npw->pkn", centers, rows, precision="highest")
    return first_minima(jnp.sum(centers**2, axis=2)[:, :, None] - 2 * inner, 1)[1].T.astype(jnp.uint8)


def _by_blocks(search, queries):
    """Search for blocks of queries of one shape, the last filled up with NaN."""
    size = queries.shape[0]
    block = min(QUERIES, size)
    padded = jnp.pad(queries, ((0, -size % block), (0, 0)), constant_values=jnp.nan)
    found = map_rows(search, padded.reshape(-1, block, queries.shape[1]))
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[:size], found)


def _search(code, references, queries, *, k, shortlist, block_size):
    listed = lists_of_queries(code, queries, shortlist=shortlist, block_size=block_size)
    exists = listed < references.shape[0]
    rows = references[jnp.where(exists, listed, 0)]
    return tuple(rank_exactly(queries, rows, listed, exists, k, code.metric))
