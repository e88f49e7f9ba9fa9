"""Immiscible diffusion: give each image a nearby noise before the diffusion loss is computed.

An assignment only hands out the same noises in another order, so the noise of a batch stays exactly Gaussian. Taking
the nearest of k candidates of each image needs no solver, but **the noise is no longer Gaussian**: it is shorter, and
shifted towards the image (by +0.6 standard deviations along the image for k = 4, by +1.4 for k = 64, at 3072
dimensions).

Rounded distances (`bits`) make an assignment exact in float32. They do not make it faster, and below 8 bits their many
ties make it slower.

A model with class labels is sampled from noise that knows no class. Give `immiscible_noise` the labels then, else the
noise of each class is no longer Gaussian.

References:
  Li et al., Immiscible diffusion: accelerating diffusion training with noise assignment, 2024 (arXiv 2406.12303).
  Li et al., Improved immiscible diffusion: accelerate diffusion training by reducing its miscibility, 2025
  (arXiv 2505.18521).

Method: immiscible diffusion
Paper: 2406.12303
Experiment: flow_matching_images, immiscible_diffusion, quantized_assignment
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import as_key, check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax.coupling._problem import allowed_pairs, is_price, marginals_of
from minibatch_jax.coupling.costs import euclidean_cost
from minibatch_jax.coupling.exact.assignments import assignment, couple_assignment
from minibatch_jax.weights import weight_dtype, weight_transformation

_MAX_BITS = 12


def immiscible_noise(
    key: jax.Array | int, x1: jax.Array, *, bits: int | None = None, labels: jax.Array | None = None
) -> jax.Array:
    """Draw Gaussian noise for a batch of images, and assign it to the images at the least total distance.

    Apply an offset or a scale of the noise afterwards. On several devices, gather the images and pass the same key.

    Args:
      key: typed PRNG key or int seed.
      x1: `[B, ...]`, images or latents, floating point.
      bits: quantize the distances to `2**bits` levels first, 1 to 12, static; None leaves the distances as they are.
      labels: `[B]`, integers; noise is then handed out within each class only, so that it stays Gaussian in each.

    Returns:
      `[B, ...]`, noise of each image, in its dtype: the rows of `jax.random.normal(key, x1.shape)` in another order. An
      image that is not finite keeps the noise of its own row. Half precision is drawn in float32 and rounded.

    Raises:
      TypeError: if the images are not floating point, the labels not integers, `bits` is not a static int or the key is
        a raw array.
      ValueError: if `bits` is not in [1, 12] or the labels are not one for each image.

    References:
      Li et al., Immiscible diffusion: accelerating diffusion training with noise assignment, 2024 (arXiv 2406.12303).
      Cheng and Schwing, The curse of conditions, 2025 (arXiv 2503.10636), for the labels.

    Examples:
      >>> x1 = jnp.array([[9.0], [-9.0]])
      >>> noise = immiscible_noise(0, x1)
      >>> bool(noise[0, 0] > noise[1, 0])
      True
      >>> in_order = immiscible_noise(0, x1, labels=jnp.array([0, 1]))
      >>> bool(jnp.all(in_order == jax.random.normal(jax.random.key(0), x1.shape)))
      True
    """
    check_floating("x1", x1)
    alike = None
    if labels is not None:
        labels = jnp.asarray(labels)
        check_integer("labels", labels)
        check_shape("labels", labels, x1.shape[:1])
        alike = labels[:, None] == labels[None]
    noise = _noise(as_key(key), x1)
    cost = euclidean_cost(x1, noise)
    if bits is not None:
        cost = quantize_cost(cost, bits, where=alike)
    columns = assignment(cost, where=alike).columns
    rows = lax.iota(jnp.int32, x1.shape[0])
    return noise[jnp.where(columns < 0, rows, columns)]


def nearest_noise(key: jax.Array | int, x1: jax.Array, k: int) -> jax.Array:
    """Draw k Gaussian noises for each image and return the nearest. The result is **not** Gaussian.

    The nearest noise is shorter than a Gaussian one, and shifted towards the image. Whatever k is, this needs memory
    for two noises of the batch only.

    Args:
      key: typed PRNG key or int seed.
      x1: `[B, ...]`, images or latents, floating point.
      k: candidates for each image, at least 1, static; 1 is plain diffusion.

    Returns:
      `[B, ...]`, noise of each image, the first of the nearest ones.

    Raises:
      TypeError: if the images are not floating point, k is not a static int or the key is a raw array.
      ValueError: if k is below 1.

    References:
      Li et al., Improved immiscible diffusion: accelerate diffusion training by reducing its miscibility, 2025
        (arXiv 2505.18521).

    Examples:
      >>> x1 = jnp.full((1, 4), 2.0)
      >>> far, near = (jnp.linalg.norm(nearest_noise(0, x1, k) - x1) for k in (1, 64))
      >>> bool(near < far)
      True
    """
    check_floating("x1", x1)
    check_count("k", k)
    keys = jax.random.split(as_key(key), k)
    return fori_loop(1, k, bind(_look, keys, x1), _candidate(keys[0], x1))[0]


def _candidate(key, x1):
    """Draw a noise for each image; return it and its squared distance."""
    dtype = weight_dtype(x1.dtype)
    noise = _noise(key, x1)
    return noise, jnp.sum((noise.astype(dtype) - x1.astype(dtype)) ** 2, axis=tuple(range(1, x1.ndim)))


def _look(keys, x1, i, best):
    (candidate, distance), (noise, least) = _candidate(keys[i], x1), best
    nearer = jnp.expand_dims(distance < least, range(1, x1.ndim))
    return jnp.where(nearer, candidate, noise), jnp.minimum(distance, least)


def quantize_cost(cost: jax.Array, bits: int, *, where: jax.Array | None = None) -> jax.Array:
    """Round a cost to whole numbers from 0 to `2**bits - 1`. An assignment in float32 is then free of rounding errors.

    Args:
      cost: `[B0, B1]`, floating point.
      bits: 1 to 12, static.
      where: `[B0, B1]` bool, the pairs whose range is divided into levels; all finite ones by default.

    Returns:
      `[B0, B1]`, whole numbers; NaN outside `where` and where the cost is not finite.

    Raises:
      TypeError: if the cost is not floating point, `where` not bool or `bits` not a static int.
      ValueError: if the cost is not a matrix, `where` has another shape or `bits` is not in [1, 12].

    Examples:
      >>> quantize_cost(jnp.array([[0.0, 0.4], [0.6, 1.0]]), 1).tolist()
      [[0.0, 0.0], [1.0, 1.0]]
    """
    check_shape("cost", cost, (None, None))
    check_floating("cost", cost)
    check_count("bits", bits, _MAX_BITS, "more levels lose exactness in float32")
    cost = cost.astype(weight_dtype(cost.dtype))
    allowed = allowed_pairs(cost, where, is_price)
    low = jnp.min(cost, initial=jnp.inf, where=allowed)
    reach = jnp.max(cost, initial=-jnp.inf, where=allowed) - low
    levels = jnp.round((cost - low) / jnp.where(reach > 0, reach, 1) * (2**bits - 1))
    return jnp.where(allowed, levels, jnp.nan)


def couple_quantized(bits: int) -> optax.GradientTransformationExtraArgs:
    """Couple one-to-one at the least total cost, with the cost rounded to `2**bits` levels. Signal: `cost` [B0, B1].

    This is the pairing of immiscible diffusion: `couple_assignment` on `quantize_cost`.

    Args:
      bits: 1 to 12, static.

    Returns:
      A transformation over `[B0, B1]` weights, with a `SolverReport` as state, as that of `couple_assignment`.

    Raises:
      TypeError: if `bits` is not a static int or, in `update`, the cost is not floating point.
      ValueError: if `bits` is not in [1, 12] or, in `update`, the cost does not have the shape of the weights.

    References:
      Li et al., Immiscible diffusion: accelerating diffusion training with noise assignment, 2024 (arXiv 2406.12303).

    Examples:
      >>> tx = couple_quantized(8)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[4.0, 1.0], [2.0, 0.0]]))[0].tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """
    check_count("bits", bits, _MAX_BITS, "more levels lose exactness in float32")

    assigned = couple_assignment()

    def update(weights, state, params=None, *, cost, **extra_args):
        check_shape("cost", cost, weights.shape)
        return assigned.update(weights, state, cost=quantize_cost(cost, bits, where=weights > 0))

    return weight_transformation(assigned.init, update)


def couple_nearest() -> optax.GradientTransformationExtraArgs:
    """Move the weight of each row to the cheapest column of the row. Signal: `cost` [B0, B1].

    Ties go to the first column. Pairs of weight 0 or of non-finite cost are never used. Row sums are kept, column sums
    are not: **the marginal of the targets is biased**.

    Returns:
      A transformation over `[B0, B1]` weights without state.

    Raises:
      ValueError: in `update`, if the cost does not have the shape of the weights.

    References:
      Li et al., Improved immiscible diffusion: accelerate diffusion training by reducing its miscibility, 2025
        (arXiv 2505.18521).

    Examples:
      >>> tx = couple_nearest()
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[4.0, 1.0], [2.0, 0.0]]))[0].tolist()
      [[0.0, 0.5], [0.0, 0.5]]
    """

    def update(weights, state, params=None, *, cost, **extra_args):
        allowed, mass, _ = marginals_of(weights, cost)
        price = jnp.where(allowed, cost.astype(weights.dtype), jnp.inf)
        column = lax.broadcasted_iota(jnp.int32, cost.shape, 1)
        cheapest = price == jnp.min(price, axis=1, keepdims=True)
        first = jnp.min(jnp.where(cheapest, column, cost.shape[1] - 1), axis=1, keepdims=True)
        return jnp.where(allowed & (column == first), mass[:, None], 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _noise(key: jax.Array, like: jax.Array) -> jax.Array:
    """Draw in float32 at least: a draw in bfloat16 has 128 different values, none beyond 2.9 standard deviations."""
    return jax.random.normal(key, like.shape, weight_dtype(like.dtype)).astype(like.dtype)
