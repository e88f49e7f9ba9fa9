"""One learning rate for each layer, in proportion to the norm of its weights: LARS, also for stacked layers.

With large batches the ratio of a layer's weights to its gradient differs by orders of magnitude between layers, and the
smallest one limits the rate of all. LARS divides the ratio out. `optax.lars` does so with another denominator than the
paper, takes each leaf for a layer, and computes norms in the dtype of the leaf; here all three are chosen.

References:
  You et al., Large batch training of convolutional networks, 2017 (arXiv 1708.03888).

Method: LARS and trust ratios of stacked layers
Paper: 1708.03888
Experiment: large_batches
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax._vector import nonzero
from minibatch_jax.devices import sum_over
from minibatch_jax.schedules._steps import real

BatchAxes = Callable[[str, jax.Array], int | tuple[int, ...]]


def scale_by_layer_trust_ratio(
    trust_coefficient: float | jax.Array = 0.001,
    weight_decay: float | jax.Array = 0.0,
    *,
    denominator: str = "paper",
    batch_axes: BatchAxes | None = None,
    axis_name: str | None = None,
    clip: float | jax.Array | None = None,
) -> optax.GradientTransformation:
    """Add the weight decay to the gradient, and scale each layer by the norm of its weights over that of its gradient.

    The update of a layer with weights w and gradient g is `ratio * (g + decay * w)`, where the ratio is the trust
    coefficient times `|w| / (|g| + decay * |w|)` in the paper's form, times `|w| / |g + decay * w|` in that of
    `optax.lars`, which is never smaller. Norms are computed in float32 at least.

    Where the norm of the weights or the denominator is 0, the ratio is 1, as in optax: a bias that starts at 0 then
    gets its plain gradient, about 1000 times as much as other layers. So leave biases and scales of normalization out,
    as the paper does, with `optax.masked(..., lambda params: jax.tree.map(lambda p: p.ndim > 1, params))`; their weight
    decay is left out with them. The whole optimizer is
    `optax.chain(scale_by_layer_trust_ratio(...), optax.scale_by_learning_rate(rate), momentum_correction(rate))`.

    Args:
      trust_coefficient: > 0, may be traced.
      weight_decay: >= 0, may be traced; do not add it to the gradient before.
      denominator: "paper" for `|g| + decay * |w|`, "sum" for `|g + decay * w|`.
      batch_axes: `fn(path, leaf) -> axes` of a leaf, such as "blocks/kernel", along which it holds independent layers:
        0 for layers stacked by a scan, experts, or heads; () for a leaf that is one layer, as all are by default.
      axis_name: axis of `shard_map` or `pmap` over which the parameters are sharded; their gradients must be those of
        the shards. A leaf that is equal on all devices gets the same ratio as on one.
      clip: largest ratio, > 0, may be traced. LARC is a coefficient divided by the learning rate, with clip 1.

    Returns:
      A transformation of gradients that needs the parameters, in the dtype of the gradients. None, the gradient of what
      is frozen, stays None.

    Raises:
      TypeError: if a number is none.
      ValueError: if a number is out of range, the denominator is unknown or, in `update`, the parameters are missing,
        or a leaf does not have an axis.

    References:
      You et al., 2017 (arXiv 1708.03888).

    Examples:
      >>> tx = scale_by_layer_trust_ratio(1.0, batch_axes=lambda path, leaf: 0)
      >>> params, gradient = jnp.array([[3.0, 4.0], [0.3, 0.4]]), jnp.array([[0.0, 2.0], [0.0, 2.0]])
      >>> tx.update(gradient, tx.init(params), params)[0].round(3).tolist()
      [[0.0, 5.0], [0.0, 0.5]]
    """
    check_number("trust_coefficient", trust_coefficient, 0, open_low=True)
    check_number("weight_decay", weight_decay, 0)
    check_choice("denominator", denominator, ("paper", "sum"))
    if clip is not None:
        check_number("clip", clip, 0, open_low=True)

    def scaled(path, gradient, param):
        if gradient is None:
            return None
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        inside = _axes_of_a_layer(name, param, () if batch_axes is None else batch_axes(name, param))
        w, g = real(param), real(gradient)

        def norm(x):
            return jnp.sqrt(sum_over(jnp.sum(x * x, axis=inside, keepdims=True), axis_name))

        step, weight_norm = g + weight_decay * w, norm(w)
        below = norm(step) if denominator == "sum" else norm(g) + weight_decay * weight_norm
        ratio = trust_coefficient * weight_norm / nonzero(below)
        ratio = jnp.where((weight_norm == 0) | (below == 0), 1, ratio)
        ratio = ratio if clip is None else jnp.minimum(ratio, clip)
        return (ratio * step).astype(jnp.result_type(gradient))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params is None, wanted the parameters: update(gradients, state, params).")
        return jax.tree_util.tree_map_with_path(scaled, updates, params, is_leaf=lambda g: g is None), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _axes_of_a_layer(name: str, leaf: jax.Array, batch: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes over which the norm of a layer is taken: all but those of independent layers."""
    rank = jnp.ndim(leaf)
    own = (batch,) if isinstance(batch, int) else tuple(batch)
    for axis in own:
        if not -rank <= axis < rank:
            raise ValueError(f"batch_axes of {name!r} is {batch}, wanted axes of an array of rank {rank}.")
    kept = {axis % rank for axis in own}
    return tuple(axis for axis in range(rank) if axis not in kept)
