"""Operations that a TPU does in a way of its own, such as one kernel in place of a loop.

The way is chosen when a program is lowered, not when it is traced: no other platform pays for the kernel, not even by
its import, and a program that is exported for several platforms gets a way for each. Therefore such an operation is a
primitive of JAX. `lax.platform_dependent` traces the ways of all platforms.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_Arrays = tuple[jax.Array, ...]
_Levels = tuple[tuple[bool, ...], ...]


def completion(
    name: str,
    state: int,
    everywhere: Callable[..., _Arrays],
    on_tpu: Callable[..., _Arrays],
    stack_on_tpu: Callable[..., _Arrays],
) -> Callable[..., _Arrays]:
    """Return a function of arrays that completes a state: its last arguments are the state, its results the new one.

    It has no derivative: call it with constants. The first argument varies along all mesh axes along which any does.

    Args:
      name: what programs call it.
      state: how many arguments the state has. The results have their shapes and dtypes.
      everywhere: how to do it, as JAX operations.
      on_tpu: how a TPU does it.
      stack_on_tpu: how a TPU does it for a stack: each argument and result has one more axis, in front.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="levels"))
    primitive.def_abstract_eval(functools.partial(_types, state))
    batching.primitive_batchers[primitive] = functools.partial(_stack, primitive, state)
    mlir.register_lowering(primitive, mlir.lower_fun(functools.partial(_mapped, everywhere)))
    mlir.register_lowering(primitive, mlir.lower_fun(functools.partial(_flat, on_tpu, stack_on_tpu)), platform="tpu")
    return lambda *arguments: tuple(primitive.bind(*arguments, levels=()))


def _types(state: int, *arguments: Any, levels: _Levels) -> list[Any]:
    """Return the types of the state, as varying over devices as the first argument is."""
    varying = arguments[0].manual_axis_type
    return [x.update(manual_axis_type=varying) for x in arguments[-state:]]


def _stack(
    primitive: Primitive, state: int, arguments: list[jax.Array], axes: list[int | None], *, levels: _Levels
) -> tuple[list[jax.Array], list[int]]:
    """Batch it: a level notes which arguments have its axis, in front. All of the state do, as its results must."""
    size = next(x.shape[axis] for x, axis in zip(arguments, axes) if axis is not None)
    first = len(arguments) - state
    level = tuple(axis is not None or k >= first for k, axis in enumerate(axes))
    moved = []
    for x, axis, has_it in zip(arguments, axes, level):
        if axis is not None:
            moved.append(jnp.moveaxis(x, axis, 0))
        else:
            moved.append(jnp.broadcast_to(x, (size, *x.shape)) if has_it else x)
    return primitive.bind(*moved, levels=(level, *levels)), [0] * state


def _mapped(function: Callable[..., _Arrays], *arguments: jax.Array, levels: _Levels) -> _Arrays:
    """Map over the axes of all levels; the last one is the innermost."""
    for level in reversed(levels):
        function = jax.vmap(function, in_axes=tuple(0 if has_it else None for has_it in level))
    return tuple(function(*arguments))


def _flat(
    function: Callable[..., _Arrays], on_stack: Callable[..., _Arrays], *arguments: jax.Array, levels: _Levels
) -> _Arrays:
    """Make one stack of all levels."""
    if not levels:
        return tuple(function(*arguments))
    depth = len(levels)
    sizes = arguments[-1].shape[:depth]  # of the state, which has all axes
    flat = []
    for k, x in enumerate(arguments):
        missing = tuple(d for d, level in enumerate(levels) if not level[k])
        x = jnp.expand_dims(x, missing)
        x = jnp.broadcast_to(x, (*sizes, *x.shape[depth:]))
        flat.append(x.reshape(math.prod(sizes), *x.shape[depth:]))
    return tuple(x.reshape(*sizes, *x.shape[1:]) for x in on_stack(*flat))
