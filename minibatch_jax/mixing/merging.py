"""Averages of the parameters of models, a cheap stand-in for the model that is trained on the union of their data.

Train one seed model, continue it on each of P parts of the data separately, and average: P trainings give a proxy for
every mixture of the parts, where training on each would take one run for each of 2^P unions. What the proxies rank are
mixtures; their losses themselves are biased. Models that do not share the seed model cannot be averaged.

References:
  Na et al., Scalable data ablation approximations for language models through modular training and merging, EMNLP 2024
  (arXiv 2410.15661).

Method: Merged models as proxies for unions of data
Paper: 2410.15661
Experiment: merged_proxies
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_dtype


def merge_parameters(weights: jax.Array, params: Any) -> Any:
    """Average the parameters of P models, for one mixture of them or for S mixtures at once.

    Weights are divided by their sum: counts of tokens, or 1 for members of a union and 0 for others, will do. The
    result is linear in the divided weights, so the gradient of a loss of the average with respect to the weights is one
    backward pass: mixtures can be optimized, not only listed. An average of averages is the average with the product of
    the weights, `merge_parameters(outer @ inner, params)`, where the rows of `inner` sum to 1.

    Sums are in float32 at least, and the result has the dtype of the parameters. Leaves that are not floating point or
    complex are those of the first model. A model of weight 0 contributes nothing, even if its parameters are NaN; where
    a model with a weight has a parameter that is not finite, the average is NaN. Statistics of batch normalization must
    be estimated anew for the average, and an optimizer's state belongs to no average.

    Args:
      weights: `[P]` or `[S, P]`, floating point, at least 0. Inside `jit`, a weight that is negative or not finite
        counts as 0, and if no weight is left, the average is NaN.
      params: pytree of arrays `[P, ...]`, the parameters of the models, stacked.

    Returns:
      The pytree of the averages, without the leading axis for weights `[P]`, with a leading axis S for `[S, P]`.

    Raises:
      TypeError: if the weights are not floating point.
      ValueError: if the weights are neither `[P]` nor `[S, P]`, or are known and negative, not finite or all 0, or if
        an array of `params` has not P rows.

    References:
      Na et al., 2024 (arXiv 2410.15661).

    Examples:
      >>> params = {"kernel": jnp.array([[0.0, 4.0], [8.0, 0.0], [jnp.nan, 0.0]])}
      >>> merge_parameters(jnp.array([1.0, 3.0, 0.0]), params)["kernel"].tolist()
      [6.0, 1.0]
      >>> jax.grad(lambda w: merge_parameters(w, params)["kernel"].sum())(jnp.array([1.0, 1.0, 0.0])).tolist()
      [-1.0, 1.0, -3.0]
    """
    weights = jnp.asarray(weights)
    if weights.ndim not in (1, 2) or not weights.size:
        raise ValueError(f"weights has shape {list(weights.shape)}, wanted [P] or [S, P].")
    check_floating("weights", weights)
    _check_known(weights)
    for path, leaf in jax.tree.leaves_with_path(params):
        rows = weights.shape[-1]
        name = f"params{jax.tree_util.keystr(path)}"
        check_shape(name, leaf, (rows, *jnp.shape(leaf)[1:]))
    usable = jnp.isfinite(weights) & (weights >= 0)
    weights = jnp.where(usable, weights, 0).astype(weight_dtype(weights.dtype))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jax.tree.map(lambda leaf: _average(weights, jnp.asarray(leaf)), params)


def _average(weights: jax.Array, leaf: jax.Array) -> jax.Array:
    shape = (*weights.shape[:-1], *leaf.shape[1:])
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.broadcast_to(leaf[0], shape)
    dtype = leaf.dtype if jnp.iscomplexobj(leaf) else weight_dtype(leaf.dtype)
    rows = leaf.reshape(leaf.shape[0], -1)
    finite = jnp.isfinite(rows)
    average = product(weights.astype(dtype), jnp.where(finite, rows, 0).astype(dtype))
    spoiled = product((weights > 0).astype(jnp.float32), (~finite).astype(jnp.float32)) > 0
    return jnp.where(spoiled, jnp.nan, average).astype(leaf.dtype).reshape(shape)


def _check_known(weights: jax.Array) -> None:
    """Raise if weights that are known at trace time give no average."""
    if isinstance(weights, jax.core.Tracer):
        return
    values = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError("weights has a negative or non-finite entry, wanted finite values >= 0.")
    if not np.all(values.sum(axis=-1) > 0):
        raise ValueError("weights has a row of zeros, wanted a model with a weight in each row.")
