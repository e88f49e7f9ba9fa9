"""Exact per-example gradient norms of flax linen modules, without the gradients and without a change to the modules."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._extras import require
from minibatch_jax.scores._rows import num_rows
from minibatch_jax.scores.norms import ghost_gradient_norms, tap_dense, tap_embedding, tap_layer


def linen_gradient_norms(loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any) -> jax.Array:
    """Return the exact norm of the gradient of each example's loss for flax linen modules.

    This costs less than one batch gradient. A method interceptor taps every module, as `ghost_gradient_norms` wants:
    `nn.Dense` and `nn.Embed` by their closed form, any other module with parameters (convolutions, layer normalization,
    `DenseGeneral`) by the gradients of this module alone, for 16 examples at a time. Where the norms would not be
    exact, an error is raised: then use `gradient_norms`. The batch must be the first axis of the input of every module.
    Shared positions `[T]` cannot be told from a batch if T = B.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses [B]`, which calls `module.apply` itself (not by way of an inner `jit`);
        a loss depends on its own row alone.
      params: pytree of arrays, whole or part of the variables; each must be used in exactly one call of a module.
      batch: pytree of arrays `[B, ...]`.

    Returns:
      `[B]`, float32 (float64 with x64), at least 0; not finite where the gradient of that example is not.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if a parameter is used twice or by no module (as inside `nn.scan`, `nn.remat` or a module with
        parameters beside submodules), a module takes or gives other than one array, batch normalization is training, or
        leading axes differ.

    Examples:
      >>> import flax.linen as nn
      >>> model, x = nn.Dense(1, use_bias=False), jnp.array([[3.0, 4.0], [0.0, 1.0]])
      >>> loss_fn = lambda params, batch: model.apply(params, batch)[:, 0]
      >>> linen_gradient_norms(loss_fn, model.init(jax.random.key(0), x), x).tolist()
      [5.0, 1.0]
    """
    nn = require("flax.linen", "modules")

    batch = jax.tree.map(jnp.asarray, batch)
    params = jax.tree.map(jnp.array, params)  # copies: each leaf is known by its identity
    names = {id(leaf): jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def losses_of(tap):
        unused, stack = dict(names), []

        def interceptor(next_fun, args, kwargs, context):
            own = _own_parameters(context.module)
            if not own or stack or context.method_name == "setup":
                return next_fun(*args, **kwargs)
            _use(own, unused, names, context.module)
            stack.append(context.module)
            outputs = next_fun(*args, **kwargs)
            stack.pop()
            return _tapped(tap, context, own, args, kwargs, outputs)

        with nn.intercept_methods(interceptor):
            losses = loss_fn(params, batch)
        if unused:
            raise ValueError(f"params {sorted(unused.values())} are used by no module, wanted one call for each.")
        return losses

    return ghost_gradient_norms(losses_of, num_rows(batch))


def _own_parameters(module: Any) -> dict[str, Any]:
    """Return the parameters of the module itself; none if the module has submodules with parameters."""
    variables = module.variables.get("params", {})
    return {} if any(isinstance(v, Mapping) for v in variables.values()) else dict(variables)


def _use(own: dict[str, Any], unused: dict[int, str], names: dict[int, str], module: Any) -> None:
    for value in own.values():
        if id(value) not in unused:
            name = names.get(id(value), f"of {type(module).__name__} inside a lifted transformation")
            raise ValueError(f"params {name} are used twice or out of sight, wanted one plain call for each.")
        del unused[id(value)]


def _tapped(tap: jax.Array, context: Any, own: dict[str, Any], args: tuple, kwargs: dict, outputs: Any) -> jax.Array:
    nn = require("flax.linen", "modules")

    module = context.module
    if isinstance(module, nn.BatchNorm) and not kwargs.get("use_running_average", module.use_running_average):
        raise ValueError("BatchNorm is training, wanted use_running_average: its gradient is not of single examples.")
    arrays = jax.tree.leaves((args, kwargs))
    if len(args) != 1 or sum(isinstance(x, jax.Array) for x in arrays) != 1 or not isinstance(outputs, jax.Array):
        raise ValueError(f"{type(module).__name__} takes or gives other than one array, wanted one: no tap fits it.")
    inputs = args[0]
    if type(module) is nn.Dense and module.dot_general is None and module.dot_general_cls is None:
        return tap_dense(tap, inputs, outputs, bias=module.use_bias)
    if type(module) is nn.Embed and context.method_name == "__call__":
        return tap_embedding(tap, inputs, outputs)
    detached, method = module.clone(parent=None), context.method_name
    rest = {name: value for name, value in module.variables.items() if name != "params"}

    def apply(params, x) -> Any:
        own, rest = params
        return detached.apply({"params": own, **jax.lax.stop_gradient(rest)}, x, method=method, **kwargs)

    return tap_layer(tap, apply, (own, rest), inputs, outputs)
