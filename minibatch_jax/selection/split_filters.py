"""Linear regression by a multifilter: weights of sources are lowered, or split in two, until each list entry agrees.

As in `list_decodable`, a fraction of the sources is genuine, perhaps less than half, and the others may be chosen by an
adversary. Each weight vector gets a Huber fit. Where the sources' residuals or gradients vary more than genuine ones
could, `multifilter` either lowers the weights of the tails, or makes two overlapping vectors, one of which keeps nearly
all genuine sources. The steps are the paper's. The constants are ours and have no proof: those of the paper run into
the hundreds, and would ask for as many samples of each source.

References:
  Das, Jain, Kong & Sen, Efficient list-decodable regression using batches, ICML 2023 (arXiv 2211.12743).
  Diakonikolas, Kane & Kongsgaard, List-decodable mean estimation via iterative multi-filtering, NeurIPS 2020
  (arXiv 2006.10715), for splitting.

Method: multifilter
Paper: 2211.12743
Experiment: list_decodable_regression
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, map_rows, while_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.selection.list_decodable import RegressionList, batch_gradients, soft_filter, top_direction
from minibatch_jax.weights import weight_dtype

REFITS = 12


class _Queue(NamedTuple):
    """Weight vectors `[L, M]`, their regressors `[L, D]`, which slots hold one, and which of these are unfinished."""

    weights: jax.Array
    parameters: jax.Array
    used: jax.Array
    unfinished: jax.Array
    step: jax.Array


def multifilter(
    weights: jax.Array,
    values: jax.Array,
    spread: jax.Array | float,
    fraction: float,
    *,
    margin: float = 0.25,
    num_sources: jax.Array | int | None = None,
) -> jax.Array:
    """Lower the weights of sources in the tails of a statistic, or split them in two overlapping halves.

    Let m be the mass of genuine sources, `fraction * num_sources`, whose values have a variance of at most `spread`.

    - If the values vary by at most half the spread without tails of mass m / 8 on each side, weights fall by
      `soft_filter` of the squared distance to what is between the tails.
    - Otherwise weights are split: one half lacks the largest values, the other the smallest, with 2 R between the two
      cuts. The cuts are those of the largest R^2 times the smaller share of the mass that they cost a half. If that is
      less than `margin * spread`, the weights stay as they are.

    By Chebyshev's inequality, one half loses a share of at most `spread / R^2` of the genuine mass. The squares of the
    two masses sum to at most the square of the mass, so repeated splits leave at most `4 / fraction^2` vectors of mass
    m / 2 or more. With a margin of `4 * log(2 / fraction)` splits on the way to any of these cost the genuine sources a
    quarter of their mass at most, but cuts that wide are rare. Values of batches have lighter tails than the inequality
    allows for, so a small margin does well.

    Ties are cut in the order of their index. Takes O(M^2) time and memory.

    Args:
      weights: `[M]`, floating point, at least 0; sources of weight 0 influence nothing but the default `num_sources`.
      values: `[M]`, floating point; where one is not finite the weight becomes 0.
      spread: bound on the variance of the values of genuine sources, positive.
      fraction: fraction of the sources that is genuine, in (0, 1], static.
      margin: what cuts must reach, as a multiple of the spread, positive.
      num_sources: number of sources of which this is a fraction, M by default.

    Returns:
      `[2, M]`, the two weight vectors, at most the weights; the second is all 0 where there is no split. Float32
      (float64 if the weights are).

    Raises:
      TypeError: if the weights or values are not floating point.
      ValueError: if shapes do not match or the fraction or margin is out of range.

    References:
      Das, Jain, Kong & Sen, ICML 2023 (arXiv 2211.12743).

    Examples:
      >>> values = jnp.array([0.0, 0.1, 0.2, 50.0, 50.1, 50.2])
      >>> multifilter(jnp.ones(6), values, spread=0.1, fraction=0.5).tolist()
      [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]
    """
    check_shape("weights", weights, (None,))
    check_floating("weights", weights)
    check_shape("values", values, weights.shape)
    check_floating("values", values)
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("margin", margin, 0, open_low=True)
    dtype = weight_dtype(weights.dtype)
    weights, values = weights.astype(dtype), values.astype(dtype)
    weights = jnp.where(jnp.isfinite(values), weights, 0)
    genuine = fraction * jnp.asarray(weights.shape[0] if num_sources is None else num_sources, dtype)

    order = jnp.argsort(jnp.where(weights > 0, values, jnp.inf), stable=True)
    masses = weights[order]
    largest = jnp.max(jnp.where(weights > 0, values, -jnp.inf))
    points = jnp.where(masses > 0, values[order], jnp.where(jnp.isfinite(largest), largest, 0))
    first, last, inner = _between_tails(masses, points, genuine / 8)
    low, high, score = _cuts(masses, points)
    spreads = inner > spread / 2
    splits = spreads & (score >= margin * spread)

    ranks = jnp.zeros(order.shape, order.dtype).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    outside = jnp.maximum(jnp.maximum(first - values, values - last), 0)
    lowered = soft_filter(weights, jnp.where((weights > 0) & ~spreads, outside**2, 0))
    left = jnp.where(splits, jnp.where(ranks < high, weights, 0), lowered)
    return jnp.stack([left, jnp.where(splits & (ranks >= low), weights, 0)])


def multifilter_regressions(
    inputs: jax.Array, targets: jax.Array, fraction: float, *, slack: float = 2.0, max_iterations: int = 1000
) -> RegressionList:
    """Return a list of at most `4 / fraction^2` regressors by filtering and splitting, one of them the genuine one.

    Start with all weights 1. For an unfinished weight vector fit a Huber loss, clipped at the weighted median of the
    absolute residuals. Two statistics are means over the n samples of a source: the clipped residual, and the gradient
    along its `top_direction`. For genuine sources their variance is that of a sample over n. Take for that of a sample
    the quantile `1 - fraction / 2` of the variances within sources, which half of the genuine ones are below whatever
    the others are, and at most the squared clip, which bounds it if the inputs have second moments of at most 1. Where
    the variance over the sources is above `slack` times that, apply `multifilter`, to the second statistic if the first
    gives no change. The vector is finished if neither does. Vectors whose mass falls below half of the genuine one are
    dropped.

    Scale the inputs so that genuine ones have second moments of about 1 in all directions. The samples of a genuine
    source must be independent: otherwise the means of sources vary more than the filter allows, and it drops genuine
    ones. Sources with a sample that is not finite get weight 0. `best_of_list` chooses from the list.

    Args:
      inputs: `[M, n, D]`, floating point, n samples of each of M sources; n should be well above `1 / fraction`.
      targets: `[M, n]`, floating point.
      fraction: fraction of the sources that is genuine, in (0, 1], static.
      slack: factor on the variance that genuine sources may have, positive; more gives fewer and coarser entries.
      max_iterations: number of steps on any of the vectors, at least 1, static; then those left are finished as they
        are.

    Returns:
      `floor(4 / fraction^2)` entries, the least loss first, those that hold none last.

    Raises:
      TypeError: if an input is not floating point or `max_iterations` is not a static int.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Das, Jain, Kong & Sen, ICML 2023 (arXiv 2211.12743).

    Examples:
      >>> inputs = jnp.sin(jnp.arange(1.0, 97.0)).reshape(6, 16, 1)
      >>> slopes = jnp.array([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])
      >>> found = multifilter_regressions(inputs, inputs[..., 0] * slopes[:, None], fraction=0.5)
      >>> sorted(found.parameters[found.valid].round(2)[:, 0].tolist())
      [-1.0, 2.0]
    """
    check_shape("inputs", inputs, (None, None, None))
    check_floating("inputs", inputs)
    check_shape("targets", targets, inputs.shape[:2])
    check_floating("targets", targets)
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_number("slack", slack, 0, open_low=True)
    check_count("max_iterations", max_iterations)
    dtype = weight_dtype(inputs.dtype)
    usable = jnp.isfinite(inputs).all((1, 2)) & jnp.isfinite(targets).all(1)
    inputs = jnp.where(usable[:, None, None], inputs.astype(dtype), 0)
    targets = jnp.where(usable[:, None], targets.astype(dtype), 0)
    slots = int(4 / fraction**2)
    queue = _Queue(
        weights=jnp.zeros((slots, inputs.shape[0]), dtype).at[0].set(usable.astype(dtype)),
        parameters=jnp.zeros((slots, inputs.shape[2]), dtype),
        used=(jnp.arange(slots) == 0) & usable.any(),
        unfinished=(jnp.arange(slots) == 0) & usable.any(),
        step=jnp.zeros((), jnp.int32),
    )
    sources = jnp.sum(usable, dtype=dtype)
    go_on = bind(_goes_on, max_iterations=max_iterations)
    step = bind(_work_on_one, inputs, targets, sources, jnp.asarray(slack, dtype), fraction=fraction)
    queue = while_loop(go_on, step, queue)
    clip = jnp.maximum(_scale(targets, usable.astype(dtype)), jnp.finfo(dtype).tiny)
    residuals = jnp.abs(jnp.einsum("mnd,ld->lmn", inputs, queue.parameters) - targets[None]) / clip
    huber = jnp.mean(jnp.minimum(residuals, 1) * (residuals - 0.5 * jnp.minimum(residuals, 1)), axis=2) * clip**2
    losses = jnp.sum(huber * queue.weights, axis=1) / nonzero(jnp.sum(queue.weights, axis=1))
    losses = jnp.where(queue.used, losses, jnp.inf)
    order = jnp.argsort(losses, stable=True)
    return RegressionList(queue.parameters[order], losses[order], queue.used[order], queue.weights[order])


def _goes_on(queue, *, max_iterations):
    return jnp.any(queue.unfinished) & (queue.step < max_iterations)


def _work_on_one(inputs, targets, sources, slack, queue, *, fraction):
    """Fit the first unfinished weight vector, and replace it by what the multifilter makes of it, or finish it."""
    slot = jnp.argmax(queue.unfinished)
    weights = queue.weights[slot]
    parameters, clip = _huber_fit(inputs, targets, weights)
    residuals = inputs @ parameters - targets
    _, direction = top_direction(batch_gradients(inputs, targets, parameters, clip), weights)
    along = (inputs @ direction) * jnp.clip(residuals, -clip, clip)
    filtered = bind(_filter, weights, clip, slack, sources, fraction=fraction)
    (made, other), (changed, other_changed) = map_rows(
        filtered, jnp.stack([jnp.minimum(jnp.abs(residuals), clip), along])
    )
    unchanged = jnp.stack([weights, jnp.zeros_like(weights)])
    branches = jnp.where(changed, made, jnp.where(other_changed, other, unchanged))
    changed |= other_changed
    free = jnp.argmin(queue.used)  # by the bound on squared masses there is one where it is needed
    heavy = jnp.sum(branches, axis=1) >= fraction * sources / 2
    second = heavy[1] & ~queue.used[free]
    branches = jnp.where(jnp.stack([heavy[0], second])[:, None], branches, 0)
    all_weights = queue.weights.at[slot].set(branches[0])
    used = queue.used.at[slot].set(heavy[0])
    unfinished = queue.unfinished.at[slot].set(heavy[0] & changed)
    return _Queue(
        weights=all_weights.at[free].set(jnp.where(second, branches[1], all_weights[free])),
        parameters=queue.parameters.at[slot].set(parameters),
        used=used.at[free].set(used[free] | second),
        unfinished=unfinished.at[free].set(unfinished[free] | second),
        step=queue.step + 1,
    )


def _filter(weights, clip, slack, sources, samples, *, fraction):
    """Return what the multifilter makes of the weights by a statistic, and whether its variance says that it counts."""
    spread, values = slack * _spread(samples, weights, clip, fraction), jnp.mean(samples, axis=1)
    made = multifilter(weights, values, spread, fraction, num_sources=sources)
    changes = jnp.any(made[0] != weights) | jnp.any(made[1])
    return made, (_mean_and_variance(values, weights)[1] > spread) & changes


def _between_tails(masses, points, tail):
    """Return the bounds of the sorted points without tails of this mass, and the variance between the bounds."""
    before, after = jnp.cumsum(masses), jnp.cumsum(masses[::-1])[::-1]
    first = points[jnp.argmax(before > tail)]
    last = points[masses.shape[0] - 1 - jnp.argmax((after > tail)[::-1])]
    _, variance = _mean_and_variance(points, jnp.where((points >= first) & (points <= last), masses, 0))
    return jnp.minimum(first, last), jnp.maximum(first, last), variance


def _cuts(masses, points):
    """Return the ranks `low <= high` of the best cuts, and their score.

    One half has the ranks below `high`, the other those from `low` on.
    """
    before = jnp.cumsum(masses) - masses
    total = before[-1] + masses[-1]
    lost_low, lost_high = before[1:, None], (total - before[1:])[None]  # by cuts in front of the ranks 1 to M - 1
    margin = (points[None, 1:] - points[:-1, None]) / 2
    lost = jnp.minimum(lost_low, lost_high) / nonzero(total)
    bounded = (total - lost_low) ** 2 + (total - lost_high) ** 2 <= total**2
    scores = jnp.where(bounded & (margin > 0), lost * margin**2, 0)
    scores = jnp.where(jnp.tri(*scores.shape, k=-1, dtype=bool), 0, scores)
    if not scores.size:
        return jnp.int32(0), jnp.int32(0), jnp.zeros((), points.dtype)
    best = jnp.argmax(scores)
    return 1 + best // scores.shape[1], 1 + best % scores.shape[1], scores.ravel()[best]


def _mean_and_variance(values, weights):
    shares = weights / nonzero(jnp.sum(weights))
    mean = jnp.sum(shares * jnp.where(weights > 0, values, 0))
    return mean, jnp.sum(shares * jnp.where(weights > 0, (values - mean) ** 2, 0))


def _spread(samples, weights, clip, fraction):
    """Return the variance that the mean of a genuine source's samples may have."""
    count = samples.shape[1]
    within = clip**2 if count == 1 else _quantile(jnp.var(samples, axis=1, ddof=1), weights, 1 - fraction / 2)
    return jnp.minimum(within, clip**2) / count


def _huber_fit(inputs, targets, weights):
    """Return a Huber fit to weighted sources, and the level at which it is clipped."""
    start = _least_squares(inputs, targets, jnp.broadcast_to(weights[:, None], targets.shape))
    parameters = fori_loop(0, REFITS, bind(_refit, inputs, targets, weights), start)
    return parameters, _level(jnp.abs(inputs @ parameters - targets), targets, weights)


def _refit(inputs, targets, weights, _, parameters):
    residuals = jnp.abs(inputs @ parameters - targets)
    clip = _level(residuals, targets, weights)
    return _least_squares(inputs, targets, weights[:, None] * clip / jnp.maximum(residuals, clip))


def _least_squares(inputs, targets, weights):
    weighted = inputs * (weights / nonzero(jnp.sum(weights)))[..., None]
    ridge = 1e-6 * jnp.eye(inputs.shape[2], dtype=inputs.dtype)
    return jnp.linalg.solve(
        jnp.einsum("mni,mnj->ij", weighted, inputs) + ridge, jnp.einsum("mni,mn->i", weighted, targets)
    )


def _level(residuals, targets, weights):
    """Return the weighted median residual, at least a rounding error of the targets."""
    floor = 10 * jnp.finfo(residuals.dtype).eps * jnp.max(jnp.where(weights[:, None] > 0, jnp.abs(targets), 0))
    return jnp.maximum(_scale(residuals, weights), floor + jnp.finfo(residuals.dtype).tiny)


def _scale(values, weights):
    """Return the median absolute value over the samples of weighted sources."""
    return _quantile(jnp.abs(values).ravel(), jnp.repeat(weights, values.shape[1]), 0.5)


def _quantile(values, weights, share):
    order = jnp.argsort(values)
    below = jnp.cumsum(weights[order])
    return values[order][jnp.argmax(below >= share * below[-1])]
