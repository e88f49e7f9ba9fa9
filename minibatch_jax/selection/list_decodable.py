"""Linear regression when only a fraction of the sources is genuine: a short list of candidates, one of which is right.

Each source gives a batch of n samples, and a batch is genuine as a whole or not at all; so the fraction may be below
one half. `list_regressions` simplifies the paper's algorithm: it fits a trimmed Huber loss from many starts instead of
running a multifilter with worst-case guarantees. Its tests use clusters of impostors, not adversaries.
`batch_gradients`, `top_direction` and `soft_filter` are steps of the paper's multifilter: see `split_filters`.

References:
  Das, Jain, Kong & Sen, Efficient list-decodable regression using batches, ICML 2023 (arXiv 2211.12743).

Method: list-decodable regression
Paper: 2211.12743
Experiment: list_decodable_regression
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax.weights import weight_dtype


class RegressionList(NamedTuple):
    """Candidate regressors, best first.

    Attributes:
      parameters: `[L, D]`, one regressor in each row, float32 (float64 if the samples are).
      losses: `[L]`, mean Huber loss over the sources that each candidate keeps; infinity where there is no candidate.
      valid: `[L]` bool, which entries are candidates.
      weights: `[L, M]`, in [0, 1], how far each candidate keeps each source.
    """

    parameters: jax.Array
    losses: jax.Array
    valid: jax.Array
    weights: jax.Array


def batch_gradients(inputs: jax.Array, targets: jax.Array, parameters: jax.Array, clip: jax.Array | float) -> jax.Array:
    """Return the gradient of the Huber loss of each source, as a mean over its samples.

    Args:
      inputs: `[M, n, D]`, floating point, n samples of each of M sources.
      targets: `[M, n]`, floating point.
      parameters: `[D]`, floating point, the regressor.
      clip: residuals are clipped to [-clip, clip], positive.

    Returns:
      `[M, D]`, one gradient for each source, float32 (float64 if the inputs are).

    Raises:
      TypeError: if the inputs or targets are not floating point.
      ValueError: if shapes do not match.

    References:
      Das, Jain, Kong & Sen, ICML 2023 (arXiv 2211.12743).

    Examples:
      >>> batch_gradients(jnp.ones((1, 2, 1)), jnp.array([[0.0, -9.0]]), jnp.ones(1), clip=2.0).tolist()
      [[1.5]]
    """
    _check_samples(inputs, targets)
    check_shape("parameters", parameters, inputs.shape[2:])
    inputs, targets, parameters = _wide(inputs, targets, parameters)
    residuals = jnp.clip(inputs @ parameters - targets, -clip, clip)
    return jnp.mean(inputs * residuals[..., None], axis=1)


def top_direction(vectors: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the largest eigenvalue of the weighted covariance of the rows, and its unit eigenvector.

    Args:
      vectors: `[M, D]`, floating point, finite, such as `batch_gradients`.
      weights: `[M]`, floating point, at least 0.

    Returns:
      The eigenvalue `[]`, and the eigenvector `[D]`, of either sign, float32 (float64 if the vectors are).

    Raises:
      ValueError: if shapes do not match.

    Examples:
      >>> value, direction = top_direction(jnp.array([[2.0, 0.0], [-2.0, 0.0]]), jnp.ones(2))
      >>> float(value), float(abs(direction[0]))
      (4.0, 1.0)
    """
    check_shape("vectors", vectors, (None, None))
    check_shape("weights", weights, vectors.shape[:1])
    vectors, weights = _wide(vectors, weights)
    shares = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    centered = vectors - (shares @ vectors)[None]
    values, directions = jnp.linalg.eigh((centered * shares[:, None]).T @ centered)
    return values[-1], directions[:, -1]


def soft_filter(weights: jax.Array, scores: jax.Array) -> jax.Array:
    """Return `weight * (1 - score / largest score)` for each source: the weight of the largest score becomes 0.

    The largest score is that among sources with a positive weight.

    Args:
      weights: `[M]`, floating point, at least 0.
      scores: `[M]`, floating point, at least 0, such as the squared distance along `top_direction`; where a score is
        not finite the weight becomes 0.

    Returns:
      `[M]`, float32 (float64 if the weights are), at most the weights; the weights themselves if all scores are 0.

    Raises:
      ValueError: if shapes do not match.

    References:
      Das, Jain, Kong & Sen, ICML 2023 (arXiv 2211.12743).

    Examples:
      >>> soft_filter(jnp.ones(3), jnp.array([0.0, 1.0, 4.0])).tolist()
      [1.0, 0.75, 0.0]
    """
    check_shape("scores", scores, weights.shape)
    weights, scores = _wide(weights, scores)
    weights = jnp.where(jnp.isfinite(scores), weights, 0)
    largest = jnp.max(jnp.where(weights > 0, scores, 0))
    shares = jnp.minimum(scores / jnp.where(largest > 0, largest, 1), 1)  # XLA may round a quotient of equals above 1
    shares = jnp.where(scores < largest, shares, (largest > 0).astype(weights.dtype))
    return jnp.where(weights > 0, weights * (1 - shares), 0)


def list_regressions(
    key: jax.Array | int,
    inputs: jax.Array,
    targets: jax.Array,
    fraction: float,
    *,
    num_starts: int = 40,
    max_iterations: int = 30,
    radius: float = 0.1,
) -> RegressionList:
    """Fit candidates from many starts, each to the sources that it explains best.

    Each start is the ridge fit of one random source. Each step keeps the `int(share * M)` sources (at least one) with
    the least Huber loss and refits on them. Candidates within `radius` of a better one are dropped. The data cannot
    tell which candidate is the genuine regressor: choose from the list with a little trusted data, by `best_of_list`.

    Args:
      key: typed PRNG key or int seed.
      inputs: `[M, n, D]`, floating point, n samples of each of M sources.
      targets: `[M, n]`, floating point.
      fraction: fraction of the sources that is genuine, in (0, 1], static.
      num_starts: number of starts, at least 1, static.
      max_iterations: number of refits of each start, at least 1, static.
      radius: candidates nearer than this count as one, positive; choose it on the scale of the noise.

    Returns:
      `min(num_starts, ceil(4 / share^2))` entries, the best candidate first, those that are no candidates last.

    Raises:
      TypeError: if an input is not floating point, a count is not a static int or the key is a raw array.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Das, Jain, Kong & Sen, ICML 2023 (arXiv 2211.12743).

    Examples:
      >>> inputs = jnp.arange(1.0, 13.0).reshape(3, 4, 1)
      >>> slopes = jnp.array([2.0, 2.0, -1.0])
      >>> found = list_regressions(0, inputs, inputs[..., 0] * slopes[:, None], fraction=0.4)
      >>> sorted(found.parameters[found.valid].round(2)[:, 0].tolist())
      [-1.0, 2.0]
    """
    _check_samples(inputs, targets)
    inputs, targets = _wide(inputs, targets)
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("radius", radius, 0, open_low=True)
    check_count("num_starts", num_starts)
    check_count("max_iterations", max_iterations)
    sources = inputs.shape[0]
    kept = max(1, int(fraction * sources))
    grams, moments = jnp.einsum("mni,mnj->mij", inputs, inputs), jnp.einsum("mni,mn->mi", inputs, targets)

    def start(source):
        parameters = _ridge(grams, moments, source[None], 0.05 * inputs.shape[1])
        refit = bind(_refit, inputs, targets, grams, moments, kept=kept)
        parameters = fori_loop(0, max_iterations, refit, parameters)
        losses, rows = jax.lax.top_k(-_source_losses(inputs, targets, parameters), kept)
        return parameters, -jnp.mean(losses), jnp.zeros(sources, parameters.dtype).at[rows].set(1)

    starts = jax.random.randint(as_key(key), (num_starts,), 0, sources)
    found = jax.vmap(start)(starts)
    return _without_repeats(*found, radius, min(num_starts, math.ceil(4 / fraction**2)))


def best_of_list(candidates: RegressionList, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the candidate with the least squared error on trusted samples.

    Args:
      candidates: list of regressors, with parameters `[L, D]`.
      inputs: `[n, D]`, floating point, trusted samples.
      targets: `[n]`, floating point, their targets.

    Returns:
      `[D]`, parameters of the best candidate; ties go to the first.

    Raises:
      ValueError: if shapes do not match.

    Examples:
      >>> candidates = RegressionList(jnp.array([[1.0], [2.0]]), jnp.zeros(2), jnp.ones(2, bool), jnp.ones((2, 3)))
      >>> best_of_list(candidates, jnp.ones((1, 1)), jnp.array([1.9])).tolist()
      [2.0]
    """
    check_shape("inputs", inputs, (None, candidates.parameters.shape[1]))
    check_shape("targets", targets, inputs.shape[:1])
    parameters, inputs, targets = _wide(candidates.parameters, inputs, targets)
    errors = jnp.mean((parameters @ inputs.T - targets[None]) ** 2, 1)
    return candidates.parameters[jnp.argmin(jnp.where(candidates.valid, errors, jnp.inf))]


def _refit(inputs, targets, grams, moments, _, parameters, *, kept):
    losses = _source_losses(inputs, targets, parameters)
    return _ridge(grams, moments, jax.lax.top_k(-losses, kept)[1], 1e-6 * inputs.shape[1])


def _ridge(grams, moments, rows, ridge):
    """Return the ridge regression on the sources `rows` together, from the Gram matrix and moments of each source."""
    gram = jnp.sum(grams[rows], 0) + ridge * jnp.eye(grams.shape[1], dtype=grams.dtype)
    return jnp.linalg.solve(gram, jnp.sum(moments[rows], 0))


def _wide(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Return the arrays in the dtype to compute in: float64 if the first is, else float32."""
    dtype = weight_dtype(arrays[0].dtype)
    return tuple(x.astype(dtype) for x in arrays)


def _source_losses(inputs: jax.Array, targets: jax.Array, parameters: jax.Array) -> jax.Array:
    """Return the mean Huber loss of each source, clipped at the median absolute residual over all sources."""
    residuals = jnp.abs(inputs @ parameters - targets)
    clip = jnp.median(residuals) + jnp.finfo(inputs.dtype).eps
    clipped = jnp.minimum(residuals, clip)
    return jnp.mean(clipped * (residuals - 0.5 * clipped), 1)


def _without_repeats(
    parameters: jax.Array, losses: jax.Array, weights: jax.Array, radius: float, length: int
) -> RegressionList:
    order = jnp.argsort(losses)
    parameters, losses, weights = parameters[order], losses[order], weights[order]
    near = jnp.sum((parameters[:, None] - parameters[None]) ** 2, -1) < radius**2
    kept = fori_loop(0, losses.shape[0], bind(_keep_if_new, near), jnp.zeros(losses.shape, bool)) & jnp.isfinite(losses)
    first = jnp.argsort(~kept, stable=True)[:length]
    losses, weights = jnp.where(kept, losses, jnp.inf), jnp.where(kept[:, None], weights, 0)
    return RegressionList(parameters[first], losses[first], kept[first], weights[first])


def _keep_if_new(near, i, kept):
    return kept.at[i].set(~jnp.any(near[i] & kept & (jnp.arange(kept.shape[0]) < i)))


def _check_samples(inputs: jax.Array, targets: jax.Array) -> None:
    check_shape("inputs", inputs, (None, None, None))
    check_floating("inputs", inputs)
    check_shape("targets", targets, inputs.shape[:2])
    check_floating("targets", targets)
