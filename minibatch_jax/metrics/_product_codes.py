"""What the two-stage search does with a product code: short lists by tables, then exact ranks."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count
from minibatch_jax._loops import bind, map_rows, scan
from minibatch_jax.geometry import finite_rows, measurable_rows, product, unit_rows
from minibatch_jax.metrics.search import Neighbors
from minibatch_jax.weights import weight_dtype

METRICS = ("sqeuclidean", "cosine", "inner_product")
QUERIES = 32  # at a time: the entries of their tables lie side by side
GROUP = 16  # rows that compete first, when the nearest of a block are chosen
SLICES = 8  # of a block: XLA fuses no sum of entries in a loop with what reads it, or it would compute each anew


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProductCode:
    """Compressed rows.

    Attributes:
      codebooks: `[P, K, D / P]`, centers of each part.
      codes: `[N, P]` uint8, the nearest center of each part of each row.
      usable: `[N]` bool, False for rows that do not exist or cannot be measured; they are never found.
      metric: what they were made for: "sqeuclidean", "cosine" or "inner_product".
    """

    codebooks: jax.Array
    codes: jax.Array
    usable: jax.Array
    metric: str = dataclasses.field(metadata={"static": True})


def comparable(rows: jax.Array, metric: str) -> tuple[jax.Array, jax.Array]:
    """Return the rows as the metric compares them, with 0 in those it cannot measure, and which it can.

    Args:
      rows: `[N, D]`, floating point.
      metric: "sqeuclidean", "cosine" or "inner_product".

    Returns:
      `[N, D]`, float32 (float64 if the rows are), and `[N]` bool.
    """
    if metric == "cosine":
        rows, finite = finite_rows(rows)
        return unit_rows(rows), finite
    return measurable_rows(rows)


def check_code(
    size: int, width: int, num_parts: int, num_codes: int, metric: str, training_rows: int, max_iterations: int
) -> None:
    """Raise unless rows of this number and width can be compressed so.

    Args:
      size: number of rows.
      width: entries of a row.
      num_parts: a divisor of the width.
      num_codes: at most 256, the rows and the training rows.
      metric: "sqeuclidean", "cosine" or "inner_product".
      training_rows: at least 1.
      max_iterations: at least 1.

    Raises:
      TypeError: if a count is not an int.
      ValueError: if a count does not fit or the metric is unknown.
    """
    check_choice("metric", metric, METRICS)
    check_count("num_parts", num_parts, width, "the width of the rows")
    if width % num_parts:
        raise ValueError(f"num_parts is {num_parts}, wanted a divisor of {width} (the width of the rows).")
    check_count("training_rows", training_rows)
    check_count("max_iterations", max_iterations)
    check_count("num_codes", num_codes, 256, "what a byte holds")
    check_count("num_codes", num_codes, size, "the number of rows")
    check_count("num_codes", num_codes, training_rows, "training_rows")


def shortlist_size(k: int, shortlist: int | None, size: int) -> int:
    """Return the length of a short list, checked: 30 k and at least 100 by default, at most the number of references.

    Args:
      k: neighbors asked for.
      shortlist: length, or None for the default.
      size: number of references.

    Returns:
      The length.

    Raises:
      TypeError: if a count is not an int.
      ValueError: if k is above the references, or the list not between the two.
    """
    check_count("k", k, size, "the number of references")
    if shortlist is None:
        return min(max(30 * k, 100), size)
    check_count("shortlist", shortlist, size, "the number of references")
    if shortlist < k:
        raise ValueError(f"shortlist is {shortlist}, wanted at least {k} (k).")
    return shortlist


def rank_exactly(
    queries: jax.Array, rows: jax.Array, indices: jax.Array, exists: jax.Array, k: int, metric: str
) -> Neighbors:
    """Return the k nearest of the rows of each query's short list.

    Args:
      queries: `[Q, D]`, floating point.
      rows: `[Q, S, D]`, floating point, rows of the short lists.
      indices: `[Q, S]` int32, their numbers, ascending.
      exists: `[Q, S]` bool, False where a list is shorter.
      k: how many, at most S, static.
      metric: "sqeuclidean", "cosine" or "inner_product".

    Returns:
      `Neighbors(indices, similarities)`.
    """
    dtype = weight_dtype(jnp.promote_types(queries.dtype, rows.dtype))
    queries, asked = comparable(queries.astype(dtype), metric)
    flat, found = comparable(rows.astype(dtype).reshape(-1, rows.shape[-1]), metric)
    rows = flat.reshape(rows.shape)
    if metric == "sqeuclidean":
        similarities = -jnp.sum((rows - queries[:, None, :]) ** 2, axis=2)
    else:
        similarities = product(rows, queries[:, :, None])[:, :, 0]
    similarities = jnp.where(exists & found.reshape(exists.shape) & asked[:, None], similarities, -jnp.inf)
    values, places = jax.lax.top_k(similarities, k)
    chosen = jnp.take_along_axis(indices, places, axis=1)
    return Neighbors(jnp.where(values > -jnp.inf, chosen, -1).astype(jnp.int32), values)


def lists_of_queries(code: ProductCode, queries: jax.Array, *, shortlist: int, block_size: int) -> jax.Array:
    """Return the short lists of a block of queries, ascending, with N where a list ends."""
    queries, asked = comparable(queries.astype(weight_dtype(queries.dtype)), code.metric)
    size, parts = code.codes.shape
    block = min(block_size, size)
    block += -block % (GROUP * SLICES)
    missing = -size % block
    codes = jnp.pad(code.codes, ((0, missing), (0, 0))).reshape(-1, block, parts)
    usable = jnp.pad(code.usable, (0, missing)).reshape(-1, block)
    count = queries.shape[0]
    start = jnp.full((count, shortlist), jnp.inf, queries.dtype), jnp.full((count, shortlist), size, jnp.int32)
    first = jnp.arange(codes.shape[0], dtype=jnp.int32) * block
    tables = _tables(code.codebooks.astype(queries.dtype), queries, code.metric)
    (_, listed), _ = scan(bind(_scan_block, tables, size=size), start, (codes, usable, first))
    return jnp.sort(jnp.where(asked[:, None], listed, size), axis=1)


def _tables(codebooks, queries, metric):
    """Return what each center adds to the distance from each query, `[P, K, Q]`."""
    parts = queries.reshape(queries.shape[0], codebooks.shape[0], 1, -1)
    if metric == "inner_product":
        entries = -jnp.sum(parts * codebooks[None], axis=3)
    else:
        entries = jnp.sum((parts - codebooks[None]) ** 2, axis=3)
    return jnp.moveaxis(entries, 0, 2)


def _scan_block(tables, listed, block, *, size):
    """Put the rows of a block that are nearer than those listed into the lists."""
    codes, usable, first = block
    slices = map_rows(bind(_table_sums, tables), codes.reshape(SLICES, -1, codes.shape[1]))
    distances = jnp.where(usable[:, None], slices.reshape(-1, tables.shape[2]), jnp.inf)
    least, places = _nearest(distances, min(listed[0].shape[1], codes.shape[0]))
    values = jnp.concatenate([listed[0], least], axis=1)
    indices = jnp.concatenate([listed[1], jnp.where(least < jnp.inf, first + places.astype(jnp.int32), size)], axis=1)
    lowest, chosen = jax.lax.top_k(-values, listed[0].shape[1])
    return (-lowest, jnp.take_along_axis(indices, chosen, axis=1)), None


def _table_sums(tables, codes):
    codes = codes.astype(jnp.int32)
    return functools.reduce(operator.add, (table[codes[:, part]] for part, table in enumerate(tables)))


def _nearest(distances, count):
    """Return the least distances `[Q, count]` of each column, and their rows.

    They lie in the groups with the least minima, so that only those are sorted.
    """
    queries = distances.shape[1]
    groups = distances.reshape(-1, GROUP, queries)
    if count >= groups.shape[0]:
        lowest, places = jax.lax.top_k(-distances.T, count)
        return -lowest, places
    chosen = jax.lax.top_k(-jnp.min(groups, axis=1).T, count)[1]
    members = (chosen[:, :, None] * GROUP + jnp.arange(GROUP)[None, None]).reshape(queries, -1)
    lowest, places = jax.lax.top_k(-distances[members, jnp.arange(queries)[:, None]], count)
    return -lowest, jnp.take_along_axis(members, places, axis=1)
