"""How weight arrays meet several devices: global batches under `shard_map`, whole arrays on Explicit meshes."""

import difflib
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from minibatch_jax.signals import SIGNALS

RowsAxis = str | tuple[str, ...] | None


def as_optax(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """Make an optax transformation of two functions. Optax's own types know neither weights nor signals."""
    return optax.GradientTransformationExtraArgs(init, update)


def across(axis_name: str, tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Let `tx` see the global batch inside `shard_map` or `pmap`, so that 8 shards select what one device would.

    Weights and signals are gathered along their first axis (a `[B, B]` signal is sharded by rows), except for the
    signals that `SIGNALS` calls replicated. Every device computes the same global result and keeps its own rows. The
    state is global and replicated. Where no axis is bound, as under plain `jit`, the result behaves like `tx`.

    Args:
      axis_name: name of the mapped axis over which the batch is sharded.
      tx: any weight transformation or `optax.chain` of them.

    Returns:
      A transformation over the rows `[b, ...]` of one device.

    Raises:
      ValueError: in `init` and `update`, if axes are bound, but not this one; in `update`, if the `cost` is square,
        because its columns are then those of one device, too.

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
        return tx.init(jax.tree.map(gather, weights) if bound_axis(axis_name) else weights)

    def update_fn(weights, state, params=None, **extra_args):
        if not bound_axis(axis_name):
            return tx.update(weights, state, params, **extra_args)
        _check_columns(extra_args.get("cost"), axis_name)
        everywhere = {k: v if _is_replicated(k) else jax.tree.map(gather, v) for k, v in extra_args.items()}
        new_weights, state = tx.update(jax.tree.map(gather, weights), state, params, **everywhere)
        return jax.tree.map(lambda new, old: own_rows(new, old.shape[0], axis_name), new_weights, weights), state

    return as_optax(init_fn, update_fn)


def _check_columns(cost: Any, axis_name: str) -> None:
    """Raise where a square cost shows that its columns, too, are those of one device."""
    shape, devices = getattr(cost, "shape", ()), jax.lax.axis_size(axis_name)
    if devices > 1 and len(shape) == 2 and shape[0] == shape[1]:
        raise ValueError(
            f"cost has shape {list(shape)} on each of {devices} devices, wanted the rows of one device and the columns "
            "of all; flow_matching_pairs(axis_name=...) makes it so and takes the coupling without across."
        )


def _is_replicated(name: str) -> bool:
    return name in SIGNALS and SIGNALS[name].replicated


def bound_axis(axis_name: str | None) -> str | None:
    """Return the axis name if the code runs under that axis of `shard_map`, `pmap` or `vmap`, else None.

    Code that names an axis runs on one device as well: where no axis is bound at all, there is one device. Where other
    axes are bound, the name is a mistake.

    Args:
      axis_name: name of a mapped axis, or None.

    Returns:
      The name, or None where no axis is bound or none is named.

    Raises:
      TypeError: if the name is no text.
      ValueError: if axes are bound, but not this one.

    Examples:
      >>> bound_axis("data") is None
      True
      >>> jax.vmap(lambda x: x + len(bound_axis("data")), axis_name="data")(jnp.zeros(2)).tolist()
      [4.0, 4.0]
    """
    if axis_name is None:
        return None
    if not isinstance(axis_name, str):
        raise TypeError(f"axis_name is {axis_name!r}, wanted the name of one axis.")
    bound = [str(name) for name in core.unsafe_get_axis_names_DO_NOT_USE()]  # pyright: ignore[reportPrivateImportUsage]
    if axis_name in bound:
        return axis_name
    if bound:
        hint = difflib.get_close_matches(axis_name, bound, n=1, cutoff=0)
        raise ValueError(f"axis_name is {axis_name!r}, wanted a bound axis: {bound} (did you mean {hint[0]!r}?).")
    return None


def axis_size(axis_name: str | None) -> int:
    """Return the number of devices of an axis, 1 where none is bound; see `bound_axis`."""
    return jax.lax.axis_size(axis_name) if bound_axis(axis_name) else 1


def sum_over(tree: Any, axis_name: str | None) -> Any:
    """Return the sums over the devices of an axis, the tree itself where none is bound; see `bound_axis`."""
    return jax.lax.psum(tree, axis_name) if bound_axis(axis_name) else tree


def max_over(tree: Any, axis_name: str | None) -> Any:
    """Return the largest over the devices of an axis, the tree itself where none is bound.

    It is a constant for the gradient, on one device too, because `pmax` has no derivative.
    """
    fixed = jax.lax.stop_gradient(tree)
    return jax.lax.pmax(fixed, axis_name) if bound_axis(axis_name) else fixed


def gather_rows(array: jax.Array, axis_name: str) -> jax.Array:
    """Concatenate the rows of all devices, `[b, ...] -> [b * devices, ...]`; scalars are kept.

    The result is the same on every device.
    """
    if jnp.ndim(array) == 0:
        return array
    if axis_name not in _manual_axes():  # an axis of vmap
        return jax.lax.all_gather(array, axis_name, tiled=True)
    return jax.lax.all_gather(array, axis_name, tiled=True, to="invarying")


def own_rows(array: jax.Array, rows: int, axis_name: str) -> jax.Array:
    """Return the `rows` rows of a global array that belong to this device. This is the inverse of `gather_rows`."""
    return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axis_name) * rows, rows)


def own_taken_rows(array: jax.Array, indices: jax.Array, axis_name: str) -> jax.Array:
    """Return this device's share of the rows `indices` of the global array, `[b, ...]` to `[k / devices, ...]`.

    Only the k rows travel, not the array: each device contributes those that it holds, and zeros for the others.
    """
    local = indices - jax.lax.axis_index(axis_name) * array.shape[0]
    mine = (local >= 0) & (local < array.shape[0])
    rows = array[jnp.clip(local, 0, array.shape[0] - 1)]
    is_key = jnp.issubdtype(rows.dtype, jax.dtypes.prng_key)
    numbers = jax.random.key_data(rows) if is_key else rows.astype(jnp.int8) if rows.dtype == jnp.bool_ else rows
    held = jnp.where(jnp.expand_dims(mine, range(1, numbers.ndim)), numbers, jnp.zeros_like(numbers))
    share = jax.lax.psum_scatter(held, axis_name, tiled=True)
    return jax.random.wrap_key_data(share, impl=jax.random.key_impl(rows)) if is_key else share.astype(rows.dtype)


def taken_rows(array: jax.Array, indices: jax.Array, rows_axis: RowsAxis = None) -> jax.Array:
    """Return `array[indices]` with its rows spread over the devices as those of the array are.

    Only the rows travel, not the array.

    Args:
      array: `[B, ...]`.
      indices: `[k]` int, the same on all devices.
      rows_axis: where all axes of the mesh are Auto, the mesh axis or axes along which the rows lie: by default the
        only axis of the mesh, () for rows that every device holds. On Explicit axes the array itself says it.

    Returns:
      `[k, ...]`.

    Raises:
      ValueError: if the mesh has several Auto axes and none is named, the mesh has not the named one, or k is no
        multiple of the number of devices along it.
    """
    axis = axis_of_rows(array, rows_axis)
    if axis is None:
        return array[indices]
    mesh = jax.typeof(array).sharding.mesh
    devices = math.prod(mesh.shape[name] for name in axis)
    if indices.shape[0] % devices:
        raise ValueError(
            f"{indices.shape[0]} rows are to be taken, wanted a multiple of the {devices} devices along {axis}, or "
            "rows_axis=() if every device holds all rows."
        )
    if _is_explicit(array):
        return array.at[indices].get(out_sharding=jax.typeof(array).sharding)
    spec = PartitionSpec(axis, *[PartitionSpec.UNCONSTRAINED] * (array.ndim - 1))
    return jax.lax.with_sharding_constraint(array[indices], NamedSharding(mesh, spec))


def reshape_rows(array: jax.Array, shape: tuple[int, ...], spec: tuple[Any, ...]) -> jax.Array:
    """Reshape an array; on Explicit mesh axes the result has this partition spec."""
    if not _is_explicit(array):
        return array.reshape(shape)
    sharding = NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec(*spec))
    return array.reshape(shape, out_sharding=sharding)


def spec_of(array: jax.Array) -> tuple[Any, ...]:
    """Return the partition spec of an array on Explicit mesh axes, with None for every axis that is not sharded."""
    spec = tuple(jax.typeof(array).sharding.spec) if _is_explicit(array) else ()
    return (*spec, *[None] * (jnp.ndim(array) - len(spec)))


def one_row(array: jax.Array, index: jax.Array) -> jax.Array:
    """Return `array[index][None]` on every device; only the row travels, not the array."""
    if not _is_explicit(array):
        return array[index[None]]
    spec = PartitionSpec(None, *spec_of(array)[1:])
    return array.at[index[None]].get(out_sharding=NamedSharding(jax.typeof(array).sharding.mesh, spec))


def axis_of_rows(array: jax.Array, rows_axis: RowsAxis = None) -> tuple[str, ...] | None:
    """Return the mesh axes along which the rows of an array lie, or None without a mesh; see `taken_rows`."""
    sharding = getattr(jax.typeof(array), "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return None
    mesh = sharding.mesh
    if AxisType.Explicit in mesh.axis_types:
        return _as_names(sharding.spec[0] if len(sharding.spec) else None)
    auto = [name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto]
    if not auto:
        return None
    if rows_axis is None and len(auto) > 1:
        raise ValueError(f"rows_axis is None on a mesh with the axes {auto}, wanted the one along which the rows lie.")
    axis = tuple(auto) if rows_axis is None else _as_names(rows_axis)
    unknown = [name for name in axis if name not in auto]
    if unknown:
        hint = difflib.get_close_matches(unknown[0], auto, n=1, cutoff=0)[0]
        raise ValueError(f"rows_axis is {rows_axis!r}, wanted axes of the mesh: {auto} (did you mean {hint!r}?).")
    return axis or None


def _as_names(axis: RowsAxis) -> tuple[str, ...]:
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


def as_varying(tree: Any, axis_name: str) -> Any:
    """Mark the arrays as different on each device of `axis_name`, where `shard_map` tracks that."""

    if axis_name not in _manual_axes():  # an axis of vmap
        return tree

    def cast(x):
        x = jnp.asarray(x)
        return x if axis_name in jax.typeof(x).manual_axis_type.varying else jax.lax.pcast(x, axis_name, to="varying")

    return jax.tree.map(cast, tree)


def any_device(condition: jax.Array) -> jax.Array:
    """Return whether a condition holds on any device, over all axes of `shard_map` and `pmap` that the code runs under.

    A branch that contains collectives must be taken by all devices or by none.
    """
    axes, number = _manual_axes(), condition.astype(jnp.int32)
    return (jax.lax.psum(number, axes) if axes else number) > 0


def varying_like(tree: Any, shapes: Any) -> Any:
    """Mark arrays as different on the devices on which the arrays of the given shapes are."""

    def cast(x, shape):
        kind = shape.manual_axis_type
        for axis in () if kind is None else kind.varying:
            x = as_varying(x, axis)
        return x

    return jax.tree.map(cast, tree, shapes)


def _manual_axes() -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    return () if mesh.empty else tuple(mesh.manual_axes)


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
