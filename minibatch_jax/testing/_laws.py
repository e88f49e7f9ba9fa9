"""What all conformance suites share: laws that name themselves, and comparisons that name what differs."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

ROWS = 16
"""Rows of a batch that neither signals nor weights determine."""


def law(sentence: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let every failure of a check name the law that is broken."""

    def decorate(check):
        @functools.wraps(check)
        def checked(*args, **kwargs):
            try:
                check(*args, **kwargs)
            except Exception as error:
                raise AssertionError(f"{sentence}\n{type(error).__name__}: {error}") from error

        return checked

    return decorate


def require(condition: Any, wanted: str) -> None:
    """Raise with what was wanted unless the condition holds."""
    if not condition:
        raise AssertionError(wanted)


def require_same(actual: Any, desired: Any, tolerance: float = 0.0, where: str = "") -> None:
    """Raise unless two trees are equal, and name the array that differs by its path, after `where`."""
    structures = jax.tree.structure(actual), jax.tree.structure(desired)
    require(structures[0] == structures[1], f"{where}got the structure {structures[0]}, wanted {structures[1]}")
    for (path, a), d in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(desired)):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, d = jax.random.key_data(a), jax.random.key_data(d)
        a, d = np.asarray(a), np.asarray(d)
        name = where + leaf_name(path)
        require(a.shape == d.shape, f"{name} has shape {list(a.shape)}, wanted {list(d.shape)}")
        differ = ~np.isclose(a, d, rtol=tolerance, atol=tolerance / ROWS, equal_nan=True)
        if differ.any():
            at = tuple(np.argwhere(differ)[0])
            place = f"{name}{list(map(int, at)) if at else ''}"
            require(False, f"{place} is {a[at]}, wanted {d[at]}; {differ.sum()} of {differ.size} numbers differ")


def export_for_accelerators(program: Any, arguments: Any) -> None:
    """Export a jitted function of arguments for TPU, CUDA and ROCm, as one program."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    jax.export.export(program, platforms=["tpu", "cuda", "rocm"])(*shapes)


def leaf_name(path: Any) -> str:
    """Return the name of a leaf of a tree from its path, such as `state.rng_key`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def require_same_shapes(actual: Any, desired: Any) -> None:
    """Raise unless two trees have one structure, and equal shapes and dtypes."""

    def shapes(tree):
        return jax.tree.map(lambda x: (jnp.shape(x), jax.dtypes.result_type(x)), tree)

    require(shapes(actual) == shapes(desired), f"got {shapes(actual)}, wanted {shapes(desired)}")


def is_float(value: jax.Array | np.ndarray) -> bool:
    """Return whether an array holds floating-point numbers."""
    return jnp.issubdtype(value.dtype, jnp.floating)


def stack_trees(*trees: Any) -> Any:
    """Stack trees of one structure leaf by leaf, keys too."""

    def stack(*leaves):
        is_key = jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
        return jnp.stack(leaves) if is_key else np.stack(leaves)

    return jax.tree.map(stack, *trees)


def make_mesh(rows: int, axis_type: AxisType) -> jax.sharding.Mesh:
    """Return the mesh of the largest number of devices at hand that divides the rows."""
    devices = jax.devices()[: math.gcd(jax.device_count(), rows)]
    return jax.make_mesh((len(devices),), ("data",), axis_types=(axis_type,), devices=devices)
