"""The nearest references of each query, in blocks of queries: no array `[N, M]`.

Method: nearest neighbors in blocks
Experiment: wrong_label_search
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.geometry import finite_rows, product
from minibatch_jax.weights import weight_dtype


class Neighbors(NamedTuple):
    """The k nearest references of each query, the nearest first.

    Attributes:
      indices: `[N, k]` int32, rows of the references; -1 where there are fewer than k, or the query is not finite.
      similarities: `[N, k]`, inner products; -inf where the index is -1.
    """

    indices: jax.Array
    similarities: jax.Array


def neighbors(
    embeddings: jax.Array,
    references: jax.Array | None = None,
    k: int = 1,
    *,
    where: jax.Array | None = None,
    recall: float | None = None,
    block_size: int = 1024,
) -> Neighbors:
    """Return the k references with the largest inner product with each query.

    Normalize both for the cosine. For Euclidean distances, append -|y|^2 / 2 to the references and 1 to the queries.

    Args:
      embeddings: `[N, D]`, floating point, the queries.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      k: number of neighbors, at most M, static.
      where: `[M]` bool, which references exist; all by default. One that is not finite is never found.
      recall: None for the exact neighbors, ties by the lowest index; a fraction in (0, 1) for an approximate search
        that finds each of them with this probability, which is much faster on a TPU. On a CPU it is exact.
      block_size: queries at a time, static; memory is O(block_size M).

    Returns:
      `Neighbors(indices, similarities)`, the similarities float32 (float64 if the embeddings are).

    Raises:
      TypeError: if the embeddings are not floating point, `where` is not bool or a count is not a static int.
      ValueError: if shapes do not match, k is above M, a count is below 1 or the recall is out of range.

    Examples:
      >>> found = neighbors(jnp.array([[1.0], [0.8], [-0.5]]), k=2)
      >>> found.indices.tolist()
      [[1, 2], [0, 2], [1, 0]]
    """
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    others = embeddings if references is None else references
    check_shape("references", others, (None, embeddings.shape[1]))
    check_floating("references", others)
    check_count("k", k, others.shape[0], "the number of references")
    check_count("block_size", block_size)
    if recall is not None:
        check_number("recall", recall, 0, 1, open_low=True, open_high=True)
    dtype = weight_dtype(jnp.promote_types(embeddings.dtype, others.dtype))
    (queries, asked), (others, found) = (finite_rows(x.astype(dtype)) for x in (embeddings, others))
    found &= mask_or_all("where", where, found.shape)
    own = jnp.arange(queries.shape[0], dtype=jnp.int32) if references is None else jnp.full(queries.shape[0], -1)
    search = bind(_nearest, others, found, k=k, recall=recall)
    return Neighbors(*map_rows(search, (queries, asked, own), block_size=min(block_size, queries.shape[0])))


def _nearest(others, found, query, *, k, recall):
    vector, asked, own = query
    usable = found & asked & (jnp.arange(others.shape[0], dtype=jnp.int32) != own)
    similarities = jnp.where(usable, product(others, vector), -jnp.inf)
    if recall is None:
        values, indices = jax.lax.top_k(similarities, k)
    else:
        values, indices = jax.lax.approx_max_k(similarities, k, recall_target=recall)
    return jnp.where(values > -jnp.inf, indices, -1).astype(jnp.int32), values
