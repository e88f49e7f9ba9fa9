"""Retrieval metrics over a whole data set, one block of queries at a time: no array `[N, N]`.

Similarities are computed in float32 at least, so that embeddings in half precision do not tie by rounding.

Method: retrieval scores in blocks
Paper: 2003.08505
Experiment: triplet_mining
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.devices import axis_size, bound_axis, gather_rows
from minibatch_jax.geometry import product
from minibatch_jax.mining._references import references_of
from minibatch_jax.mining.reductions import reduce_losses
from minibatch_jax.weights import weight_dtype


def nearest_positive_ranks(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    block_size: int = 1024,
    axis_name: str | None = None,
) -> jax.Array:
    """Return how many negatives are at least as similar to a query as its nearest positive.

    Negatives are the references of other classes, or those of a mask. A tie counts against the query, and so does NaN:
    collapsed or broken embeddings score 0, not 1.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int. Several labels a query need masks instead.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if references and labels are.
      positives: `[N, M]` bool, True where a reference is right for a query, in place of labels.
      negatives: `[N, M]` bool, True where it is wrong; given if and only if the positives are. A reference in neither
        mask is ignored, as if it was not there, and no reference may be in both.
      block_size: queries compared at once; memory is O(block_size M).
      axis_name: of a `shard_map` or `pmap` over which queries and references are sharded: the queries of a device are
        compared with the references of all. Masks are those of the queries of a device with all references.

    Returns:
      `[N]` int32: 0 if the nearest reference is a positive; M if the query has no positive.

    Raises:
      TypeError: if a dtype or the block size is wrong.
      ValueError: if shapes do not match, or neither or both of labels and masks are given.

    Examples:
      >>> nearest_positive_ranks(jnp.array([[1.0], [0.8], [0.9]]), jnp.array([0, 0, 1])).tolist()
      [1, 0, 3]

      Several labels an example; references that share one with the query are right:

      >>> tags = jnp.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> nearest_positive_ranks(jnp.array([[1.0], [0.8], [0.9]]), positives=shared, negatives=~shared).tolist()
      [1, 0, 1]
    """
    check_count("block_size", block_size)
    everyone = references_of(
        embeddings, labels, references, reference_labels, positives, negatives, axis_name=axis_name
    )
    embeddings, others = _precise(embeddings, everyone.embeddings)
    queries = (embeddings, everyone.anchors)
    found = map_rows(bind(_rank, others, everyone), queries, block_size=min(block_size, embeddings.shape[0]))
    return jnp.minimum(found, others.shape[0]).astype(jnp.int32)


def _rank(others, everyone, query):
    vector, anchor = query
    similarities = product(others, vector)
    positive, negative = everyone.masks_of_one(anchor)
    nearest = jnp.max(similarities, where=positive, initial=-jnp.inf)
    ahead = negative & ~(similarities < nearest)
    return jnp.sum(ahead) + jnp.where(jnp.any(positive), 0, others.shape[0])


def recall_at_k(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    k: int = 1,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    block_size: int = 1024,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the fraction of queries with a positive among their k nearest references.

    Queries without any positive are left out.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int. Several labels a query need masks instead.
      k: number of nearest references that count, at most the number of references, static.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if references and labels are.
      positives: `[N, M]` bool, True where a reference is right for a query, in place of labels.
      negatives: `[N, M]` bool, True where it is wrong; given if and only if the positives are. A reference in neither
        mask is ignored, as if it was not there, and no reference may be in both.
      block_size: queries compared at once; memory is O(block_size M).
      axis_name: of a `shard_map` or `pmap` over which queries and references are sharded: the queries of a device are
        compared with the references of all, and averaged over all. Masks are those of the queries of a device with
        all references.

    Returns:
      `[]` float32 in [0, 1]; 0 if no query has a positive. Ties count as misses.

    Raises:
      TypeError: if a dtype is wrong or a count not a static int.
      ValueError: if shapes do not match, neither or both of labels and masks are given, or k is out of range.

    Examples:
      >>> from minibatch_jax.mining import normalize_embeddings
      >>> embeddings = normalize_embeddings(jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]))
      >>> float(recall_at_k(embeddings, jnp.array([0, 0, 1, 1]), 1))
      0.5

      Several labels an example; references that share one with the query are right:

      >>> tags = jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> float(recall_at_k(embeddings, positives=shared, negatives=~shared))
      1.0
    """
    columns = (embeddings if references is None else references).shape[0] * axis_size(axis_name)
    check_count("k", k, columns, "the number of references")
    masks = {"positives": positives, "negatives": negatives}
    options = {**masks, "block_size": block_size, "axis_name": axis_name}
    ranks = nearest_positive_ranks(embeddings, labels, references, reference_labels, **options)
    return reduce_losses((ranks < k).astype(jnp.float32), ranks < columns, axis_name=axis_name)


class RetrievalScores(NamedTuple):
    """Means over the queries, or over the classes, that have a positive; R is the number of positives of a query.

    Attributes:
      r_precision: `[]` float32 in [0, 1], fraction of positives among the R nearest references.
      map_at_r: `[]` float32 in [0, 1], mean over the R nearest of precision x relevance.
      mean_average_precision: `[]` float32 in [0, 1], mean over the positives of the precision at the place of each; NaN
        with `max_positives`, as it takes the places of all.
      reciprocal_rank: `[]` float32 in (0, 1], 1 / place of the nearest positive.
      recall: `[len(ks)]` float32 in [0, 1], for each k the fraction with a positive among the k nearest references.
      left_out: `[]` int32, queries, or classes, without any positive, which no mean counts.
    """

    r_precision: jax.Array
    map_at_r: jax.Array
    mean_average_precision: jax.Array
    reciprocal_rank: jax.Array
    recall: jax.Array
    left_out: jax.Array


def retrieval_scores(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    ks: tuple[int, ...] = (1,),
    average: str = "query",
    max_positives: int | None = None,
    block_size: int = 1024,
    axis_name: str | None = None,
) -> RetrievalScores:
    """Return the scores of retrieval: R-precision, mAP@R, mAP, reciprocal rank, and recall at several k.

    R-precision is the fraction of positives among the R nearest references of a query with R positives, mAP@R the mean
    of precision x relevance over the R nearest. Queries without a positive are left out and counted.

    Args:
      embeddings: `[N, D]`, floating point; similarity is the inner product, so normalize them for the cosine.
      labels: `[N]` int. Several labels a query need masks instead.
      references: `[M, D]`, floating point. By default the embeddings, and a query does not find itself.
      reference_labels: `[M]` int, given if and only if references and labels are.
      positives: `[N, M]` bool, True where a reference is right for a query, in place of labels.
      negatives: `[N, M]` bool, True where it is wrong; given if and only if the positives are. A reference in neither
        mask is ignored, as if it was not there, and no reference may be in both.
      ks: numbers of nearest references for the recall, each at most the number of references, static.
      average: "query", or "class" for the mean over the classes of the mean over their queries, so that rare classes
        count as much as frequent ones; this needs labels.
      max_positives: static bound on R, which saves sorting all references; a larger R counts as this. By default the
        number of references.
      block_size: queries compared at once; memory is O(block_size M).
      axis_name: of a `shard_map` or `pmap` over which queries and references are sharded: the queries of a device are
        compared with the references of all, and averaged over all. Masks are those of the queries of a device with
        all references.

    Returns:
      `RetrievalScores`. A tie and NaN count against a positive.

    Raises:
      TypeError: if a dtype is wrong or a count not a static int.
      ValueError: if shapes do not match, neither or both of labels and masks are given, a count is out of range, or
        an average over classes is asked of masks.

    References:
      Musgrave et al., A metric learning reality check, 2020 (arXiv 2003.08505).

    Examples:
      >>> scores = retrieval_scores(jnp.array([[1.0], [0.8], [0.9], [0.7]]), jnp.array([0, 0, 1, 0]))
      >>> round(float(scores.r_precision), 4), round(float(scores.map_at_r), 4)
      (0.5, 0.4167)
      >>> round(float(scores.mean_average_precision), 4), int(scores.left_out)
      (0.75, 1)

      Several labels an example; references that share one with the query are right:

      >>> tags = jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> scores = retrieval_scores(jnp.array([[1.0], [0.8], [0.9], [0.7]]), positives=shared, negatives=~shared)
      >>> round(float(scores.r_precision), 4), round(float(scores.map_at_r), 4)
      (0.375, 0.3125)
    """
    check_count("block_size", block_size)
    check_choice("average", average, ("query", "class"))
    if average == "class" and labels is None:
        raise ValueError("average is 'class' with masks, wanted labels, which say what a class is.")
    everyone = references_of(
        embeddings, labels, references, reference_labels, positives, negatives, axis_name=axis_name
    )
    embeddings, others = _precise(embeddings, everyone.embeddings)
    for k in ks:
        check_count("an entry of ks", k, others.shape[0], "the number of references")
    depth = others.shape[0] if max_positives is None else max_positives
    check_count("max_positives", depth, others.shape[0], "the number of references")
    queries, block_size = (embeddings, everyone.anchors), min(block_size, embeddings.shape[0])
    scores = map_rows(bind(_scores, others, everyone, depth=depth), queries, block_size=block_size)
    precision, map_at_r, average_precision, ranks, counted = scores
    rows = jnp.stack([precision, map_at_r, average_precision, 1 / (ranks + 1)], axis=1)
    rows = jnp.concatenate([rows, *((ranks < k).astype(jnp.float32)[:, None] for k in ks)], axis=1)
    axis = bound_axis(axis_name)
    told = None if labels is None else jnp.asarray(labels)
    if axis is not None:
        rows, counted = gather_rows(rows, axis), gather_rows(counted, axis)
        told = None if told is None else gather_rows(told, axis)
    if told is None or average == "query":
        shares, left_out = counted.astype(jnp.float32), jnp.sum(~counted, dtype=jnp.int32)
    else:
        shares, left_out = _shares_of_classes(told, counted)
    means = jnp.sum(jnp.where(counted[:, None], shares[:, None] * rows, 0), axis=0) / jnp.maximum(jnp.sum(shares), 1e-9)
    return RetrievalScores(means[0], means[1], means[2], means[3], means[4:], left_out)


def _shares_of_classes(labels, counted):
    """Return 1 / the number of counted queries of its class for each of these, and how many classes have none."""
    order = jnp.argsort(labels)
    ordered, told = labels[order], counted[order].astype(jnp.int32)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(told)])
    first, last = (jnp.searchsorted(ordered, labels, side=side) for side in ("left", "right"))
    number = before[last] - before[first]
    empty = jnp.sum(jnp.where(number == 0, 1 / (last - first), 0))
    return jnp.where(counted, 1 / jnp.maximum(number, 1), 0), jnp.round(empty).astype(jnp.int32)


def _scores(others, everyone, query, *, depth):
    vector, anchor = query
    similarities = product(others, vector)
    positive, negative = everyone.masks_of_one(anchor)
    lowest = jnp.finfo(similarities.dtype).min / 2  # above -inf, where the references are that are ignored
    similarities = jnp.where(positive | negative, similarities, -jnp.inf)
    broken = jnp.where(positive, lowest, jnp.inf).astype(similarities.dtype)
    similarities = jnp.where(jnp.isnan(similarities), broken, similarities)
    behind = jnp.nextafter(similarities, jnp.full_like(similarities, -jnp.inf))
    values = jnp.where(positive, behind, similarities)
    nearest = jnp.max(similarities, where=positive, initial=-jnp.inf)
    rank = jnp.sum(negative & (similarities >= nearest)).astype(jnp.float32)
    _, order = jax.lax.top_k(values, depth)
    places = jnp.arange(1, depth + 1, dtype=jnp.float32)
    total = jnp.minimum(jnp.sum(positive.astype(jnp.float32)), depth)
    found = positive[order].astype(jnp.float32)
    precise = found * jnp.cumsum(found) / places
    share, among = 1 / jnp.maximum(total, 1), places <= total
    whole = jnp.sum(precise) * share if depth == others.shape[0] else jnp.full((), jnp.nan)
    return (
        jnp.sum(jnp.where(among, found, 0)) * share,
        jnp.sum(jnp.where(among, precise, 0)) * share,
        whole,
        rank,
        total > 0,
    )


def _precise(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    dtype = weight_dtype(jnp.result_type(*(x.dtype for x in arrays)))
    return tuple(x.astype(dtype) for x in arrays)
