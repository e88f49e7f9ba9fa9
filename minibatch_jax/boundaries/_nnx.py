"""Take a flax nnx module apart, and write its state and random numbers back once a step.

Imported only where a module of nnx is differentiated.
"""

import inspect
from typing import Any

from minibatch_jax._extras import require
from minibatch_jax.boundaries._models import Model

nnx: Any = require("flax.nnx", "modules")


def split_nnx(module: Any, wrt: Any) -> Model:
    """Split a module, or a tree that holds modules, into what `wrt` (default `nnx.Param`) selects and the rest.

    A pass works on a copy of the module: variables that belong to an outer trace cannot be written in an inner one.
    """
    if inspect.isfunction(wrt):
        raise TypeError("wrt is a function, wanted a filter of nnx for a module of nnx, such as nnx.LoRAParam.")
    wanted = nnx.Param if wrt is None else wrt
    graph, trained, rest = nnx.split(module, wanted, ...)
    if not trained:
        kinds = sorted({type(v).__name__ for v in _variables(nnx.state(module))})
        raise ValueError(f"wrt selects no variable, wanted a filter of nnx that selects some; the module has {kinds}.")
    return Model(
        trained=trained,
        rest=rest,
        merge=lambda trained, rest: nnx.merge(graph, trained, rest, copy=True),
        rest_of=lambda copy: nnx.split(copy, wanted, ...)[2],
        gradient=lambda trained: trained,
        write=lambda rest: nnx.update(module, rest),
    )


def _variables(state: Any) -> list[Any]:
    return [variable for _, variable in nnx.to_flat_state(state)]
