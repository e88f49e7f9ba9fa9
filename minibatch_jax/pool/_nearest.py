"""The rows of a pool on disk nearest to queries: compressed rows in memory, exact ones read from the short lists."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_count, check_shape, check_whole
from minibatch_jax.metrics import _product_codes, quantized_search
from minibatch_jax.metrics.quantized_search import ProductCode
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import gather
from minibatch_jax.pool._rows import Rows, open_rows
from minibatch_jax.pool._select import progress_bar
from minibatch_jax.processes import check_same_arguments


class PoolCode(NamedTuple):
    """Compressed rows of a pool, in memory.

    Attributes:
      codebooks: `[P, K, D / P]` float32, centers of each part of a row.
      codes: `[N, P]` uint8, the nearest center of each part of each row.
      usable: `[N]` bool, False for rows that are not finite in float32; they are never found.
      metric: what they were made for: "sqeuclidean", "cosine" or "inner_product".
      ends: digest of the first and the last row of the pool.
      dropped: number of rows that are not finite in float32, or too large for it.
      report: how many these are, by shard and cause, and the first of them; `print` shows it as text.
    """

    codebooks: np.ndarray
    codes: np.ndarray
    usable: np.ndarray
    metric: str
    ends: str
    dropped: int
    report: PoolReport


class PoolNeighbors(NamedTuple):
    """The k nearest rows of a pool for each query, the nearest first.

    Attributes:
      indices: `[Q, k]` int64; -1 where there are fewer than k, or the query is not finite.
      similarities: `[Q, k]` float32, minus the squared distance, the cosine or the inner product; -inf where there is
        no row.
      dropped_queries: number of queries that are not finite in float32, or too large for it, and find nothing.
    """

    indices: np.ndarray
    similarities: np.ndarray
    dropped_queries: int


def compress_rows(
    pool: Any,
    *,
    num_parts: int = 16,
    num_codes: int = 256,
    metric: str = "sqeuclidean",
    seed: int = 0,
    training_rows: int = 16384,
    max_iterations: int = 15,
    block_size: int = 16384,
    progress: bool = True,
) -> PoolCode:
    """Compress the rows of a pool to one byte a part, in one pass, for `nearest_rows`.

    It is `metrics.product_code` for rows that exceed memory: a million rows in 16 parts take 16 MB. If several
    processes run (`jax.distributed`), all make the same call; each reads its own part, and all get the whole result.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), shards, a data source, an
        array or memory map.
      num_parts: parts of a row, a divisor of D.
      num_codes: centers of a part, at most 256.
      metric: "sqeuclidean", "cosine" for rows scaled to length 1, or "inner_product".
      seed: of the draw of rows that k-means sees, at least 0.
      training_rows: how many rows k-means sees at most.
      max_iterations: of k-means.
      block_size: rows to read at a time.
      progress: whether the first process shows a progress bar; needs `rich`.

    Returns:
      `PoolCode(codebooks, codes, usable, metric, ends, dropped, report)`.

    Raises:
      TypeError: if the pool is not floating point or a count is not an int.
      ValueError: if a number does not fit, the metric is unknown, no row is finite, the file is damaged or changed
        while it is read, or processes make other calls.
      OSError: if the pool cannot be read.
      ImportError: if `progress` without `rich`.

    References:
      Jégou, Douze & Schmid, TPAMI 33 (1), 2011.

    Examples:
      >>> import numpy as np
      >>> pool = np.arange(12, dtype=np.float16).reshape(6, 2)
      >>> compress_rows(pool, num_parts=2, num_codes=3, progress=False).codes.shape
      (6, 2)
    """
    check_count("block_size", block_size)
    check_whole("seed", seed)
    rows = open_rows(pool, block_size, unit=metric == "cosine")
    arguments = num_parts, num_codes, metric, training_rows, max_iterations
    _product_codes.check_code(rows.size, rows.width, *arguments)
    ends = rows.ends()
    check_same_arguments(shape=[rows.size, rows.width], arguments=arguments, seed=seed, pool=ends)
    seen = np.random.default_rng(seed).choice(rows.size, min(training_rows, rows.size), replace=False)
    codebooks = np.asarray(_fit(rows.at(seen), parts=num_parts, codes=num_codes, steps=max_iterations, metric=metric))
    codes, usable = np.empty((rows.own_rows, num_parts), np.uint8), np.empty(rows.own_rows, bool)
    with progress_bar("compress_rows", progress) as show:
        for done, number in enumerate(rows.own, 1):
            place = rows.places(number)
            codes[place], usable[place] = _encode(codebooks, rows.chunk(number), metric=metric)
            show(done / len(rows.own))
    report = rows.report()
    everyone = gather({"codes": codes, "usable": usable})
    codes, usable = (np.concatenate([part[name] for part in everyone])[: rows.size] for name in ("codes", "usable"))
    return PoolCode(codebooks, codes, usable, metric, ends, report.dropped, report)


def nearest_rows(
    pool: Any,
    queries: np.ndarray,
    k: int,
    code: PoolCode,
    *,
    shortlist: int | None = None,
    block_size: int = 65536,
) -> PoolNeighbors:
    """Return the k nearest rows of a pool for each query, exact among the rows of a short list by the code.

    It is `metrics.quantized_neighbors` for rows that exceed memory: the code stays in memory, and only the rows of the
    short lists are read. If several processes run (`jax.distributed`), all make the same call; each searches for its
    part of the queries, and all get the whole result.

    Args:
      pool: what `compress_rows` was given.
      queries: `[Q, D]`, floating point. A query that is not finite in float32, or too large for it, finds nothing.
      k: number of neighbors, at most N.
      code: `compress_rows(pool)`, whose metric counts.
      shortlist: rows to read for each query, from k to N; by default 30 k, at least 100.
      block_size: compressed rows at a time.

    Returns:
      `PoolNeighbors(indices, similarities, dropped_queries)`. Ties in the short list go to the lowest index.

    Raises:
      TypeError: if the pool or the queries are not floating point or a count is not an int.
      ValueError: if a shape or number does not fit, the code is of another pool, the file is damaged or changed while
        it is read, or processes make other calls.
      OSError: if the pool cannot be read.

    References:
      Jégou, Douze & Schmid, TPAMI 33 (1), 2011.

    Examples:
      >>> import numpy as np
      >>> pool = np.arange(12, dtype=np.float16).reshape(6, 2)
      >>> code = compress_rows(pool, num_parts=2, num_codes=3, progress=False)
      >>> nearest_rows(pool, np.array([[4.0, 5.5]]), 2, code).indices.tolist()
      [[2, 3]]
    """
    check_count("block_size", block_size)
    rows = open_rows(pool, block_size, unit=code.metric == "cosine")
    count = _product_codes.shortlist_size(k, shortlist, rows.size)
    asked: Any = np.asarray(queries)
    check_shape("queries", asked, (None, rows.width))
    if not np.issubdtype(asked.dtype, np.floating):
        raise TypeError(f"queries has dtype {asked.dtype}, wanted a floating-point dtype.")
    with np.errstate(over="ignore"):
        asked = asked.astype(np.float32)
    if code.codes.shape[0] != rows.size or code.ends != rows.ends():
        raise ValueError(f"code is of another pool of {len(code.codes)} rows, wanted that of pool {rows.name}.")
    check_same_arguments(shape=[rows.size, rows.width], k=k, shortlist=count, queries=asked, pool=code.ends)
    compressed = ProductCode(*map(jnp.asarray, code[:3]), metric=code.metric)
    own = np.array_split(asked, jax.process_count())[jax.process_index()]
    parts = [
        _search(rows, compressed, own[start : start + _product_codes.QUERIES], k, count, block_size)
        for start in range(0, len(own), _product_codes.QUERIES)
    ]
    nothing = np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    names = ("indices", "similarities")
    everyone = gather({name: np.concatenate(x) for name, x in zip(names, zip(nothing, *parts))})
    indices, similarities = (np.concatenate([part[name] for part in everyone]) for name in names)
    dropped = len(asked) - int(np.sum(np.asarray(quantized_search.comparable(jnp.asarray(asked), code.metric)[1])))
    return PoolNeighbors(indices.astype(np.int64), similarities, dropped)


def _search(
    rows: Rows, code: ProductCode, queries: np.ndarray, k: int, count: int, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Search for at most a block of queries, filled up so that all blocks run one program."""
    missing = _product_codes.QUERIES - len(queries)
    padded = np.pad(queries, ((0, missing), (0, 0)), constant_values=np.nan)
    listed = np.asarray(_list(padded, code, shortlist=count, block_size=block_size))
    exists = listed < rows.size
    wanted, places = np.unique(listed[exists], return_inverse=True)
    exact = np.zeros((*listed.shape, rows.width), np.float32)
    if len(wanted):
        exact[exists] = rows.at(wanted)[places]
    found = _rank(padded, exact, listed, exists, k=k, metric=code.metric)
    return np.asarray(found.indices)[: len(queries)], np.asarray(found.similarities)[: len(queries)]


@functools.partial(jax.jit, static_argnames=("parts", "codes", "steps", "metric"))
def _fit(rows, *, parts, codes, steps, metric):
    points, usable = _product_codes.comparable(rows, metric)
    order = jnp.argsort(~usable, stable=True)
    return quantized_search.fit_codebooks(points[order], usable[order], parts, codes, steps)


@functools.partial(jax.jit, static_argnames="metric")
def _encode(codebooks, chunk, *, metric):
    points, usable = _product_codes.comparable(chunk.astype(jnp.float32), metric)
    return quantized_search.encode_rows(codebooks, points), usable


_list = jax.jit(quantized_search.short_lists, static_argnames=("shortlist", "block_size"))
_rank = jax.jit(_product_codes.rank_exactly, static_argnames=("k", "metric"))
