"""Retrieval metrics over a whole data set, one block of queries at a time: no array `[N, N]`.

Similarities are computed in float32 at least, so that rounding makes no ties of half-precision embeddings.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax.base import weight_dtype


def nearest_positive_ranks(
    embeddings: jax.Array,
    labels: jax.Array,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    block_size: int = 1024,
) -> jax.Array:
    """How many references of other classes are at least as similar to a query as its nearest positive.

    A tie counts against the query, and so does NaN: collapsed or broken embeddings score 0, not 1.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if the references are.
      block_size: queries compared at once; memory is O(block_size M).

    Returns:
      `[N]` int32: 0 if the nearest reference is a positive; M if the query has no positive.

    Raises:
      TypeError: if a dtype or the block size is wrong.
      ValueError: if shapes do not match.

    Examples:
      >>> nearest_positive_ranks(jnp.array([[1.0], [0.8], [0.9]]), jnp.array([0, 0, 1])).tolist()
      [1, 0, 3]
    """
    _check(embeddings, labels, references, reference_labels, block_size)
    itself = references is None
    embeddings, others = _precise(embeddings, embeddings if references is None else references)
    classes = labels if reference_labels is None else reference_labels
    queries = (embeddings, labels, jnp.arange(labels.shape[0]))

    def ranks(query):
        vector, label, index = query
        similarities = jnp.matmul(others, vector, precision="highest")
        positive = classes == label
        if itself:
            positive &= jnp.arange(others.shape[0]) != index
        nearest = jnp.max(similarities, where=positive, initial=-jnp.inf)
        ahead = (classes != label) & ~(similarities < nearest)
        return jnp.sum(ahead) + jnp.where(jnp.any(positive), 0, others.shape[0])

    found = jax.lax.map(ranks, queries, batch_size=min(block_size, labels.shape[0]))
    return jnp.minimum(found, others.shape[0]).astype(jnp.int32)


def recall_at_k(
    embeddings: jax.Array,
    labels: jax.Array,
    k: int = 1,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    block_size: int = 1024,
) -> jax.Array:
    """Share of the queries with a positive among their k nearest references; those without any positive are left out.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int.
      k: at most the number of references, static.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if the references are.
      block_size: queries compared at once; memory is O(block_size M).

    Returns:
      `[]` float32 in [0, 1]; 0 if no query has a positive. Ties count as misses.

    Raises:
      TypeError: if a dtype is wrong or a count not a static int.
      ValueError: if shapes do not match or k is out of range.

    Examples:
      >>> from minibatch_jax.mining import normalize_embeddings
      >>> embeddings = normalize_embeddings(jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]))
      >>> float(recall_at_k(embeddings, jnp.array([0, 0, 1, 1]), 1))
      0.5
    """
    columns = embeddings.shape[0] if references is None else references.shape[0]
    check_count("k", k, columns, "the number of references")
    ranks = nearest_positive_ranks(embeddings, labels, references, reference_labels, block_size=block_size)
    hits = jnp.sum((ranks < k).astype(jnp.float32))
    return hits / jnp.maximum(jnp.sum((ranks < columns).astype(jnp.float32)), 1)


class RetrievalScores(NamedTuple):
    """Means over the queries that have a positive, `[]` float32 in [0, 1]; R is the number of positives of a query."""

    r_precision: jax.Array
    map_at_r: jax.Array


def retrieval_scores(
    embeddings: jax.Array,
    labels: jax.Array,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    max_positives: int | None = None,
    block_size: int = 1024,
) -> RetrievalScores:
    """R-precision, the share of positives among the R nearest, and mAP@R, the mean of precision x relevance over them.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if the references are.
      max_positives: static bound on R, which saves sorting all references; larger R count as this.
      block_size: queries compared at once; memory is O(block_size M).

    Returns:
      Both scores. A tie and NaN count against a positive.

    Raises:
      TypeError: if a dtype is wrong or a count not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> scores = retrieval_scores(jnp.array([[1.0], [0.8], [0.9], [0.7]]), jnp.array([0, 0, 1, 0]))
      >>> round(float(scores.r_precision), 4), round(float(scores.map_at_r), 4)
      (0.5, 0.4167)

    References:
      Musgrave et al., A metric learning reality check, 2020 (arXiv 2003.08505).
    """
    _check(embeddings, labels, references, reference_labels, block_size)
    itself = references is None
    embeddings, others = _precise(embeddings, embeddings if references is None else references)
    classes = labels if reference_labels is None else reference_labels
    depth = others.shape[0] if max_positives is None else max_positives
    check_count("max_positives", depth, others.shape[0], "the number of references")
    places = jnp.arange(1, depth + 1, dtype=jnp.float32)

    def scores(query):
        vector, label, index = query
        similarities = jnp.matmul(others, vector, precision="highest")
        positive = classes == label
        if itself:
            own = jnp.arange(others.shape[0]) == index
            positive &= ~own
            similarities = jnp.where(own, -jnp.inf, similarities)
        broken = jnp.where(positive, -jnp.inf, jnp.inf).astype(similarities.dtype)
        similarities = jnp.where(jnp.isnan(similarities), broken, similarities)
        behind = jnp.nextafter(similarities, jnp.full_like(similarities, -jnp.inf))
        _, order = jax.lax.top_k(jnp.where(positive, behind, similarities), depth)
        total = jnp.minimum(jnp.sum(positive.astype(jnp.float32)), depth)
        relevant = jnp.where(places <= total, positive[order].astype(jnp.float32), 0)
        share = 1 / jnp.maximum(total, 1)
        return jnp.sum(relevant) * share, jnp.sum(relevant * jnp.cumsum(relevant) / places) * share, total > 0

    queries = (embeddings, labels, jnp.arange(labels.shape[0]))
    r_precision, map_at_r, counted = jax.lax.map(scores, queries, batch_size=min(block_size, labels.shape[0]))
    number = jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1)
    return RetrievalScores(jnp.sum(r_precision) / number, jnp.sum(map_at_r) / number)


def _precise(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    dtype = weight_dtype(jnp.result_type(*(x.dtype for x in arrays)))
    return tuple(x.astype(dtype) for x in arrays)


def _check(embeddings, labels, references, reference_labels, block_size):
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    check_count("block_size", block_size)
    if (references is None) != (reference_labels is None):
        missing = "references" if references is None else "reference_labels"
        raise ValueError(f"{missing} is None, wanted both references and reference_labels or neither.")
    if references is not None and reference_labels is not None:
        check_shape("references", references, (None, embeddings.shape[1]))
        check_floating("references", references)
        check_shape("reference_labels", reference_labels, references.shape[:1])
        check_integer("reference_labels", reference_labels)
