"""Squared distances, cosines and unit rows, in float32 at least and with finite gradients everywhere.

Distances come from |x|^2 - 2 x y + |y|^2, one matrix product. It cancels badly when all rows share a large offset, so
both sets are first shifted by one point near them. Products run at the highest precision, because the default of TPU
and GPU visibly changes which rows are nearest. A row that is not finite, or too long for its square, has NaN with every
other row and gradient 0.
"""

import jax
import jax.numpy as jnp

from minibatch_jax.weights import weight_dtype


def finite_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rows with 0 in those that are not finite, and which rows are finite.

    Args:
      x: `[N, D]`, floating point.

    Returns:
      `[N, D]`, float32 (float64 if `x` is), and `[N]` bool.

    Examples:
      >>> rows, finite = finite_rows(jnp.array([[1.0, 2.0], [jnp.nan, 3.0]]))
      >>> rows.tolist(), finite.tolist()
      ([[1.0, 2.0], [0.0, 0.0]], [True, False])
    """
    finite = jnp.all(jnp.isfinite(x), axis=1)
    return jnp.where(finite[:, None], x, 0).astype(weight_dtype(x.dtype)), finite


def measurable_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rows with 0 in those that have no distance to others, and which rows have one.

    These are the finite rows without those so far away that squared distances of them overflow.

    Args:
      x: `[N, D]`, floating point.

    Returns:
      `[N, D]`, float32 (float64 if `x` is), and `[N]` bool.

    Examples:
      >>> rows, measurable = measurable_rows(jnp.array([[1.0, 2.0], [1e21, 3.0]]))
      >>> rows.tolist(), measurable.tolist()
      ([[1.0, 2.0], [0.0, 0.0]], [True, False])
    """
    rows, finite = finite_rows(x)
    farthest = jnp.sqrt(jnp.finfo(rows.dtype).max / (16 * rows.shape[1]))
    near = finite & (jnp.max(jnp.abs(rows), axis=1) < farthest)
    return jnp.where(near[:, None], rows, 0), near


def unit_rows(x: jax.Array) -> jax.Array:
    """Return the rows scaled to length 1; rows of zeros and rows that are not finite become 0, with gradient 0.

    A row is divided by its largest entry first, so that no square leaves the range of floats.

    Args:
      x: `[N, D]`, floating point.

    Returns:
      `[N, D]`, float32 (float64 if `x` is).

    Examples:
      >>> unit_rows(jnp.array([[3.0, 0.0], [0.0, 0.0]])).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    x = x.astype(weight_dtype(x.dtype))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True))
    usable = (largest >= jnp.finfo(x.dtype).tiny) & jnp.isfinite(largest)
    scaled = jnp.where(usable, x / jnp.where(usable, largest, 1), 0)
    squared = jnp.sum(scaled * scaled, axis=1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(usable, squared, 1))


def center(*sets: jax.Array) -> jax.Array:
    """Return a point near the finite rows of all sets: their mean, 0 or a row, by the least sum of |x - point|.

    A few rows that are far away, such as outliers or padding, can move the mean far from all others: then it is 0, or
    the row of the first set that is nearest to the mean. The gradient stops here.

    Args:
      *sets: `[N, D]` each, floating point, of one dtype.

    Returns:
      `[D]`, float32 (float64 if the sets are).

    Examples:
      >>> center(jnp.array([[8.0], [9.0]]), jnp.array([[10.0], [jnp.nan]])).tolist()
      [9.0]
    """
    return _center(*map(finite_rows, sets))


def squared_distances(
    x: jax.Array, y: jax.Array, *, floor: float | jax.Array = 0.0, origin: jax.Array | None = None
) -> jax.Array:
    """Return the squared Euclidean distance of each row of `x` to each row of `y`, by one matrix product.

    Args:
      x: `[A, D]`, floating point.
      y: `[M, D]`, of the same dtype.
      floor: what is at most this fraction of the two squared lengths, counted from the origin, is 0 with all
        derivatives 0. Four times the rounding error of the dtype removes what rounding leaves of the distance of equal
        rows. With floor 0, equal rows have the second derivatives of all others.
      origin: `[D]`, a point near the rows, `center(x, y)` by default.

    Returns:
      `[A, M]`, at least 0, float32 (float64 if the rows are); NaN for a row that is not finite or whose squared length
      overflows.

    Examples:
      >>> squared_distances(jnp.array([[512695.0]]), jnp.array([[512804.0], [jnp.nan]])).tolist()
      [[11881.0, nan]]
    """
    (x, x_finite), (y, y_finite) = measurable_rows(x), measurable_rows(y)
    if x.shape[0] == y.shape[0] == 1:  # one pair needs no product, and its difference does not cancel
        return jnp.where(x_finite & y_finite, jnp.sum((x - y) ** 2), jnp.nan)[:, None]
    if origin is None:
        origin = _center((x, x_finite), (y, y_finite))
    x, y = x - origin[None], y - origin[None]
    lengths = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    squared = lengths - 2 * product(x, y.T)
    squared = squared - jax.lax.stop_gradient(jnp.minimum(squared, 0))  # equal rows keep their second derivative
    if not (isinstance(floor, float) and floor == 0):
        squared = jnp.where(squared <= floor * lengths, 0, squared)
    return jnp.where(x_finite[:, None] & y_finite[None, :], squared, jnp.nan)


def root(squared: jax.Array) -> jax.Array:
    """Return distances from squared distances; the gradient at 0 is 0.

    Args:
      squared: floating point, at least 0 or NaN.

    Returns:
      The square roots, of the same shape and dtype.

    Examples:
      >>> root(jnp.array([25.0, 0.0])).tolist(), jax.grad(root)(0.0).tolist()
      ([5.0, 0.0], 0.0)
    """
    apart = squared != 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the cosine of the angle between each row of `x` and each row of `y`; 0 where one of them is 0.

    Args:
      x: `[A, D]`, floating point.
      y: `[M, D]`, of the same dtype.

    Returns:
      `[A, M]` in [-1, 1] up to rounding, float32 (float64 if the rows are); NaN for a row that is not finite.

    Examples:
      >>> cosines(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0]])).tolist()
      [[1.0, 0.0]]
    """
    (x, x_finite), (y, y_finite) = finite_rows(x), finite_rows(y)
    return jnp.where(x_finite[:, None] & y_finite[None, :], product(unit_rows(x), unit_rows(y).T), jnp.nan)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the matrix product in full precision on accelerators too, because small differences of it are compared.

    Args:
      a: matrix or vector, floating point.
      b: matrix or vector, of the same dtype.

    Returns:
      The product, as `jnp.matmul` defines it.

    Examples:
      >>> float(product(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
      11.0
    """
    return jnp.matmul(a, b, precision="highest")


def _center(*sets: tuple[jax.Array, jax.Array]) -> jax.Array:
    count = sum(jnp.sum(finite, dtype=x.dtype) for x, finite in sets)
    mean = sum(jnp.sum(x, axis=0) for x, _ in sets) / jnp.maximum(count, 1)
    x, finite = sets[0]
    nearest = x[jnp.argmin(jnp.where(finite, jnp.sum(jnp.abs(x - mean[None]), axis=1), jnp.inf))]

    def total(point):
        return sum(jnp.sum(jnp.where(finite[:, None], jnp.abs(x - point[None]), 0)) for x, finite in sets)

    center = jnp.where(total(mean) < total(jnp.zeros_like(mean)), mean, 0)
    return jax.lax.stop_gradient(jnp.where(total(nearest) < total(center), nearest, center))
