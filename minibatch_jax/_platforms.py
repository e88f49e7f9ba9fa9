"""Operations that a TPU does in a way of its own, such as one kernel in place of a loop.

The way is chosen when a program is lowered, not when it is traced: no other platform pays for the kernel, not even by
its import, and a program that is exported for several platforms gets a way for each. Therefore such an operation is a
primitive of JAX. `lax.platform_dependent` traces the ways of all platforms.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_Arrays = tuple[jax.Array, ...]
_Levels = tuple[tuple[bool, ...], ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """A function of arrays that completes a state: its last arguments are the state, its results the new one.

    It has no derivative: call it with constants. The first argument varies along all mesh axes along which any does.

    Attributes:
      state: how many arguments the state has. The results have their shapes and dtypes.
      everywhere: how to do it, as JAX operations.
      on_tpu: how a TPU does it.
      stack_on_tpu: how a TPU does it for a stack: each argument and result has one more axis, in front.
    """

    state: int
    everywhere: Callable[..., _Arrays]
    on_tpu: Callable[..., _Arrays]
    stack_on_tpu: Callable[..., _Arrays]

    def __call__(self, *arguments: jax.Array) -> _Arrays:
        return tuple(completion_p.bind(*arguments, ways=self, levels=()))


completion_p = Primitive("completion")
completion_p.multiple_results = True
_compiled = jax.jit(completion_p.bind, static_argnames=("ways", "levels"))


@completion_p.def_impl
def _run(*arguments: jax.Array, ways: Completion, levels: _Levels) -> _Arrays:
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return _do_everywhere(*arguments, ways=ways, levels=levels)
    return _compiled(*arguments, ways=ways, levels=levels)


@completion_p.def_abstract_eval
def _types(*arguments: Any, ways: Completion, levels: _Levels) -> list[Any]:
    """Return the types of the state, as varying over devices as the first argument is."""
    return [x.update(manual_axis_type=arguments[0].manual_axis_type) for x in arguments[-ways.state :]]


def _stack(
    arguments: list[jax.Array], axes: list[int | None], *, ways: Completion, levels: _Levels
) -> tuple[list[jax.Array], list[int]]:
    """Batch it: a level notes which arguments have its axis, in front. All of the state do, as its results must."""
    size = next(x.shape[axis] for x, axis in zip(arguments, axes) if axis is not None)
    level = tuple(axis is not None or k >= len(axes) - ways.state for k, axis in enumerate(axes))
    moved = []
    for x, axis, has_it in zip(arguments, axes, level):
        if axis is not None:
            moved.append(jnp.moveaxis(x, axis, 0))
        else:
            moved.append(jnp.broadcast_to(x, (size, *x.shape)) if has_it else x)
    return completion_p.bind(*moved, ways=ways, levels=(level, *levels)), [0] * ways.state


def _do_everywhere(*arguments: jax.Array, ways: Completion, levels: _Levels) -> _Arrays:
    """Map over the axes of all levels; the last one is the innermost."""
    function = ways.everywhere
    for level in reversed(levels):
        function = jax.vmap(function, in_axes=tuple(0 if has_it else None for has_it in level))
    return tuple(function(*arguments))


def _do_on_tpu(*arguments: jax.Array, ways: Completion, levels: _Levels) -> _Arrays:
    """Make one stack of all levels."""
    if not levels:
        return tuple(ways.on_tpu(*arguments))
    depth = len(levels)
    sizes = arguments[-1].shape[:depth]  # of the state, which has all axes
    flat = []
    for k, x in enumerate(arguments):
        x = jnp.expand_dims(x, tuple(d for d, level in enumerate(levels) if not level[k]))
        x = jnp.broadcast_to(x, (*sizes, *x.shape[depth:]))
        flat.append(x.reshape(math.prod(sizes), *x.shape[depth:]))
    return tuple(x.reshape(*sizes, *x.shape[1:]) for x in ways.stack_on_tpu(*flat))


def jaxpr_everywhere(eqn: Any) -> Any:
    """Return what an equation of `completion_p` does elsewhere than on a TPU, as a closed jaxpr."""
    types = [x.aval for x in eqn.invars]
    return jax.make_jaxpr(lambda *arguments: _do_everywhere(*arguments, **eqn.params))(*types)


batching.primitive_batchers[completion_p] = _stack
mlir.register_lowering(completion_p, mlir.lower_fun(_do_everywhere))
mlir.register_lowering(completion_p, mlir.lower_fun(_do_on_tpu), platform="tpu")
