"""Which k items represent all items best: greedy facility location, and the weights of the chosen.

The value of a set A is the sum over items i of `u_i * max(0, max over j in A of S_ji)`. The value is monotone and
submodular, so the greedy choice reaches at least 1 - 1/e of the optimum.

References:
  Nemhauser et al., An analysis of approximations for maximizing submodular set functions, 1978.
  Mirzasoleiman et al., Coresets for data-efficient training of machine learning models, ICML 2020 (arXiv 1906.01827).

Method: facility location, CRAIG
Paper: 1906.01827
Experiment: quarter_of_a_batch, subsets_of_a_pool, speed facility_location
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._loops import bind
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._greedy import Medoids
from minibatch_jax.selection._similarities import METRICS, similarity, usable_features
from minibatch_jax.weights import weight_dtype, weight_transformation

METHODS = ("naive", "lazy", "stochastic")


def similarity_matrix(features: jax.Array, metric: str = "sqeuclidean", *, where: jax.Array | None = None) -> jax.Array:
    """Return the similarity of each pair of items, at least 0, as facility location needs it.

    One row far from all others makes the constant so large that the distances of the others vanish in its rounding:
    `facility_location_from_features` and `keep_medoids` compare the distances themselves.

    Args:
      features: `[N, D]`, floating point.
      metric: "sqeuclidean", "euclidean" or "l1" for a constant minus the distance, where the constant is an upper bound
        of all distances (its value does not change the choice of medoids); "cosine" for (1 + cos) / 2.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `[N, N]`, float32 (float64 if the features are), symmetric; 0 for rows that do not exist, are not finite or have
      a squared norm that overflows (except for "cosine").

    Raises:
      TypeError: if the features are not floating point.
      ValueError: if shapes do not match or the metric is unknown.

    Examples:
      >>> similarity_matrix(jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), "cosine").tolist()
      [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    """
    features, exists = usable_features(features, where, metric=metric)
    found = similarity(features, exists, metric)
    rows = found.rows(jnp.arange(features.shape[0])) + found.bound
    return jnp.where(exists[:, None] & exists[None], jnp.maximum(rows, 0), 0)


def facility_location_value(
    similarities: jax.Array, chosen: jax.Array, *, item_weights: jax.Array | None = None
) -> jax.Array:
    """Return the value of a set of candidates: how well the set represents the items.

    It is the sum over items of the item's weight times its largest similarity to a chosen candidate.

    Args:
      similarities: `[M, N]`, floating point, of candidates to items; entries below 0 or not finite count as 0.
      chosen: `[M]` bool, which candidates are in the set.
      item_weights: `[N]`, at least 0, weight of each item; 1 by default.

    Returns:
      `[]`, at least 0; 0 for the empty set.

    Raises:
      TypeError: if the similarities are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> similarities = jnp.array([[3.0, 0.0], [1.0, 2.0]])
      >>> [float(facility_location_value(similarities, jnp.array(a))) for a in ([True, False], [True, True])]
      [3.0, 5.0]
    """
    similarities, item_weights = dense_problem(similarities, item_weights)
    check_shape("chosen", chosen, similarities.shape[:1])
    return jnp.sum(item_weights * jnp.max(jnp.where(chosen[:, None], similarities, 0), 0))


def facility_location(
    similarities: jax.Array,
    k: int,
    *,
    method: str = "lazy",
    item_weights: jax.Array | None = None,
    where: jax.Array | None = None,
    chosen: jax.Array | None = None,
    key: jax.Array | int | None = None,
    epsilon: float = 0.01,
) -> Medoids:
    """Choose k of M candidates greedily to represent N items; ties go to the lowest index.

    Args:
      similarities: `[M, N]`, floating point, of candidates to items; entries below 0 or not finite count as 0.
      k: how many to choose, 1 <= k <= M, static.
      method: "naive" evaluates all candidates in each step, O(k N M): use it under vmap and on accelerators. "lazy"
        makes the same choice with far fewer evaluations, one at a time. "stochastic" evaluates M / k * log(1 / epsilon)
        random candidates in each step and reaches 1 - 1/e - epsilon of the optimum in expectation.
      item_weights: `[N]`, at least 0, weight of each item; 1 by default.
      where: `[M]` bool, which candidates may be chosen; all by default.
      chosen: `[M]` bool, candidates chosen earlier, which count in the value and are not chosen again; none by default.
      key: typed PRNG key or int seed, required for "stochastic", unused otherwise.
      epsilon: in (0, 1), static, for "stochastic" only.

    Returns:
      Indices `[k]`, gains `[k]` and owners `[N]`. The gains sum to the value of the result, less that of `chosen`.

    Raises:
      TypeError: if the similarities are not floating point, k is not a static int or a key is missing.
      ValueError: if shapes do not match, k is not in [1, M], the method is unknown or epsilon is out of range.

    References:
      Mirzasoleiman et al., ICML 2020 (arXiv 1906.01827).

    Examples:
      >>> similarities = jnp.array([[3.0, 0.0], [1.0, 2.0], [2.5, 2.5]])
      >>> facility_location(similarities, 2).indices.tolist()
      [2, 0]
    """
    check_choice("method", method, METHODS)
    similarities, item_weights = _raw_problem(similarities, item_weights)
    size, items = similarities.shape
    check_count("k", k, size, "the number of candidates")
    allowed = mask_or_all("where", where, (size,))
    best = jnp.zeros(items, similarities.dtype)
    if chosen is not None:
        check_shape("chosen", chosen, (size,))
        allowed &= ~chosen
        best = jnp.max(jnp.where(chosen[:, None], _greedy.usable(similarities, item_weights), 0), 0)
    greedy = _greedy.start(best, k)
    if method == "naive" or chosen is not None:
        similarities = _greedy.usable(similarities, item_weights)
        first, rows = _greedy.gains_of(similarities, best, item_weights), bind(_greedy.rows_of_matrix, similarities)
    else:
        first = _greedy.value_of_each(similarities, item_weights)
        rows = bind(_greedy.usable_rows, similarities, item_weights)
    if method == "naive":
        return _greedy.naive(greedy, similarities, item_weights, allowed, first)
    if method == "lazy":
        return _greedy.lazy(greedy, rows, item_weights, allowed, first)
    return _greedy.stochastic(_stochastic_key(key, epsilon), greedy, rows, item_weights, allowed, epsilon, first)


def facility_location_from_features(
    features: jax.Array,
    k: int,
    *,
    metric: str = "sqeuclidean",
    method: str = "lazy",
    item_weights: jax.Array | None = None,
    where: jax.Array | None = None,
    key: jax.Array | int | None = None,
    epsilon: float = 0.01,
) -> Medoids:
    """Choose k of N items greedily to represent all N, with similarities computed from features on demand.

    The choice is that of `facility_location` on `similarity_matrix`, without that matrix in memory: O(N D) for "lazy"
    and O(N D + N^2 / k log(1 / epsilon)) for "stochastic". Distances are compared as they are, so that one far row does
    not blur the others. Ties go to the lowest index.

    Args:
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), is absent: never chosen and not represented.
      k: how many to choose, 1 <= k <= N, static.
      metric: similarity of two rows, "sqeuclidean", "euclidean", "l1" or "cosine", defined by `similarity_matrix`.
      method: "lazy" evaluates candidates one at a time; "stochastic" evaluates N / k * log(1 / epsilon) random
        candidates in each step and reaches 1 - 1/e - epsilon of the optimum in expectation.
      item_weights: `[N]`, at least 0, weight of each item; 1 by default.
      where: `[N]` bool, which rows exist; all by default.
      key: typed PRNG key or int seed, required for "stochastic", unused otherwise.
      epsilon: in (0, 1), static, for "stochastic" only.

    Returns:
      Indices `[k]`, gains `[k]` and owners `[N]`; the owner of a row that is absent is k.

    Raises:
      TypeError: if the features are not floating point, k is not a static int or a key is missing.
      ValueError: if shapes do not match, k is not in [1, N], the metric or method is unknown or epsilon
        is out of range.

    References:
      Mirzasoleiman et al., ICML 2020 (arXiv 1906.01827).

    Examples:
      >>> features = jnp.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.3]])
      >>> facility_location_from_features(features, 2).indices.tolist()
      [2, 4]
    """
    check_choice("method", method, METHODS[1:])
    return _of_features(features, k, metric, method, item_weights, where, key, epsilon)


def _of_features(
    features: jax.Array,
    k: int,
    metric: str,
    method: str,
    item_weights: jax.Array | None,
    where: jax.Array | None,
    key: jax.Array | int | None = None,
    epsilon: float = 0.01,
) -> Medoids:
    features, exists = usable_features(features, where, metric=metric)
    size = features.shape[0]
    check_count("k", k, size, "the number of rows")
    item_weights = jnp.where(exists, _item_weights(item_weights, size, features.dtype), 0)
    found = similarity(features, exists, metric)
    first, offset = found.sums(item_weights)
    greedy = _greedy.start(jnp.full(size, -jnp.inf, features.dtype), k)
    if method == "naive":
        medoids = _greedy.naive(greedy, found.rows(jnp.arange(size)), item_weights, exists, first, offset)
    elif method == "lazy":
        medoids = _greedy.lazy(greedy, found.rows, item_weights, exists, first, offset)
    else:
        draw_key = _stochastic_key(key, epsilon)
        medoids = _greedy.stochastic(draw_key, greedy, found.rows, item_weights, exists, epsilon, first, offset)
    return medoids._replace(owners=jnp.where(exists, medoids.owners, k))


def medoid_weights(medoids: Medoids, *, item_weights: jax.Array | None = None, own_self: bool = True) -> jax.Array:
    """Return the weight of each medoid: the sum of the weights of the items it represents.

    Args:
      medoids: k medoids and the owners of N items.
      item_weights: `[N]`, at least 0, weight of each item; 1 by default.
      own_self: whether a medoid always represents itself; if False, a medoid equal to one chosen before it weighs 0.
        Must be False if the candidates are not the items.

    Returns:
      `[k]`, summing to the weights of all items that are not absent; 0 where no candidate was left to choose.

    Raises:
      ValueError: if shapes do not match.

    References:
      Mirzasoleiman et al., ICML 2020 (arXiv 1906.01827).

    Examples:
      >>> medoids = facility_location_from_features(jnp.array([[0.0], [0.1], [5.0], [5.1], [5.3]]), 2)
      >>> medoid_weights(medoids).tolist()
      [3.0, 2.0]
    """
    indices, gains, owners = medoids
    item_weights = _item_weights(item_weights, owners.shape[0], gains.dtype)
    if own_self:
        owners = owners.at[indices].set(jnp.arange(indices.shape[0], dtype=jnp.int32), mode="drop")
    return jnp.zeros(gains.shape, gains.dtype).at[owners].add(item_weights)


def keep_medoids(
    k: int, *, metric: str = "sqeuclidean", method: str = "lazy", weighting: str = "represented"
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that represent the batch best (a CRAIG coreset). Signal: `features` [B, D].

    With the last-layer gradients `softmax(logits) - onehot(labels)` as features, the weighted gradient of the kept
    examples is close to that of the batch. The weights are essential: medoids alone over-represent outliers and can be
    worse than a random sample. Examples with a feature that is not finite, or with a squared norm that overflows, get
    weight 0.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      metric: similarity of two examples, "sqeuclidean", "euclidean", "l1" or "cosine", defined by `similarity_matrix`.
      method: "lazy" takes O(B D) memory; "naive" takes O(B^2): use it under vmap and on accelerators.
      weighting: what a kept example weighs: "represented", the weights of all that it stands for, which keeps the mass
        of the batch, or "own", as it came.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, the features are not floating point.
      ValueError: if the metric or method is unknown or, in `update`, k > B or the features are not `[B, D]`.

    References:
      Mirzasoleiman et al., ICML 2020 (arXiv 1906.01827).

    Examples:
      >>> tx = keep_medoids(2)
      >>> features = jnp.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.3]])
      >>> tx.update(jnp.ones(6), tx.init(jnp.ones(6)), features=features)[0].tolist()
      [0.0, 0.0, 3.0, 0.0, 3.0, 0.0]
    """
    check_choice("weighting", weighting, ("own", "represented"))
    check_count("k", k)
    check_choice("metric", metric, METRICS)
    check_choice("method", method, METHODS[:2])

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        medoids = _of_features(features, k, metric, method, weights, weights != 0)
        new = medoid_weights(medoids, item_weights=weights) if weighting == "represented" else 1.0
        kept = jnp.zeros_like(weights).at[medoids.indices].set(new, mode="drop")
        return kept if weighting == "represented" else kept * weights, state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def dense_problem(similarities: jax.Array, item_weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Check similarities and weights of items; return them, with 0 for what is negative, not finite or of no weight."""
    similarities, item_weights = _raw_problem(similarities, item_weights)
    return _greedy.usable(similarities, item_weights), item_weights


def _raw_problem(similarities: jax.Array, item_weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_shape("similarities", similarities, (None, None))
    check_floating("similarities", similarities)
    similarities = similarities.astype(weight_dtype(similarities.dtype))
    return similarities, _item_weights(item_weights, similarities.shape[1], similarities.dtype)


def _item_weights(item_weights: jax.Array | None, items: int, dtype: jnp.dtype) -> jax.Array:
    if item_weights is None:
        return jnp.ones(items, dtype)
    check_shape("item_weights", item_weights, (items,))
    return item_weights.astype(dtype)


def _stochastic_key(key: jax.Array | int | None, epsilon: float) -> jax.Array:
    check_number("epsilon", epsilon, 0, 1, open_low=True)
    if key is None:
        raise TypeError("key is None, wanted a PRNG key or an int seed for method 'stochastic'.")
    return as_key(key)
