"""Keep examples at random, by how much each would move the fitted model: optimal if kept examples are reweighed.

The influence of an example on a fit by maximum likelihood is the inverse Hessian of the loss times its gradient. Among
all ways to keep a fraction of the examples and to divide each by its probability, the one whose probabilities are in
proportion to the length of the influence has the least asymptotic error. The labels are not known yet, so a surrogate
model stands in: the squared length is its expectation over the labels that the surrogate deems possible.

References:
  Ting & Brochu, Optimal subsampling with influence functions, NeurIPS 2018 (arXiv 1709.01716).
  Kolossov, Montanari & Tandon, Towards a statistical theory of data selection under weak supervision, ICLR 2024
  (arXiv 2309.14563).

Method: influence sampling
Paper: 1709.01716, 2309.14563
Experiment: power_sampling
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import measurable_rows, product
from minibatch_jax.selection._draws import keep_with_probability
from minibatch_jax.selection.power_sampling import power_inclusion
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def influence_lengths(
    logits: jax.Array, features: jax.Array, *, ridge: float = 1e-3, where: jax.Array | None = None
) -> jax.Array:
    """Return the expected length of each example's influence on a softmax regression, in the metric of the loss.

    With the Hessian H of the mean loss under the surrogate, plus the ridge, and the gradient g of an example, this is
    the root of the mean of `g^T H^-1 g` over the labels, drawn from the surrogate. For two classes and no ridge it is
    `sqrt(p (1 - p) x^T A^-1 x)`, with A the mean of `p (1 - p) x x^T`. O(N (C D)^2 C) time, O(N C D + (C D)^2) memory.

    Args:
      logits: `[N, C]`, floating point, class scores of a surrogate that was not trained on these examples.
      features: `[N, D]`, floating point, inputs of the regression; append a 1 to each for an intercept.
      ridge: added to the diagonal of the Hessian, positive: the weight decay of the mean loss.
      where: `[N]` bool, which examples count in the Hessian; all by default.

    Returns:
      `[N]`, at least 0, float32 (float64 if the logits are); NaN where a softmax is NaN, features are not finite or too
      large to square, or `where` is False.

    Raises:
      TypeError: if logits or features are not floating point, `where` is not bool or the ridge is not a number.
      ValueError: if shapes do not match or the ridge is not positive.

    References:
      Ting & Brochu, NeurIPS 2018 (arXiv 1709.01716).

    Examples:
      >>> logits, features = jnp.zeros((2, 2)), jnp.array([[1.0], [3.0]])
      >>> lengths = influence_lengths(logits, features)
      >>> round(float(lengths[1] / lengths[0]), 3)
      3.0
    """
    check_shape("logits", logits, (None, None))
    check_shape("features", features, (logits.shape[0], None))
    check_floating("logits", logits)
    check_floating("features", features)
    check_number("ridge", ridge, 0, open_low=True)
    dtype = weight_dtype(logits.dtype)
    probabilities = jax.nn.softmax(logits.astype(dtype))
    features, usable = measurable_rows(features.astype(dtype))
    usable &= jnp.isfinite(probabilities).all(1) & mask_or_all("where", where, logits.shape[:1])
    probabilities = jnp.where(usable[:, None], probabilities, 0)  # a factor of 0 adds nothing to the Hessian
    size = logits.shape[1] * features.shape[1]
    zeros = jnp.zeros((size, size), dtype)
    classes = jnp.arange(logits.shape[1])
    hessian, _ = scan(bind(_add_class, probabilities, features), zeros, classes)
    hessian = hessian / nonzero(jnp.sum(usable, dtype=dtype))
    rounding = size * jnp.finfo(dtype).eps * jnp.max(jnp.diagonal(hessian))  # the Hessian of a softmax is singular
    lower = jnp.linalg.cholesky(hessian + (ridge + rounding) * jnp.eye(size, dtype=dtype))
    squares, _ = scan(bind(_add_squares, probabilities, features, lower), jnp.zeros(logits.shape[:1], dtype), classes)
    return jnp.where(usable, jnp.sqrt(squares), jnp.nan)


def keep_by_influence(
    fraction: float, key: jax.Array | int, *, ridge: float = 1e-3, weighting: str = "unbiased"
) -> optax.GradientTransformationExtraArgs:
    """Keep each example at random, by its influence on a fit. Signals: `teacher_logits` [B, C], `features` [B, D].

    The number of kept examples is random, on average `fraction` times that of the examples with a weight. This is the
    best choice among those that divide by the probability. Selection that does not divide can be better by far: see
    `keep_by_power`, whose baseline this is. An example is never kept if its length is not finite, or is 0 as where the
    surrogate is certain of a label; the fraction is that of the others.

    Args:
      fraction: fraction of the examples that is kept on average, in (0, 1].
      key: typed PRNG key or int seed.
      ridge: weight decay of the fit, positive.
      weighting: what a kept example weighs: "unbiased", divided by its probability (do not normalize afterwards then),
        or "own", as it came.

    Returns:
      A transformation over `[B]` weights; with "unbiased" the mass is kept in expectation only.

    Raises:
      TypeError: if the key is a raw array, a number is none or, in `update`, a signal is not floating point.
      ValueError: if the fraction is not in (0, 1], the ridge is not positive or, in `update`, shapes do not match.

    References:
      Kolossov, Montanari & Tandon, ICLR 2024 (arXiv 2309.14563).

    Examples:
      >>> tx = keep_by_influence(fraction=0.5, key=0)
      >>> features = jnp.array([[1e-6, 0.0], [0.0, 9.0]])
      >>> weights, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), teacher_logits=jnp.zeros((2, 2)), features=features)
      >>> weights.round(2).tolist()
      [0.0, 1.0]
    """
    check_choice("weighting", weighting, ("own", "unbiased"))
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("ridge", ridge, 0, open_low=True)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, teacher_logits, features, **extra_args):
        lengths = influence_lengths(teacher_logits, features, ridge=ridge, where=weights != 0).astype(weights.dtype)
        inclusion = power_inclusion(lengths, fraction, 1.0, where=weights != 0)
        next_key, draw_key = jax.random.split(state.rng_key)
        return keep_with_probability(draw_key, weights, inclusion, weighting), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _factors(probabilities: jax.Array, features: jax.Array, c: jax.Array) -> jax.Array:
    """Return `[N, C D]`: column c of a root of each example's Fisher matrix `(diag(p) - p p^T) (x) h h^T`."""
    roots = jnp.sqrt(probabilities)
    own = jnp.arange(probabilities.shape[1])[None] == c
    column = jnp.where(own, roots, 0) - probabilities * roots[:, c][:, None]
    return (column[:, :, None] * features[:, None, :]).reshape(len(features), -1)


def _add_class(probabilities, features, hessian, c):
    rows = _factors(probabilities, features, c)
    return hessian + product(rows.T, rows), None


def _add_squares(probabilities, features, lower, squares, c):
    rows = _factors(probabilities, features, c)
    solved = jax.scipy.linalg.solve_triangular(lower, rows.T, lower=True)
    return squares + jnp.sum(jnp.square(solved), axis=0), None
