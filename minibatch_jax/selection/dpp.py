"""Diverse subsets: exact draws from a k-DPP, their inclusion probabilities, and the greedy most likely set.

A k-DPP draws each set A of size k with probability in proportion to `det(kernel[A, A])`. Sums of products of
eigenvalues are computed as logarithms, which do not overflow. A TPU finds the eigenvalues by Jacobi's method, which JAX
does not have on a CPU, so a program with a draw is not exported for both at once.

References:
  Kulesza & Taskar, Determinantal point processes for machine learning, 2012 (arXiv 1207.6083).
  Chen, Zhang & Zhou, Fast greedy MAP inference for determinantal point process, NeurIPS 2018 (arXiv 1709.05135).

Method: k-DPP, greedy MAP
Paper: 1207.6083
Experiment: diverse_tasks
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._loops import bind, fori_loop, scan
from minibatch_jax._vector import first_max
from minibatch_jax.geometry import product, squared_distances
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation

WEIGHTINGS = ("plain", "unbiased")
JITTER = 1e-6


def log_symmetric_sums(log_values: jax.Array, k: int) -> jax.Array:
    """Return the logarithms of the elementary symmetric polynomials of every prefix of T values.

    Entry [n, j] is the logarithm of e_j of the first n values: the sum, over all sets of j of these values, of the
    product of the set.

    Args:
      log_values: `[T]`, floating point, logarithms of values that are at least 0; -inf for 0.
      k: highest degree, at least 1, static.

    Returns:
      `[T + 1, k + 1]`, float32 (float64 if the values are); -inf where the polynomial is 0.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if the values are not `[T]` or k < 1.

    References:
      Kulesza & Taskar, 2012 (arXiv 1207.6083).

    Examples:
      >>> sums = log_symmetric_sums(jnp.log(jnp.array([1.0, 2.0, 3.0])), 2)[-1]
      >>> [round(value, 3) for value in jnp.exp(sums).tolist()]
      [1.0, 6.0, 11.0]
    """
    check_shape("log_values", log_values, (None,))
    check_count("k", k)
    log_values = log_values.astype(weight_dtype(log_values.dtype))
    start = jnp.where(jnp.arange(k + 1) == 0, 0, -jnp.inf).astype(log_values.dtype)
    return jnp.concatenate([start[None], scan(_add_value, start, log_values)[1]])


def _add_value(sums, log_value):
    sums = sums.at[1:].set(jnp.logaddexp(sums[1:], sums[:-1] + log_value))
    return sums, sums


def kdpp_indices(key: jax.Array | int, kernel: jax.Array, k: int, *, where: jax.Array | None = None) -> jax.Array:
    """Draw a set of k of T items with probability in proportion to the determinant of their kernel.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      kernel: `[T, T]`, floating point, symmetric, positive semidefinite; an item whose diagonal entry is not finite is
        never drawn, other entries that are not finite count as 0.
      k: how many to draw, 1 <= k <= T, static; the kernel should have at least this rank.
      where: `[T]` bool, which items may be drawn; all by default.

    Returns:
      `[k]` int32, distinct; T where the rank of the kernel left no item to draw.

    Raises:
      TypeError: if the kernel is not floating point or k is not a static int.
      ValueError: if shapes do not match or k is not in [1, T].

    References:
      Kulesza & Taskar, 2012 (arXiv 1207.6083).

    Examples:
      >>> kernel = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
      >>> 2 in kdpp_indices(jax.random.key(0), kernel, 2).tolist()
      True
    """
    values, vectors, _ = _eigen(kernel, k, where)
    size = kernel.shape[0]
    sums = log_symmetric_sums(values, k)
    choose_key, draw_key = jax.random.split(as_key(key))
    uniforms = jax.random.uniform(choose_key, (size,), values.dtype)
    left = jnp.minimum(k, jnp.sum(jnp.isfinite(values), dtype=jnp.int32))
    _, taken = scan(_choose_vector, left, (values, sums[:-1], sums[1:], uniforms), reverse=True)
    _, order = jax.lax.top_k(taken.astype(jnp.int32), k)
    return _draw_projection(draw_key, jnp.where(taken[order][None], vectors[:, order], 0))


def _choose_vector(left, inputs):
    log_value, before, after, uniform = inputs
    log_odds = log_value + before[jnp.maximum(left - 1, 0)] - after[left]
    taken = (left > 0) & (jnp.log(uniform) < log_odds)
    return left - taken.astype(jnp.int32), taken


def kdpp_inclusion(kernel: jax.Array, k: int, *, where: jax.Array | None = None) -> jax.Array:
    """Return the probability of each item to be in a draw of `kdpp_indices`.

    Args:
      kernel: `[T, T]`, floating point, symmetric, positive semidefinite; an item whose diagonal entry is not finite is
        never drawn, other entries that are not finite count as 0.
      k: how many are drawn, 1 <= k <= T, static.
      where: `[T]` bool, which items may be drawn; all by default.

    Returns:
      `[T]`, in [0, 1], summing to k, or to the rank of the kernel if that is less.

    Raises:
      TypeError: if the kernel is not floating point or k is not a static int.
      ValueError: if shapes do not match or k is not in [1, T].

    References:
      Kulesza & Taskar, 2012 (arXiv 1207.6083).

    Examples:
      >>> inclusion = kdpp_inclusion(jnp.diag(jnp.array([1.0, 1.0, 2.0])), 1)
      >>> [round(value, 3) for value in inclusion.tolist()]
      [0.25, 0.25, 0.5]
    """
    values, vectors, _ = _eigen(kernel, k, where)
    before = log_symmetric_sums(values, k)
    after = log_symmetric_sums(values[::-1], k)[::-1]
    without = jax.nn.logsumexp(before[:-1, :k] + after[1:, :k][:, ::-1], axis=1)
    total = before[-1, k]
    taken = jnp.exp(values + without - jnp.where(jnp.isfinite(total), total, 0))
    return vectors**2 @ jnp.where(jnp.isfinite(total), taken, jnp.isfinite(values).astype(values.dtype))


def dpp_map_indices(kernel: jax.Array, k: int, *, where: jax.Array | None = None) -> jax.Array:
    """Choose k items greedily so that the determinant of their kernel is large; ties go to the lowest index.

    Args:
      kernel: `[T, T]`, floating point, symmetric, positive semidefinite; an item whose diagonal entry is not finite is
        never chosen, other entries that are not finite count as 0.
      k: how many to choose, 1 <= k <= T, static.
      where: `[T]` bool, which items may be chosen; all by default.

    Returns:
      `[k]` int32, in order of the choice; T where no item was left.

    Raises:
      TypeError: if the kernel is not floating point or k is not a static int.
      ValueError: if shapes do not match or k is not in [1, T].

    References:
      Chen, Zhang & Zhou, NeurIPS 2018 (arXiv 1709.05135).

    Examples:
      >>> dpp_map_indices(jnp.array([[1.0, 0.9, 0.0], [0.9, 1.1, 0.0], [0.0, 0.0, 0.5]]), 2).tolist()
      [1, 2]
    """
    kernel, allowed = _usable(kernel, k, where)
    size = kernel.shape[0]
    start = jnp.diagonal(kernel), jnp.zeros((size, k), kernel.dtype), allowed, jnp.zeros(k, jnp.int32)
    return fori_loop(0, k, bind(_take_largest, kernel), start)[3]


def _take_largest(kernel, t, state):
    variances, factors, free, indices = state
    variance, j = first_max(jnp.where(free, variances, -jnp.inf))
    new = (kernel[j] - product(factors, factors[j])) / jnp.sqrt(jnp.maximum(variance, jnp.finfo(kernel.dtype).tiny))
    new = jnp.where(variance > 0, new, 0)
    indices = indices.at[t].set(jnp.where(variance > -jnp.inf, j, kernel.shape[0]))
    return variances - new**2, factors.at[:, t].set(new), free.at[j].set(False), indices


def feature_kernel(features: jax.Array, bandwidth: float | None = None) -> jax.Array:
    """Return a kernel of features: inner products plus a small jitter, or a Gaussian of the distances.

    Args:
      features: `[T, D]`, floating point.
      bandwidth: None for inner products, else the standard deviation of the Gaussian, positive.

    Returns:
      `[T, T]`, float32 (float64 if the features are). NaN where a row is not finite.

    Raises:
      TypeError: if the features are not floating point or the bandwidth is not a number.
      ValueError: if the features are not `[T, D]` or the bandwidth is not positive.

    Examples:
      >>> kernel = feature_kernel(jnp.array([[0.0], [2.0]]), bandwidth=1.0)
      >>> [round(value, 3) for value in kernel[0].tolist()]
      [1.0, 0.135]
    """
    check_shape("features", features, (None, None))
    check_floating("features", features)
    if bandwidth is not None:
        check_number("bandwidth", bandwidth, 0, open_low=True)
    features = features.astype(weight_dtype(features.dtype))
    if bandwidth is None:
        return product(features, features.T) + JITTER * jnp.eye(features.shape[0], dtype=features.dtype)
    return jnp.exp(-squared_distances(features, features) / (2 * bandwidth**2))


def keep_diverse(
    k: int, key: jax.Array | int, *, bandwidth: float | None = None, weighting: str = "plain"
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples, or tasks, drawn from a k-DPP. Signal: `features` [B, D].

    A draw over-represents rare examples. The weighting "unbiased" divides each weight by the probability to be drawn.
    At small scale the error of the gradient fell with this correction only, by about a twentieth. An example with a
    non-finite feature is never drawn. A draw takes O(B^3) time.

    Args:
      k: how many to draw, 1 <= k <= B, static; fewer are kept if the kernel has a lower rank.
      key: typed PRNG key or int seed.
      bandwidth: None for the kernel of inner products, else the standard deviation of a Gaussian kernel, positive.
      weighting: "plain" keeps the weights of the drawn examples; "unbiased" divides them by their probabilities to be
        drawn, do not normalize afterwards then.

    Returns:
      A transformation over `[B]` weights; with "unbiased" their mass is kept in expectation only.

    Raises:
      TypeError: if k is not a static int, the key is a raw array or, in `update`, the features are not floating point.
      ValueError: if an option is out of range or, in `update`, k > B or the features are not `[B, D]`.

    References:
      Exploring intra-task relations to improve meta-learning algorithms, 2023, for the hypothesis; Kulesza & Taskar,
      2012 (arXiv 1207.6083), for the draw.

    Examples:
      >>> tx = keep_diverse(k=2, key=0)
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), features=features)[0].tolist()[2]
      1.0
    """
    check_count("k", k)
    if bandwidth is not None:
        check_number("bandwidth", bandwidth, 0, open_low=True)
    check_choice("weighting", weighting, WEIGHTINGS)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        exists = (weights != 0) & jnp.isfinite(features).all(1)
        kernel = feature_kernel(jnp.where(exists[:, None], features, 0), bandwidth).astype(weights.dtype)
        next_key, draw_key = jax.random.split(state.rng_key)
        indices = kdpp_indices(draw_key, kernel, k, where=exists)
        if weighting == "unbiased":
            inclusion = kdpp_inclusion(kernel, k, where=exists)
            weights = weights / jnp.where(inclusion > 0, inclusion, 1)
        return keep_rows(weights, indices), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _draw_projection(key: jax.Array, vectors: jax.Array) -> jax.Array:
    """Draw one item for each of the orthonormal columns of `[T, k]`; a zero column gives T."""
    start = vectors, jnp.ones(vectors.shape[0], bool)
    return scan(_draw_row, start, jax.random.split(key, vectors.shape[1]))[1]


def _draw_row(state, step_key):
    vectors, free = state
    tiny = 1e-6
    squares = jnp.where(free, jnp.sum(vectors**2, 1), 0)
    logits = jnp.where(squares > tiny, jnp.log(jnp.where(squares > tiny, squares, 1)), -jnp.inf)
    noisy = logits + jax.random.gumbel(step_key, logits.shape, logits.dtype)
    top, j = first_max(noisy)
    valid = top > -jnp.inf
    direction = vectors[j] / jnp.sqrt(jnp.where(valid, squares[j], 1))
    vectors = vectors - jnp.where(valid, (vectors @ direction)[:, None] * direction[None], 0)
    return (vectors, free.at[j].set(False)), jnp.where(valid, j, free.shape[0])


def _eigen(kernel: jax.Array, k: int, where: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return log eigenvalues and eigenvectors of the usable kernel, and the usable items.

    Eigenvalues that are 0 up to rounding, at most T eps times the largest, get the logarithm -inf.
    """
    kernel, allowed = _usable(kernel, k, where)
    values, vectors = lax.platform_dependent(kernel, tpu=_eigh_by_jacobi, default=_eigh)
    floor = jnp.max(values) * kernel.shape[0] * jnp.finfo(kernel.dtype).eps
    return jnp.where(values > floor, jnp.log(jnp.where(values > floor, values, 1)), -jnp.inf), vectors, allowed


def _eigh(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.linalg.eigh(kernel))


def _eigh_by_jacobi(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For a TPU, whose compiler takes a minute or more for the default method above 256 items, seconds for this one."""
    vectors, values = lax.linalg.eigh(kernel, implementation=lax.linalg.EighImplementation.JACOBI)
    return values, vectors


def _usable(kernel: jax.Array, k: int, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_shape("kernel", kernel, (None, None))
    check_shape("kernel", kernel, kernel.shape[:1] * 2)
    check_floating("kernel", kernel)
    check_count("k", k, kernel.shape[0], "the number of items")
    kernel = kernel.astype(weight_dtype(kernel.dtype))
    allowed = jnp.isfinite(jnp.diagonal(kernel))
    allowed &= mask_or_all("where", where, kernel.shape[:1])
    usable = jnp.isfinite(kernel) & allowed[:, None] & allowed[None]
    return jnp.where(usable, kernel, 0), allowed
