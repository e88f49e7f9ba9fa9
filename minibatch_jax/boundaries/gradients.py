"""Boundary from weights to parameters: the gradient of a mini-batch whose items carry selected weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.dtypes import float0

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax.boundaries.rows import check_leading_axis, take
from minibatch_jax.devices import as_varying, axis_is_bound, gather_rows, own_rows, replicate
from minibatch_jax.weights import Weights, uniform_like


class MinibatchAux(NamedTuple):
    """Losses, weights and signals of the selection.

    Attributes:
      losses: `[B]`, loss of every row.
      weights: `[B]`, weight of every row in the gradient.
      signals: what `loss_fn` returned beside the losses, if `has_aux`.
    """

    losses: jax.Array
    weights: jax.Array
    signals: dict[str, Any]


def value_and_grad(
    loss_fn: Callable[..., Any],
    selection: optax.GradientTransformationExtraArgs,
    *,
    has_aux: bool = False,
    gather: int | None = None,
    axis_name: str | None = None,
) -> Callable[..., tuple[tuple[jax.Array, MinibatchAux], Any, Any]]:
    """Make a function that returns the value and gradient of a weighted loss, with weights chosen by `selection`.

    Without `gather`, one forward pass gives the losses, the selection changes the weights 1/B, and one backward pass
    applies the new weights. With `gather=k`, a forward pass without gradient gives the losses, and only the k heaviest
    rows are differentiated, which saves time if k is well below B. Use `gather` when the loss of a row depends on this
    row alone (for in-batch negatives the loss of the gathered rows is that of the smaller batch).

    Rows with a non-finite loss get weight 0, and no row of weight 0 reaches the gradient: if such a row makes the
    gradient non-finite, because 0 * infinity is NaN, a second pass runs without the row. Under `vmap` the second pass
    always runs and doubles the cost. The value, the sum of weight times loss, is for reports: do not differentiate it.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses [B]`, or `(losses, signals)` if `has_aux`, where the dict of signals
        (such as `logits`) goes to the selection.
      selection: weight transformation, with its own state: `selection.init(jnp.zeros(B))`. Do not chain the selection
        with the optimizer of the parameters: the updates of one are weights, those of the other are gradients.
      has_aux: whether `loss_fn` returns signals.
      gather: number of rows to differentiate, static, at most B.
      axis_name: the axis over which `shard_map` or `pmap` shards the batch. Weights then start at 1/(global B); value
        and gradients are summed over the devices; wrap the selection in `across` for a global choice. With `gather`,
        every device differentiates its share of the k rows, so k must be a multiple of the number of devices.

    Returns:
      `fn(params, batch, state, *, weights=None, **signals) -> ((value, MinibatchAux), grads, state)`, where `weights`
      `[B]` replaces the 1/B start (0 on padding) and `signals` go to the selection.

    Raises:
      TypeError: if losses are not floating point, `gather` is not a static int, or `loss_fn` returns signals without
        `has_aux` or none with it.
      ValueError: if losses are not `[B]`, leading axes differ, `gather` is not in [1, B] or not a multiple of the
        number of devices, or a signal comes both from `loss_fn` and from the caller.

    Examples:
      >>> from minibatch_jax.selection import keep_bottomk
      >>> loss_fn = lambda w, batch: (w * batch["x"] - batch["y"]) ** 2
      >>> selection = keep_bottomk(2)
      >>> batch = {"x": jnp.ones(3), "y": jnp.array([1.0, 2.0, 90.0])}
      >>> (value, aux), grad, state = value_and_grad(loss_fn, selection)(0.0, batch, selection.init(jnp.zeros(3)))
      >>> round(float(value), 4), float(grad)
      (1.6667, -2.0)
    """
    if gather is not None:
        check_count("gather", gather)

    update = optax.with_extra_args_support(selection).update

    def split(params, batch) -> Any:
        out = loss_fn(params, batch)
        is_pair = isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)
        if is_pair != has_aux:
            wanted = "(losses, dict of signals)" if has_aux else "losses alone, or has_aux=True"
            raise TypeError(f"loss_fn returned {jax.tree.map(jnp.shape, out)}, wanted {wanted}.")
        return out if has_aux else (out, {})

    def select(losses, own_signals, state, weights: Weights, signals):
        if weights is None:
            weights = uniform_like(losses) / _devices(axis_name)
        check_shape("weights", weights, losses.shape)
        clash = own_signals.keys() & signals.keys()
        if clash:
            raise ValueError(f"signals {sorted(clash)} come both from loss_fn and from the caller, wanted one source.")
        weights, state = update(weights, state, None, losses=losses, **own_signals, **signals)
        return jnp.where(jnp.isfinite(losses), weights, 0), state

    def masked(params, batch, state, weights, signals):
        losses, vjp, own_signals = jax.vjp(lambda p: split(p, batch), params, has_aux=True)
        check_losses(losses, batch)
        weights, state = select(losses, own_signals, state, weights, signals)
        (grads,) = vjp(weights.astype(losses.dtype))
        finite = _all_devices(_all_finite(grads), axis_name)
        grads = jax.lax.cond(finite, lambda: grads, lambda: gradient(params, _without_zeros(batch, weights), weights))
        return _reported_value(weights, losses), MinibatchAux(losses, weights, own_signals), grads, state

    def gathered(params, batch, state, weights, signals, rows):
        losses, own_signals = jax.lax.stop_gradient(split(params, batch))
        check_losses(losses, batch)
        weights, state = select(losses, own_signals, state, weights, signals)
        weights_everywhere = _everywhere(weights, axis_name)
        check_count("gather", rows, weights_everywhere.shape[0], "the number of rows")
        taken = take(_everywhere(batch, axis_name), weights_everywhere, rows)
        share = _own((taken.batch, taken.weights), rows // _devices(axis_name), axis_name)
        grads = gradient(params, *share)
        return _reported_value(weights, losses), MinibatchAux(losses, weights, own_signals), grads, state

    def gradient(params, batch, weights):
        losses, vjp, _ = jax.vjp(lambda p: split(p, batch), params, has_aux=True)
        (grads,) = vjp(weights.astype(losses.dtype))
        return jax.tree.map(lambda g: g if g.dtype == float0 else jnp.where(jnp.any(weights != 0), g, 0), grads)

    def check_losses(losses, batch):
        check_shape("losses", losses, (None,))
        check_leading_axis("batch", batch, losses.shape[0])

    def fn(params, batch, state, *, weights=None, **signals):
        devices = _devices(axis_name)
        if gather is not None and gather % devices:
            raise ValueError(f"gather is {gather}, wanted a multiple of the {devices} devices of {axis_name!r}.")
        batch = jax.tree.map(jnp.asarray, batch)
        if axis_is_bound(axis_name):
            params = as_varying(params, axis_name)
        if gather is None:
            value, aux, grads, state = masked(params, batch, state, weights, signals)
        else:
            value, aux, grads, state = gathered(params, batch, state, weights, signals, gather)
        if axis_is_bound(axis_name):
            value, grads = jax.lax.psum((value, grads), axis_name)
        return (value, aux), grads, state

    return fn


def _all_finite(grads: Any) -> jax.Array:
    checks = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads) if g.dtype != float0]
    return jnp.all(jnp.stack(checks)) if checks else jnp.array(True)


def _without_zeros(batch: Any, weights: jax.Array) -> Any:
    """Overwrite the rows of weight 0 with the heaviest row, because 0 * NaN is NaN."""
    heaviest = jnp.argmax(replicate(weights))

    def overwrite(x):
        return jnp.where(jnp.expand_dims(weights == 0, range(1, x.ndim)), replicate(x)[heaviest][None], x)

    return jax.tree.map(overwrite, batch)


def _reported_value(weights: jax.Array, losses: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.sum(weights * jnp.where(weights == 0, 0, losses).astype(weights.dtype)))


def _devices(axis_name: str | None) -> int:
    return jax.lax.axis_size(axis_name) if axis_is_bound(axis_name) else 1


def _all_devices(condition: jax.Array, axis_name: str | None) -> jax.Array:
    if not axis_is_bound(axis_name):
        return condition
    return jax.lax.pmin(as_varying(condition.astype(jnp.int32), axis_name), axis_name) == 1


def _everywhere(tree: Any, axis_name: str | None) -> Any:
    if not axis_is_bound(axis_name):
        return replicate(tree)
    return jax.tree.map(lambda x: gather_rows(x, axis_name), tree)


def _own(tree: Any, rows: int, axis_name: str | None) -> Any:
    return jax.tree.map(lambda x: own_rows(x, rows, axis_name), tree) if axis_is_bound(axis_name) else tree
