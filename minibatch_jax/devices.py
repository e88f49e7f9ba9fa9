"""How weight arrays meet several devices: global batches under `shard_map`, whole arrays on Explicit meshes."""

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from minibatch_jax.signals import SIGNALS


def as_optax(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """Make an optax transformation of two functions. Optax's own types know neither weights nor signals."""
    return optax.GradientTransformationExtraArgs(init, update)


def across(axis_name: str, tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Let `tx` see the global batch inside `shard_map` or `pmap`, so that 8 shards select what one device would.

    Weights and signals are gathered along their first axis (a `[B, B]` signal is sharded by rows), except for the
    signals that `SIGNALS` calls replicated. Every device computes the same global result and keeps its own rows. The
    state is global and replicated. Where `axis_name` is not bound, as under plain `jit`, the result behaves like `tx`,
    so a misspelt name goes unnoticed. `vmap` with an `axis_name` is not supported.

    Args:
      axis_name: name of the mapped axis over which the batch is sharded.
      tx: any weight transformation or `optax.chain` of them.

    Returns:
      A transformation over the rows `[b, ...]` of one device.

    Examples:
      >>> from jax.sharding import AxisType, PartitionSpec as P
      >>> from minibatch_jax.selection import keep_topk
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
      >>> tx = across("data", keep_topk(1))
      >>> losses = jnp.arange(16.0)
      >>> select = lambda w, l: tx.update(w, tx.init(w), losses=l)[0]
      >>> weights = jax.shard_map(select, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones(16), losses)
      >>> int(weights.argmax()), float(weights.sum())
      (15, 1.0)
    """

    def gather(array):
        return gather_rows(array, axis_name)

    def init_fn(weights):
        return tx.init(jax.tree.map(gather, weights) if axis_is_bound(axis_name) else weights)

    def update_fn(weights, state, params=None, **extra_args):
        if not axis_is_bound(axis_name):
            return tx.update(weights, state, params, **extra_args)
        everywhere = {k: v if _is_replicated(k) else jax.tree.map(gather, v) for k, v in extra_args.items()}
        new_weights, state = tx.update(jax.tree.map(gather, weights), state, params, **everywhere)
        return jax.tree.map(lambda new, old: own_rows(new, old.shape[0], axis_name), new_weights, weights), state

    return as_optax(init_fn, update_fn)


def _is_replicated(name: str) -> bool:
    return name in SIGNALS and SIGNALS[name].replicated


def axis_is_bound(axis_name: str | None) -> TypeGuard[str]:
    """Return whether the code runs under `shard_map` or `pmap` with this axis name."""
    if axis_name is None:
        return False
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def gather_rows(array: jax.Array, axis_name: str) -> jax.Array:
    """Concatenate the rows of all devices, `[b, ...] -> [b * devices, ...]`; scalars are kept.

    The result is the same on every device.
    """
    if jnp.ndim(array) == 0:
        return array
    return jax.lax.all_gather(array, axis_name, tiled=True, to="invarying")


def own_rows(array: jax.Array, rows: int, axis_name: str) -> jax.Array:
    """Return the `rows` rows of a global array that belong to this device. This is the inverse of `gather_rows`."""
    return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axis_name) * rows, rows)


def as_varying(tree: Any, axis_name: str) -> Any:
    """Mark the arrays as different on each device of `axis_name`, where `shard_map` tracks that."""

    def cast(x):
        x = jnp.asarray(x)
        return x if axis_name in jax.typeof(x).manual_axis_type.varying else jax.lax.pcast(x, axis_name, to="varying")

    return jax.tree.map(cast, tree)


def replicate(tree: Any) -> Any:
    """Put arrays that lie on Explicit mesh axes whole on every device; keep all other arrays as they are.

    Order statistics and gathers over a sharded axis need this under Explicit axes.

    Args:
      tree: pytree of arrays.

    Returns:
      The pytree, with every such array resharded.
    """
    return jax.tree.map(lambda x: jax.sharding.reshard(x, _replicated(x)) if _is_explicit(x) else x, tree)


def shard_like(like: jax.Array, array: jax.Array) -> jax.Array:
    return jax.sharding.reshard(array, jax.typeof(like).sharding) if _is_explicit(like) else array


def _is_explicit(x: Any) -> bool:
    mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)
    return mesh is not None and not mesh.empty and AxisType.Explicit in mesh.axis_types


def _replicated(x: jax.Array) -> NamedSharding:
    return NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec())
