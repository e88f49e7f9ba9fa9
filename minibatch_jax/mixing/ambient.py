"""Ambient diffusion: train a diffusion model on clean examples together with examples that came with noise.

An example that came with noise of standard deviation c, its *corruption*, says nothing about noise levels up to c. At a
level s above c, noise is added until the total is s, and the network's estimate of the clean example is judged by the
estimate of the example as it came which follows from it. Without regard to its level, an example then counts
`(1 - c^2 / s^2)^2` as much as a clean one: 0 up to its own corruption, nearly 1 far above it.

Corrupt data once and store them: noise that is drawn again in every epoch averages out, and gives the clean data away.
Low levels are learned from clean examples alone; raise their fraction of the batch if they are few, as for two domains.

References:
  Daras et al., How much is a noisy image worth? Data scaling laws for ambient diffusion, ICLR 2025 (arXiv 2411.02780).
  Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022 (arXiv 2206.00364), for
  the distribution of levels.

Method: Ambient diffusion
Paper: 2411.02780
Experiment: ambient_diffusion
"""

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import ndtr, ndtri

from minibatch_jax._checks import as_key, check_choice, check_floating, check_number, check_shape
from minibatch_jax.weights import weight_dtype, weight_transformation

MODES = ("resample", "clamp")


def ambient_noise_levels(
    key: jax.Array | int,
    corruption: jax.Array,
    *,
    mode: str = "resample",
    log_mean: float = -1.2,
    log_std: float = 1.2,
) -> jax.Array:
    """Draw a noise level for each example, at least its corruption, from a log-normal distribution.

    "resample" draws from the distribution above the corruption. "clamp" draws from the whole distribution and raises
    lower levels to the corruption, as published; an example at its own level has gradient 0, which wastes more than a
    third of the draws of examples of corruption 0.2.

    Args:
      key: typed or legacy PRNG key, or int seed.
      corruption: `[B]`, floating point, standard deviation of the noise that each example came with, 0 for clean ones.
      mode: "resample" or "clamp".
      log_mean: mean of the logarithm of the level.
      log_std: its standard deviation, positive.

    Returns:
      `[B]`, float32 (float64 if the corruption is). Where the corruption is negative or not finite, or "resample" finds
      nothing of the distribution above it, the corruption as it came, at which `ambient_weights` is 0.

    Raises:
      TypeError: if the corruption is not floating point or an option is not a number.
      ValueError: if the corruption is not `[B]`, the mode is unknown or `log_std` is not positive.

    References:
      Daras et al., 2025 (arXiv 2411.02780); Karras et al., 2022 (arXiv 2206.00364).

    Examples:
      >>> corruption = jnp.array([0.0, 0.2, 0.2])
      >>> bool(jnp.all(ambient_noise_levels(0, corruption) > corruption))
      True
    """
    check_shape("corruption", corruption, (None,))
    check_floating("corruption", corruption)
    check_choice("mode", mode, MODES)
    check_number("log_mean", log_mean)
    check_number("log_std", log_std, 0, open_low=True)
    corruption = corruption.astype(weight_dtype(corruption.dtype))
    if mode == "clamp":
        drawn = jnp.exp(log_mean + log_std * jax.random.normal(as_key(key), corruption.shape, corruption.dtype))
        return jnp.where(_is_level(corruption), jnp.maximum(drawn, corruption), corruption)
    lowest = (jnp.log(jnp.where(corruption > 0, corruption, 1)) - log_mean) / log_std
    above = jnp.where(corruption > 0, ndtr(-lowest), 1)  # the upper tail, which float32 resolves where 1 - tail is 1
    uniform = jax.random.uniform(as_key(key), corruption.shape, corruption.dtype, jnp.finfo(corruption.dtype).eps, 1.0)
    drawn = jnp.exp(log_mean - log_std * ndtri(uniform * above))
    usable = _is_level(corruption) & jnp.isfinite(drawn)
    return jnp.where(usable, jnp.maximum(drawn, corruption), corruption)


def ambient_weights(noise_levels: jax.Array, corruption: jax.Array) -> jax.Array:
    """Return how much an example counts at a noise level, `(1 - corruption^2 / level^2)^2`.

    This is the weight with which the squared error to `ambient_targets` is the squared error of `ambient_predictions`.

    Args:
      noise_levels: `[B]`, floating point, standard deviation of all the noise in the network's input.
      corruption: `[B]`, floating point, standard deviation of the noise that each example came with.

    Returns:
      `[B]`, in [0, 1], float32 (float64 if the levels are): 0 for levels up to the corruption, exactly 1 for clean
      examples, and 0 where a number is negative or not finite.

    Raises:
      TypeError: if the levels or the corruption are not floating point.
      ValueError: if shapes do not match.

    References:
      Daras et al., 2025 (arXiv 2411.02780).

    Examples:
      >>> ambient_weights(jnp.array([0.1, 1.0, 2.0, 1.0]), jnp.array([0.2, 1.0, 1.0, 0.0])).tolist()
      [0.0, 0.0, 0.5625, 1.0]
    """
    return _usable_levels(noise_levels, corruption)[0] ** 2


def ambient_inputs(
    key: jax.Array | int, examples: jax.Array, noise_levels: jax.Array, corruption: jax.Array
) -> jax.Array:
    """Add noise to examples until each has its noise level, `examples + sqrt(level^2 - corruption^2) * normal`.

    Args:
      key: typed or legacy PRNG key, or int seed.
      examples: `[B, ...]`, floating point, as they came, with their corruption.
      noise_levels: `[B]`, floating point.
      corruption: `[B]`, floating point.

    Returns:
      `[B, ...]`, float32 (float64 if the examples are), what the network sees; an example as it came where the level is
      not above its corruption.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not match.

    References:
      Daras et al., 2025 (arXiv 2411.02780).

    Examples:
      >>> examples = jnp.ones((2, 3))
      >>> ambient_inputs(0, examples, jnp.array([0.5, 2.0]), jnp.array([0.5, 0.0]))[0].tolist()
      [1.0, 1.0, 1.0]
    """
    examples = _examples("examples", examples, noise_levels)
    _, _, added = _usable_levels(noise_levels, corruption)
    noise = jax.random.normal(as_key(key), examples.shape, examples.dtype)
    return examples + _as_columns(jnp.sqrt(added), examples) * noise


def ambient_predictions(
    denoised: jax.Array, inputs: jax.Array, noise_levels: jax.Array, corruption: jax.Array
) -> jax.Array:
    """Return the estimate of each example as it came, from the network's estimate of the clean example.

    `a * inputs + (1 - a) * denoised` with `a = corruption^2 / level^2`: the mean of the example at its own level, given
    the input, if `denoised` is the mean of the clean one. Its squared error to the example as it came is the loss. For
    clean examples it is `denoised`, and at an example's own level it is the input, whose loss has no gradient.

    Args:
      denoised: `[B, ...]`, floating point, the network's estimates of the clean examples.
      inputs: `[B, ...]`, floating point, what the network saw, as from `ambient_inputs`.
      noise_levels: `[B]`, floating point.
      corruption: `[B]`, floating point.

    Returns:
      `[B, ...]`, float32 (float64 if the estimates are).

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not match.

    References:
      Daras et al., 2025 (arXiv 2411.02780).

    Examples:
      >>> ambient_predictions(jnp.array([[4.0]]), jnp.array([[8.0]]), jnp.array([2.0]), jnp.array([1.0])).tolist()
      [[5.0]]
    """
    denoised = _examples("denoised", denoised, noise_levels)
    inputs = _examples("inputs", inputs, noise_levels)
    check_shape("inputs", inputs, denoised.shape)
    ours, theirs, _ = _usable_levels(noise_levels, corruption)
    return _as_columns(theirs, denoised) * inputs + _as_columns(ours, denoised) * denoised


def ambient_targets(
    examples: jax.Array, inputs: jax.Array, noise_levels: jax.Array, corruption: jax.Array
) -> jax.Array:
    """Return what the network should predict for each example, to be weighted by `ambient_weights`.

    `examples - corruption^2 * (inputs - examples) / (level^2 - corruption^2)`, an unbiased guess of the clean example,
    as far as the input is concerned. It grows without bound as the level falls to the corruption, while its weight goes
    to 0. With `reweigh_by_noise_level` the weight is one of several; where it is the only one, the loss of
    `ambient_predictions` is the same without the large numbers.

    Args:
      examples: `[B, ...]`, floating point, as they came, with their corruption.
      inputs: `[B, ...]`, floating point, what the network sees, as from `ambient_inputs`.
      noise_levels: `[B]`, floating point.
      corruption: `[B]`, floating point.

    Returns:
      `[B, ...]`, float32 (float64 if the examples are): the example as it came where it is clean, and where the level
      is not above its corruption, where the weight is 0.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not match.

    References:
      Daras et al., 2025 (arXiv 2411.02780).

    Examples:
      >>> examples, inputs = jnp.array([[1.0], [1.0]]), jnp.array([[4.0], [4.0]])
      >>> ambient_targets(examples, inputs, jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0])).tolist()
      [[0.0], [1.0]]
    """
    examples = _examples("examples", examples, noise_levels)
    inputs = _examples("inputs", inputs, noise_levels)
    check_shape("inputs", inputs, examples.shape)
    ours, theirs, _ = _usable_levels(noise_levels, corruption)
    ratio = jnp.where(ours > 0, theirs / jnp.where(ours > 0, ours, 1), 0)
    return examples - _as_columns(ratio, examples) * (inputs - examples)


def reweigh_by_noise_level() -> optax.GradientTransformationExtraArgs:
    """Weigh examples by how much they say at their noise level. Signals: `noise_levels` [B], `corruption` [B].

    Each weight is multiplied by `ambient_weights`; with losses that are squared errors to `ambient_targets`, the sum is
    the ambient loss. Chain with `normalize()` for their mean over what counts. An example whose level is not above its
    corruption gets 0, as does one whose level or corruption is negative or not finite.

    Returns:
      A transformation over `[B]` weights that lowers their mass.

    Raises:
      TypeError: in `update`, if the levels or the corruption are not floating point.
      ValueError: in `update`, if they are not `[B]`.

    References:
      Daras et al., 2025 (arXiv 2411.02780).

    Examples:
      >>> tx = reweigh_by_noise_level()
      >>> levels, corruption = jnp.array([0.1, 2.0, 2.0]), jnp.array([0.2, 1.0, 0.0])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), noise_levels=levels, corruption=corruption)[0].tolist()
      [0.0, 0.5625, 1.0]
    """

    def update(weights, state, params=None, *, noise_levels, corruption, **extra_args):
        check_shape("noise_levels", noise_levels, weights.shape)
        return weights * ambient_weights(noise_levels, corruption).astype(weights.dtype), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _is_level(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x) & (x >= 0)


def _usable_levels(noise_levels: jax.Array, corruption: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the fractions of the variance at a level that were added and that an example came with, and the former.

    Where the level is not above the corruption, or one of them is no level: 0, 1 and 0.
    """
    check_shape("noise_levels", noise_levels, (None,))
    check_floating("noise_levels", noise_levels)
    check_shape("corruption", corruption, noise_levels.shape)
    check_floating("corruption", corruption)
    dtype = weight_dtype(noise_levels.dtype)
    level, came = noise_levels.astype(dtype), corruption.astype(dtype)
    usable = _is_level(level) & _is_level(came) & (level > came)
    level, came = jnp.where(usable, level, 1), jnp.where(usable, came, 0)
    share = came / level
    added = jnp.where(usable, (1 - share) * (1 + share), 0)  # the difference of two squares, without cancellation
    return added, jnp.where(usable, share**2, 1), added * level**2


def _examples(name: str, x: jax.Array, noise_levels: jax.Array) -> jax.Array:
    check_shape(name, x, (*jnp.shape(noise_levels)[:1], *jnp.shape(x)[1:]))
    check_floating(name, x)
    return x.astype(weight_dtype(x.dtype))


def _as_columns(x: jax.Array, like: jax.Array) -> jax.Array:
    return x.reshape(-1, *(1,) * (like.ndim - 1)).astype(like.dtype)
