"""The gradient of a batch in groups, and the squared norms of the groups' gradients, which the noise scale reads.

Two operations measure. One around the losses sees the weights as the backward pass begins, one around the parameters
sees the gradient as it ends. The first hands its sums to the second as the gradient of a dummy input, the second adds
the squared norm and makes all of it the gradient of another dummy input, the tap. So blocks and devices add up the sums
as they add up gradients, whatever boundary runs them.

Method: gradient noise scale
Paper: 1812.06162
Experiment: critical_batch, critical_batch_text, speed noise_scale
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count
from minibatch_jax.boundaries.gradients import value_and_grad
from minibatch_jax.devices import axis_size
from minibatch_jax.scores._rows import sum_of_squares
from minibatch_jax.scores.gradient_noise import GroupSums


class _Tapped(NamedTuple):
    """Parameters, and zeros whose gradient becomes the sums over the groups."""

    params: Any
    tap: GroupSums


def grouped_value_and_grad(
    loss_fn: Callable[..., Any],
    transformation: optax.GradientTransformation,
    *,
    micro_batches: int = 1,
    axis_name: str | None = None,
    has_aux: bool = False,
    has_state: bool = False,
) -> Callable[..., tuple[tuple[jax.Array, Any], Any, Any, GroupSums]]:
    """Make a function like that of `value_and_grad` which also returns the sums over micro-batches and devices.

    The groups are the micro-batches, on each device of the axis. Their norms are taken where their gradients are formed
    and cost one more read of a gradient for each group. A row of several losses `[B, T]` counts as one example. Weights
    apply as they are given, unlike those of `accumulate`: for the mean over a mask, end the transformation in
    `normalize()`.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses` `[B]` or `[B, T]`, as for `value_and_grad`.
      transformation: weight transformation; the estimate needs weights that do not follow from this batch's losses.
      micro_batches: number of equal blocks of rows on a device.
      axis_name: axis of `shard_map` or `pmap` over which the batch is sharded.
      has_aux: whether `loss_fn` returns signals beside the losses.
      has_state: whether `loss_fn` takes and returns a state.

    Returns:
      `fn(params, batch, state, *, weights=None, model_state=None, **signals)` which returns
      `((value, aux), grads, state, groups)`. The groups belong to the gradient as it is returned:
      `noise_scale_from_groups(groups, optax.tree.norm(grads, squared=True))`.

    Raises:
      TypeError: if an argument has a wrong type, or the parameters are a flax nnx module (split it first).
      ValueError: if there is one group only, or `value_and_grad` refuses an argument.

    Examples:
      >>> from minibatch_jax.scores import noise_scale_from_groups
      >>> loss_fn = lambda w, batch: 0.5 * (w - batch) ** 2
      >>> fn = grouped_value_and_grad(loss_fn, optax.identity(), micro_batches=3)
      >>> _, grad, _, groups = fn(jnp.float32(3.0), jnp.array([0.0, 2.0, 1.0]), optax.EmptyState())
      >>> [round(float(x), 4) for x in noise_scale_from_groups(groups, grad**2)[:3]]
      [3.6667, 1.0, 0.2727]
    """
    check_count("micro_batches", micro_batches)
    differentiate = value_and_grad(
        _tapped(loss_fn), transformation, micro_batches=micro_batches, axis_name=axis_name, has_aux=has_aux,
        has_state=has_state,
    )  # fmt: skip

    def fn(params, batch, state, **signals):
        if micro_batches * axis_size(axis_name) < 2:
            raise ValueError("micro_batches is 1 on one device, wanted at least two groups.")
        zero = jnp.zeros(())
        result, grads, state = differentiate(_Tapped(params, GroupSums(*[zero] * 5)), batch, state, **signals)
        if not isinstance(grads, _Tapped):
            raise TypeError("params holds a flax nnx module, wanted a pytree of arrays, as nnx.split gives.")
        groups = grads.tap
        squares = groups.squares * groups.mass**2  # the gradient is that of a sum: mass x mean
        return result, grads.params, state, groups._replace(squares=squares)

    return fn


def _tapped(loss_fn):
    """Return a loss of tapped parameters, whose backward pass makes the sums of its rows the gradient of the tap."""

    def losses_of(tapped, *arguments):
        params, link = _around_params(tapped.params, tapped.tap)
        out = loss_fn(params, *arguments)
        losses, *others = out if isinstance(out, tuple) else (out,)
        losses = _around_losses(losses, link)
        return (losses, *others) if isinstance(out, tuple) else losses

    return losses_of


@jax.custom_vjp
def _around_params(params, tap):
    return params, tap


def _around_params_backward(_, cotangents):
    gradient, sums = cotangents
    there = sums.mass > 0
    squares = jnp.where(there, sum_of_squares(gradient) / jnp.where(there, sums.mass, 1), 0)
    return gradient, sums._replace(squares=squares.astype(sums.squares.dtype))


_around_params.defvjp(lambda params, tap: ((params, tap), None), _around_params_backward)


@jax.custom_vjp
def _around_losses(losses, link):
    del link
    return losses


def _around_losses_backward(_, weights):
    dtype = jnp.zeros(()).dtype  # float64 with x64
    rows = jnp.sum(weights.astype(dtype).reshape(weights.shape[0], -1), axis=1)
    mass, squared = jnp.sum(rows), jnp.sum(rows**2)
    there = mass > 0
    over_size = jnp.where(there, squared / jnp.where(there, mass, 1), 0)
    return weights, GroupSums(0 * mass, over_size, squared, mass, there.astype(dtype))


_around_losses.defvjp(lambda losses, link: (losses, None), _around_losses_backward)
