"""How large a batch is useful, from the gradients of one step: the gradient noise scale.

The gradient of a batch of B examples has a squared norm whose expectation is |G|^2 + tr(S) / B: G is the mean gradient,
S the covariance of the gradients of the examples. Squared norms at two batch sizes therefore give both terms. The small
batches are the groups that a step has anyway: the shares of the devices, micro-batches, or single examples. The noise
scale tr(S) / |G|^2 is the batch size at which both terms are equal: far below it, twice the batch halves the steps; far
above it, twice the batch saves nothing.

With weights, 1/B is the sum of squared weights over the square of their sum. The weights must not depend on the
gradients or losses of the same batch, else the estimate is that of another distribution.

References:
  McCandlish et al., An empirical model of large-batch training, 2018 (arXiv 1812.06162).

Method: gradient noise scale
Paper: 1812.06162
Experiment: critical_batch, critical_batch_text, speed noise_scale
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.devices import axis_size, sum_over
from minibatch_jax.scores._rows import sum_of_squares
from minibatch_jax.weights import weight_dtype


class GroupSums(NamedTuple):
    """What is known of the groups of a batch. Each field is a sum over groups, so that blocks and devices add up.

    The mass of a group is the sum of its weights, its size the square of the mass over the sum of squared weights; for
    equal weights the size is the number of examples.

    Attributes:
      squares: `[]`, mass x squared norm of the mean gradient.
      mass_over_size: `[]`, mass / size.
      squared_weights: `[]`, mass^2 / size.
      mass: `[]`, the mass.
      groups: `[]`, how many groups have a mass.
    """

    squares: jax.Array
    mass_over_size: jax.Array
    squared_weights: jax.Array
    mass: jax.Array
    groups: jax.Array


class NoiseEstimate(NamedTuple):
    """Estimates from the groups of one batch; the first two are unbiased.

    Attributes:
      gradient_square: `[]`, estimate of |G|^2; it may be negative where the noise is large.
      variance: `[]`, estimate of tr(S), of the gradient of one example.
      noise_scale: `[]`, variance / gradient_square, NaN unless usable.
      usable: `[]` bool, whether there are two groups, both estimates are finite, |G|^2 is above 0 and tr(S) is not
        negative.
    """

    gradient_square: jax.Array
    variance: jax.Array
    noise_scale: jax.Array
    usable: jax.Array


class NoiseScaleState(NamedTuple):
    """State of `noise_scale`.

    Attributes:
      gradient_square: `[]`, average of the estimates of |G|^2.
      variance: `[]`, average of the estimates of tr(S).
      noise_scale: `[]`, ratio of the averages; NaN before the first step and while the average of |G|^2 is not above 0.
      steps: `[]` int32, steps in the averages.
      negative: `[]` int32, how many of them had a negative estimate, which the averages need to be unbiased.
      skipped: `[]` int32, steps that are not in the averages: one group, or a gradient that is not finite.
    """

    gradient_square: jax.Array
    variance: jax.Array
    noise_scale: jax.Array
    steps: jax.Array
    negative: jax.Array
    skipped: jax.Array


def group_sums(sq_norms: jax.Array, sizes: jax.Array | float, *, masses: jax.Array | float | None = None) -> GroupSums:
    """Return the sums over the groups of a batch that the noise scale is made of.

    For the norms of single examples, as `gradient_norms` or `ghost_gradient_norms` gives them, the size is 1, and the
    masses are the weights of the examples: this has the least variance. Sums of several devices or blocks are added,
    such as by `jax.lax.psum`. A group without mass influences nothing. A negative mass, and a size that is not above 0,
    make the sum of squares NaN, which all estimates flag.

    Args:
      sq_norms: `[G]`, squared norm of the mean gradient of each group.
      sizes: `[G]` or one number, examples in each group; with weights (sum of weights)^2 / (sum of squared weights).
      masses: `[G]` or one number, sum of the weights of each group; by default the sizes.

    Returns:
      The sums, float32 (float64 with x64).

    Raises:
      ValueError: if shapes do not match, or a size or mass known at trace time is negative, or a size is 0.

    Examples:
      >>> groups = group_sums(jnp.array([5.0, 3.0]), 16)
      >>> float(groups.mass), float(groups.squares)
      (32.0, 128.0)
    """
    check_shape("sq_norms", sq_norms, (None,))
    dtype = weight_dtype(jnp.result_type(sq_norms))
    size = _of_each("sizes", sizes, sq_norms.shape, dtype, open_low=True)
    mass = size if masses is None else _of_each("masses", masses, sq_norms.shape, dtype)
    there, wrong = mass > 0, ~(mass >= 0) | ((mass > 0) & ~(size > 0))

    def total(values):
        return jnp.sum(jnp.where(there, values, 0))

    squares = jnp.where(jnp.any(wrong), jnp.nan, total(mass * sq_norms.astype(dtype)))
    return GroupSums(squares, total(mass / size), total(mass**2 / size), total(mass), jnp.sum(there.astype(dtype)))


def _of_each(name, values, shape, dtype, open_low=False):
    check_number(name, values, 0, open_low=open_low)
    values = jnp.asarray(values, dtype)
    if values.ndim:
        check_shape(name, values, shape)
    return jnp.broadcast_to(values, shape)


def noise_scale_from_groups(groups: GroupSums, batch_sq_norm: jax.Array) -> NoiseEstimate:
    """Return unbiased estimates of |G|^2 and tr(S), and their ratio, from one batch.

    With single examples as groups, the variance is exactly the trace of the sample covariance of their gradients. The
    ratio of one batch is neither unbiased nor precise: average the estimates over steps first, as `noise_scale` does.

    Args:
      groups: of the whole batch, from `group_sums` or `grouped_value_and_grad`.
      batch_sq_norm: `[]`, squared norm of the mean gradient of the batch, before clipping and weight decay.

    Returns:
      The estimates. One group says nothing: then they are NaN.

    Raises:
      ValueError: if the squared norm is no scalar.

    References:
      McCandlish et al., 2018 (arXiv 1812.06162), appendix A.

    Examples:
      >>> gradients = jnp.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
      >>> groups = group_sums(jnp.sum(gradients**2, 1), 1)
      >>> found = noise_scale_from_groups(groups, jnp.sum(gradients.mean(0) ** 2))
      >>> [round(float(x), 4) for x in found[:3]]
      [4.6667, 1.0, 0.2143]
    """
    check_shape("batch_sq_norm", batch_sq_norm, ())
    mass = nonzero(groups.mass)
    small, large = groups.squares / mass, batch_sq_norm.astype(groups.squares.dtype)
    per_small, per_large = groups.mass_over_size / mass, groups.squared_weights / mass**2
    gap = jnp.where(groups.groups >= 2, per_small - per_large, jnp.nan)
    variance = (small - large) / gap
    gradient_square = (per_small * large - per_large * small) / gap
    return NoiseEstimate(gradient_square, variance, *_ratio(variance, gradient_square))


def _ratio(variance, gradient_square):
    usable = jnp.isfinite(variance) & (variance >= 0) & jnp.isfinite(gradient_square) & (gradient_square > 0)
    return jnp.where(usable, variance / jnp.where(usable, gradient_square, 1), jnp.nan), usable


def noise_scale(decay: Any = 0.99, *, axis_name: str | None = None) -> optax.GradientTransformationExtraArgs:
    """Watch the noise scale of the gradients that pass through, unchanged: first in the chain of an optimizer.

    The estimates of |G|^2 and tr(S) are averaged over steps, each with bias correction, and divided last, because a
    mean of ratios is biased. Read `state.noise_scale`. Updates are the mean gradient of the batch: what clips, scales
    or decays comes later in the chain. Beside the updates, `update` takes one of these:

    - `groups=`: sums from `group_sums` or `grouped_value_and_grad`, with updates averaged over the whole batch. With
      `axis_name` they are the groups of one device, and the devices share five numbers; those of
      `grouped_value_and_grad(axis_name=...)` are of all devices and take none here.
    - `group_size=`, with `axis_name`: updates are the mean gradient of the `group_size` examples of one device, before
      the average over devices, which the monitor computes for itself.

    Args:
      decay: share of the old average in the new one, in [0, 1).
      axis_name: axis of `shard_map` or `pmap` over which the batch is sharded.

    Returns:
      A transformation of gradients of parameters, with the state `NoiseScaleState`.

    Raises:
      TypeError: if `decay` is no number or, in `update`, neither or both of `groups` and `group_size` are given.
      ValueError: if `decay` is outside [0, 1) or, in `update`, `group_size` comes with fewer than two devices, or with
        updates that are averaged over the devices already, or `groups` that are summed over them already come with
        `axis_name`.

    References:
      McCandlish et al., 2018 (arXiv 1812.06162).

    Examples:
      >>> tx = optax.chain(noise_scale(), optax.sgd(0.1))
      >>> state = tx.init(jnp.zeros(2))
      >>> gradients = jnp.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
      >>> groups = group_sums(jnp.sum(gradients**2, 1), 1)
      >>> updates, state = tx.update(gradients.mean(0), state, groups=groups)
      >>> round(float(state[0].noise_scale), 4), int(state[0].steps)
      (0.2143, 1)
    """
    check_number("decay", decay, 0, 1, open_high=True)

    def init(params):
        del params
        zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        return NoiseScaleState(zero, zero, zero * jnp.nan, none, none, none)

    def update(updates, state, params=None, *, groups=None, group_size=None, **extra_args):
        del params, extra_args
        if (groups is None) == (group_size is None):
            raise TypeError("update got both or neither of groups and group_size, wanted one of them.")
        if groups is None:
            found = _estimate_over_devices(updates, group_size, axis_name)
        else:
            _check_not_summed(groups, axis_name)
            found = noise_scale_from_groups(sum_over(groups, axis_name), sum_of_squares(updates))
        return updates, _averaged(state, found, decay)

    return optax.GradientTransformationExtraArgs(init, update)


def _estimate_over_devices(updates, group_size, axis_name):
    if axis_size(axis_name) < 2:
        raise ValueError(f"group_size is given with axis_name={axis_name!r}, wanted an axis of at least two devices.")
    if _equal_everywhere(updates, axis_name):
        raise ValueError(f"updates are the same on all devices of {axis_name!r}, wanted the gradient of each device.")
    groups = group_sums(sum_of_squares(updates)[None], group_size)
    share = groups.mass / sum_over(groups.mass, axis_name)
    wide = jax.tree.map(lambda x: share * x.astype(weight_dtype(x.dtype)), updates)
    return noise_scale_from_groups(sum_over(groups, axis_name), sum_of_squares(sum_over(wide, axis_name)))


def _check_not_summed(groups, axis_name):
    """Raise where the groups are sums over the devices already, as those of `grouped_value_and_grad(axis_name=...)`."""
    if axis_size(axis_name) > 1 and _equal_everywhere(groups, axis_name):
        raise ValueError(
            f"groups are the same on all devices of {axis_name!r}, wanted those of each device; sums over all devices, "
            "as grouped_value_and_grad(axis_name=...) gives them, need no axis_name here."
        )


def _equal_everywhere(tree, axis_name):
    """Return whether it is known that no array varies along the axis: shard_map tracks it, pmap and vmap do not."""
    tracked = _varies(jax.lax.axis_index(axis_name), axis_name)
    return tracked and not any(_varies(x, axis_name) for x in jax.tree.leaves(tree))


def _varies(x, axis_name):
    kind = getattr(jax.typeof(x), "manual_axis_type", None)
    return kind is not None and axis_name in kind.varying


def _averaged(state, found, decay):
    negative = (found.variance < 0) | (found.gradient_square < 0)
    finite = jnp.isfinite(found.variance) & jnp.isfinite(found.gradient_square)
    steps = state.steps + finite.astype(jnp.int32)
    share = jnp.where(finite, (1 - decay) / nonzero(1 - decay ** jnp.maximum(steps, 1).astype(jnp.float32)), 0)

    def average(old, new):
        return old + share * (jnp.where(finite, new, old) - old)

    gradient_square = average(state.gradient_square, found.gradient_square)
    variance = average(state.variance, found.variance)
    ratio, _ = _ratio(variance, gradient_square)
    return NoiseScaleState(
        gradient_square.astype(jnp.float32),
        variance.astype(jnp.float32),
        jnp.where(steps > 0, ratio, jnp.nan).astype(jnp.float32),
        steps,
        state.negative + (finite & negative).astype(jnp.int32),
        state.skipped + (~finite).astype(jnp.int32),
    )
