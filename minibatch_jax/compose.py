"""Small weight transformations that optax lacks, and weights outside training."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_bool, check_number, check_shape, check_transformation
from minibatch_jax._vector import nonzero
from minibatch_jax.weights import Weights, weight_dtype, weight_transformation


def effective_sample_size(weights: Weights) -> jax.Array:
    """Return the number of equally weighted items that would give the same variance, (sum w)^2 / sum w^2.

    Args:
      weights: any shape, at least 0.

    Returns:
      `[]`, between 1 and the number of non-zero weights; 0 if all weights are 0. Half precision gives float32.

    References:
      Kish, Survey Sampling, 1965.

    Examples:
      >>> float(effective_sample_size(jnp.array([0.5, 0.5, 0.0])))
      2.0
    """
    weights = weights.astype(weight_dtype(weights.dtype))
    scaled = weights / nonzero(jnp.max(weights))
    return jnp.sum(scaled) ** 2 / nonzero(jnp.sum(scaled**2))


def normalize(total: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Rescale the weights so that they sum to `total`. Put this last in a chain.

    Weights that are all zero stay zero.

    Args:
      total: sum of the weights that leave, > 0, may be traced.

    Returns:
      A transformation over weights of any shape; it reads no signal and has no state.

    Raises:
      TypeError: if `total` is not a number.
      ValueError: if `total` is not positive.

    Examples:
      >>> tx = normalize()
      >>> tx.update(jnp.array([1.0, 3.0, 0.0]), tx.init(jnp.ones(3)))[0].tolist()
      [0.25, 0.75, 0.0]
    """
    check_number("total", total, 0, open_low=True)

    def update(weights, state, params=None, **extra_args):
        return weights * (total / nonzero(jnp.sum(weights))), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def mask_rows() -> optax.GradientTransformationExtraArgs:
    """Give weight 0 to the rows where the signal `mask` is False. Signal: `mask` [B].

    Put this first in a chain, so that everything after it ignores padding.

    Returns:
      A transformation over `[B, ...]` weights without state.

    Raises:
      TypeError: in `update`, if the mask does not hold bools.
      ValueError: in `update`, if the mask does not have one entry for each row.

    Examples:
      >>> tx = mask_rows()
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), mask=jnp.array([True, True, False]))[0].tolist()
      [1.0, 1.0, 0.0]
    """

    def update(weights, state, params=None, *, mask, **extra_args):
        check_shape("mask", mask, weights.shape[:1])
        check_bool("mask", mask)
        return jnp.where(jnp.expand_dims(mask, range(1, weights.ndim)), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def among_rows(selection: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Let a selection of examples choose pairs: a pair keeps its weight if both its examples are kept.

    So a joint selection such as `keep_by_jest` leaves the pairs of its sub-batch, and no dropped example stays as a
    negative. The selection sees as the weight of an example half the sum of its row and its column, 0 where one of the
    two is 0.

    Args:
      selection: a transformation over weights `[B]`.

    Returns:
      A transformation over weights `[B, B]` of pairs. It reads the signals of the selection and has its state.

    Raises:
      TypeError: if `selection` is no transformation.
      ValueError: in `init` and `update`, if the weights are not square.

    Examples:
      >>> from minibatch_jax.selection import keep_topk
      >>> tx, weights = among_rows(keep_topk(2)), jnp.full((3, 3), 1 / 9)
      >>> kept, state = tx.update(weights, tx.init(weights), losses=jnp.array([3.0, 1.0, 2.0]))
      >>> (kept > 0).tolist()
      [[True, False, True], [False, False, False], [True, False, True]]
    """
    check_transformation(selection)
    select: Any = optax.with_extra_args_support(selection).update

    def update(weights, state, params=None, **extra_args):
        chosen, state = select(_examples(weights), state, None, **extra_args)
        return jnp.where((chosen != 0)[:, None] & (chosen != 0)[None], weights, 0), state

    return weight_transformation(lambda weights: selection.init(_examples(weights)), update)


def _examples(pairs: jax.Array) -> jax.Array:
    check_shape("weights", pairs, (None, pairs.shape[0]))
    rows, columns = jnp.sum(pairs, axis=1), jnp.sum(pairs, axis=0)
    return jnp.where((rows == 0) | (columns == 0), 0, 0.5 * (rows + columns))


def weights_of(transformation: optax.GradientTransformation, weights: Weights, **signals: Any) -> Weights:
    """Return the weights that a transformation makes of these in its first update, to look at them outside training.

    The transformation starts anew and its state is not kept. In training `value_and_grad` keeps the state.

    Args:
      transformation: weight transformation, or an `optax.chain` of them.
      weights: incoming weights, an array or a dict of arrays; 0 on padding.
      **signals: what the transformation reads, such as `losses=`.

    Returns:
      The new weights, with the shape and dtype of the old ones.

    Raises:
      TypeError: if the transformation is not what a factory returns, or a signal is missing.

    Examples:
      >>> from minibatch_jax.selection import keep_topk
      >>> weights_of(optax.chain(keep_topk(2), normalize()), jnp.ones(3), losses=jnp.array([0.3, 2.0, 1.0])).tolist()
      [0.0, 0.5, 0.5]
    """
    check_transformation(transformation)
    update = optax.with_extra_args_support(transformation).update
    return update(weights, transformation.init(weights), None, **signals)[0]


class RecordState(NamedTuple):
    """State of `record`.

    Attributes:
      values: name of a statistic to its value at the last update.
    """

    values: dict[str, jax.Array]


def record(statistics: Mapping[str, Callable[[jax.Array], jax.Array]]) -> optax.GradientTransformationExtraArgs:
    """Keep statistics of the weights in the state. The weights pass unchanged.

    Args:
      statistics: name of a statistic to a function of the weights, such as `{"ess": effective_sample_size}`.

    Returns:
      A transformation whose state holds the values of the last update, zeros before the first.

    Examples:
      >>> tx = record({"mass": jnp.sum})
      >>> _, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
      >>> float(state.values["mass"])
      3.0
    """

    def compute(weights):
        values = {name: jnp.asarray(function(weights)) for name, function in statistics.items()}
        return {name: value.astype(value.dtype) for name, value in values.items()}

    def init(weights):
        return RecordState(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(compute, weights)))

    def update(weights, state, params=None, **extra_args):
        return weights, RecordState(compute(weights))

    return weight_transformation(init, update)
