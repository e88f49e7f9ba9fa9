"""Boundary from the gradients of several dropout passes to an update of those parameters on which they agree (Bi-Drop).

k passes over one mini-batch, each with dropout of its own, give k gradients. A parameter is updated if these agree and
if the update is large beside the parameter; the others keep their value in this step. The two factors below are the
paper's in idea; their exact form is ours, because the paper's code is not public.

References:
  Tong et al., Bi-Drop: enhancing fine-tuning generalization via synchronous sub-net estimation and optimization, 2023
  (arXiv 2305.14760).

Method: sub-nets within a batch (Bi-Drop)
Paper: 2305.14760
Experiment: subnets_of_a_batch
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.weights import weight_dtype


def subnet_mask(gradients: Any, params: Any, fraction: float) -> Any:
    """Return which parameters belong to the sub-net: those with the highest scores of their array.

    With the mean m of the k gradients, their deviations from it and the parameter p, the score is
    `|m| / sqrt(sum of squared deviations) * |m| / |p|`: how stable the gradient is under dropout, times the relative
    change. Parameters that tie with the last one chosen are chosen too. A parameter of 0, or one on which all passes
    agree exactly, scores highest unless its mean gradient is 0, and one whose gradients are not finite is never chosen.

    Args:
      gradients: pytree with leaves `[k, *param]`, floating point, k >= 2: `jax.vmap` of the gradient over dropout keys.
      params: pytree with leaves `[*param]`, floating point.
      fraction: fraction of each array that is chosen, rounded up to a whole number, in (0, 1].

    Returns:
      Pytree of bool like `params`. Multiply updates by it after the optimizer if what is not chosen must not move:
      Adam also moves parameters whose gradient is 0.

    Raises:
      TypeError: if a leaf is not floating point, or the fraction is not a number.
      ValueError: if the trees do not match, k is 1 or the fraction is not in (0, 1].

    References:
      Tong et al., 2023 (arXiv 2305.14760).

    Examples:
      >>> gradients = jnp.array([[1.0, 1.0, 0.1], [1.1, -1.0, 0.1]])
      >>> subnet_mask(gradients, jnp.ones(3), 0.3).tolist()
      [False, False, True]
    """
    _check_fraction(fraction)
    structures = jax.tree.structure(gradients), jax.tree.structure(params)
    if structures[0] != structures[1]:
        raise ValueError(f"gradients has the structure {structures[0]}, wanted that of params, {structures[1]}.")

    def of_leaf(rows, param):
        check_shape("gradients", rows, (None, *jnp.shape(param)))
        check_floating("gradients", rows)
        check_floating("params", param)
        if rows.shape[0] < 2:
            raise ValueError("gradients has 1 row, wanted two or more: one for each dropout pass.")
        dtype = weight_dtype(rows.dtype)
        usable = jnp.isfinite(rows).all(0) & jnp.isfinite(param)
        rows, param = (jnp.where(usable, x, 0).astype(dtype) for x in (rows, param))
        largest, tiny = jnp.max(jnp.abs(rows), axis=0), jnp.finfo(dtype).tiny
        agree = jnp.all(rows == rows[:1], axis=0)  # the mean of three equal numbers may differ from them
        rows = rows / nonzero(largest)[None]  # no square underflows
        mean = jnp.mean(rows, axis=0)
        spread = jnp.where(agree, 0, jnp.sqrt(jnp.sum(jnp.square(rows - mean[None]), axis=0)))
        score = 2 * jnp.log(jnp.abs(mean)) + jnp.log(nonzero(largest))
        score -= jnp.log(spread + tiny) + jnp.log(jnp.abs(param) + tiny)
        score += jnp.where(agree | (param == 0), -5 * jnp.log(tiny), 0)  # above all others
        score = jnp.where(usable, score, -jnp.inf)
        wanted = math.ceil(fraction * param.size * (1 - 1e-9))  # 0.07 * 100 is a little more than 7
        threshold = jax.lax.top_k(score.reshape(-1), wanted)[0][-1]
        return usable & (score >= threshold)

    return jax.tree.map(of_leaf, gradients, params)


def subnet_aggregate(num_passes: int, fraction: float) -> aggregating.Aggregator:
    """Average the gradients of several dropout passes, for the parameters of the sub-net; 0 for the others.

    Put this first in an `optax.chain`. Updates come as leaves `[k, *param]` and leave as leaves `[*param]`; `params`
    must be given to `update`. The mean is not divided by the fraction.

    Args:
      num_passes: k, at least 2, static.
      fraction: fraction of each array of parameters that is updated, in (0, 1]; 1 averages all.

    Returns:
      An `optax.experimental.aggregating.Aggregator` without state.

    Raises:
      TypeError: if `num_passes` is not a static int, or the fraction is not a number.
      ValueError: if `num_passes` is below 2, the fraction is not in (0, 1] or, in `update`, params are missing or do
        not match.

    References:
      Tong et al., 2023 (arXiv 2305.14760).

    Examples:
      >>> tx = optax.chain(subnet_aggregate(2, 0.5), optax.sgd(1.0))
      >>> params = jnp.ones(2)
      >>> gradients = jnp.array([[1.0, 1.0], [2.0, -1.5]])
      >>> tx.update(gradients, tx.init(params), params)[0].tolist()
      [-1.5, -0.0]
    """
    check_count("num_passes", num_passes)
    if num_passes < 2:
        raise ValueError("num_passes is 1, wanted two or more dropout passes.")
    _check_fraction(fraction)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("params is None, wanted the parameters: update(gradients, state, params).")
        check_leading_axis("updates", updates, num_passes)
        mask = subnet_mask(updates, params, fraction)

        def aggregate(rows, chosen):
            mean = jnp.mean(rows.astype(weight_dtype(rows.dtype)), axis=0)
            return jnp.where(chosen, mean, 0).astype(rows.dtype)

        return jax.tree.map(aggregate, updates, mask), state

    update_fn: Any = update  # the type of optax knows no extra arguments
    return aggregating.Aggregator(lambda params: optax.EmptyState(), update_fn)


def _check_fraction(fraction: Any) -> None:
    if isinstance(fraction, jax.Array):
        raise TypeError("fraction is an array, wanted a Python number: a sub-net has a static size.")
    check_number("fraction", fraction, 0, 1, open_low=True)
