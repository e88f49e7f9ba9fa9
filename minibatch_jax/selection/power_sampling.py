"""Keep or drop each example by a power of a surrogate's uncertainty, before any label is paid for.

References:
  Kolossov, Montanari & Tandon, Towards a statistical theory of data selection under weak supervision, ICLR 2024
  (arXiv 2309.14563).

Method: power sampling
Paper: 2309.14563
Experiment: power_sampling, subset_beats_all
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._vector import nonzero
from minibatch_jax.selection._draws import keep_with_probability
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation

CLIP = 1e-6


def surrogate_uncertainty(logits: jax.Array) -> jax.Array:
    """Return the variance of the label under a surrogate model, `1 - sum p^2`: for two classes `2 p (1 - p)`.

    Args:
      logits: `[B, C]`, floating point, class scores of the surrogate, which must not be trained on the data it selects
        from.

    Returns:
      `[B]`, float32 (float64 if the logits are); a variance below 2e-6 is raised to 2e-6, so that powers of it are
      finite. NaN where the softmax of the logits is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[B, C]`.

    Examples:
      >>> surrogate_uncertainty(jnp.zeros((1, 2))).tolist()
      [0.5]
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    probabilities = jax.nn.softmax(logits.astype(weight_dtype(logits.dtype)))
    return jnp.maximum(jnp.sum(probabilities * (1 - probabilities), 1), 2 * CLIP)


def power_inclusion(
    uncertainty: jax.Array, fraction: float, alpha: float, *, where: jax.Array | None = None
) -> jax.Array:
    """Return the probability to keep each item, `min(1, c * uncertainty^alpha)`.

    The constant c is such that the probabilities sum to `fraction` times the number of items that exist and have a
    positive, finite uncertainty.

    Args:
      uncertainty: `[B]`, floating point, positive; an item whose uncertainty is not finite or not positive gets 0.
      fraction: fraction of the items that is kept on average, in (0, 1].
      alpha: exponent; a positive one prefers uncertain items, a negative one certain items, 0 neither.
      where: `[B]` bool, which items exist; all by default.

    Returns:
      `[B]`, dtype of the uncertainty, in [0, 1].

    Raises:
      TypeError: if the uncertainty is not floating point or the fraction or alpha is not a number.
      ValueError: if shapes do not match, the fraction is not in (0, 1] or alpha is NaN.

    References:
      Kolossov, Montanari & Tandon, ICLR 2024 (arXiv 2309.14563).

    Examples:
      >>> power_inclusion(jnp.array([4.0, 1.0, 1.0]), fraction=0.5, alpha=1.0).tolist()
      [1.0, 0.25, 0.25]
    """
    check_shape("uncertainty", uncertainty, (None,))
    check_floating("uncertainty", uncertainty)
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("alpha", alpha)
    usable = jnp.isfinite(uncertainty) & (uncertainty > 0)
    usable &= mask_or_all("where", where, uncertainty.shape)
    given, uncertainty = uncertainty.dtype, uncertainty.astype(weight_dtype(uncertainty.dtype))
    logs = jnp.where(usable, alpha * jnp.log(jnp.where(usable, uncertainty, 1)), -jnp.inf)
    largest = jnp.max(logs)
    powers = jnp.exp(logs - jnp.where(jnp.isfinite(largest), largest, 0))
    wanted = fraction * jnp.sum(usable, dtype=powers.dtype)
    descending = -jnp.sort(-powers)
    below = jnp.cumsum(descending[::-1])[::-1]
    scales = (wanted - jnp.arange(powers.shape[0], dtype=powers.dtype)) / nonzero(below)
    fits = (scales * descending <= 1) & (below > 0)
    scale = jnp.max(jnp.where(jnp.cumsum(fits) == 1, jnp.where(fits, scales, 0), 0))
    return jnp.where(fits.any(), jnp.minimum(1, scale * powers), usable.astype(powers.dtype)).astype(given)


def keep_by_power(
    fraction: float, alpha: float, key: jax.Array | int, *, weighting: str = "own"
) -> optax.GradientTransformationExtraArgs:
    """Keep each example at random, by a power of a surrogate's uncertainty. Signal: `teacher_logits` [B, C].

    The number of kept examples is random, on average `fraction` times that of the examples with a weight. Selection
    without a correction of the weights is biased and yet often better. It even beats training on all data where the
    model is wrong (a positive alpha keeps what is near the boundary) or the noise of the examples differs (a negative
    alpha keeps the less noisy); unbiased selection estimates what all data do, with more noise. Without the correction
    a regularization term acts `1 / fraction` times as strongly: tune it for each fraction and alpha, or the comparison
    is unfair.

    Args:
      fraction: fraction of the examples that is kept on average, in (0, 1].
      alpha: exponent; a positive one prefers uncertain examples, a negative one certain examples; the published grid is
        -1, -0.5, 0, 0.5, 1.
      key: typed PRNG key or int seed.
      weighting: what a kept example weighs: "own", as it came, or "unbiased", divided by its probability; do not
        normalize afterwards then.

    Returns:
      A transformation over `[B]` weights; with "unbiased" the mass is kept in expectation only.

    Raises:
      TypeError: if the key is a raw array, a number is none or, in `update`, the logits are not floating point.
      ValueError: if the fraction is not in (0, 1], alpha is NaN or, in `update`, the logits are not `[B, C]`.

    References:
      Kolossov, Montanari & Tandon, ICLR 2024 (arXiv 2309.14563).

    Examples:
      >>> tx = keep_by_power(fraction=0.5, alpha=8.0, key=0)
      >>> teacher_logits = jnp.array([[0.0, 0.0], [9.0, 0.0]])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), teacher_logits=teacher_logits)[0].tolist()
      [1.0, 0.0]
    """
    check_choice("weighting", weighting, ("own", "unbiased"))
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("alpha", alpha)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, teacher_logits, **extra_args):
        check_shape("teacher_logits", teacher_logits, (*weights.shape, None))
        uncertainty = surrogate_uncertainty(teacher_logits).astype(weights.dtype)
        inclusion = power_inclusion(uncertainty, fraction, alpha, where=weights != 0)
        next_key, draw_key = jax.random.split(state.rng_key)
        return keep_with_probability(draw_key, weights, inclusion, weighting), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)
