"""What of `params` is differentiated, and how it is put together again: plain trees, equinox, flax nnx."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Model(NamedTuple):
    """Parameters taken apart.

    Attributes:
      trained: pytree of what is differentiated.
      rest: pytree of what a forward pass may change beside `model_state`: state and RNG of an nnx module, () elsewhere.
      merge: `merge(trained, rest) -> params`, as the user's functions take them; a fresh copy for an nnx module.
      rest_of: `rest_of(params) -> rest` after a forward pass.
      gradient: from the gradient of `trained` to what the user gets, with None for what is not differentiated.
      write: puts `rest` into the user's module; called once a step.
    """

    trained: Any
    rest: Any
    merge: Callable[[Any, Any], Any]
    rest_of: Callable[[Any], Any]
    gradient: Callable[[Any], Any]
    write: Callable[[Any], None]


def fixed_model(params: Any) -> Model:
    """Return parameters of which nothing is differentiated; modules of nnx are copied, so that they are not written."""
    model = split_model(params, None) if _is_nnx(params) else None
    return model or Model((), (), lambda t, r: params, lambda p: (), lambda t: None, lambda rest: None)


def split_model(params: Any, wrt: Any) -> Model:
    """Take parameters apart into what is differentiated and the rest."""
    if _is_nnx(params):
        from minibatch_jax.boundaries._nnx import split_nnx

        return split_nnx(params, wrt)
    return _split_tree(params, wrt)


def _is_nnx(params: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # a module of nnx exists only where nnx is loaded
    if nnx is None:
        return False
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Module))
    return any(isinstance(leaf, nnx.Module) for leaf in leaves)


def _split_tree(params: Any, wrt: Any) -> Model:
    paths, structure = jax.tree.flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    leaves = [leaf for _, leaf in paths]
    inexact = [_is_inexact(x) for x in leaves]
    if not any(inexact):  # plain numbers are parameters only where there is no array, as in `jax.grad(f)(0.0)`
        inexact = [isinstance(x, float | complex) for x in leaves]
    if not any(inexact):
        raise TypeError(f"params has the leaves {names}, wanted at least one array of floating point among them.")
    chosen = [a and b for a, b in zip(inexact, chosen_leaves(params, wrt, names))]
    if not any(chosen):
        candidates = [name for name, a in zip(names, inexact) if a]
        raise ValueError(f"wrt selects no parameter, wanted at least one of {candidates}.")
    fixed = [None if c else leaf for c, leaf in zip(chosen, leaves)]

    def fill(trained, others):
        parts = iter(trained)
        return structure.unflatten(next(parts) if c else other for c, other in zip(chosen, others))

    return Model(
        trained=[jnp.asarray(leaf) for c, leaf in zip(chosen, leaves) if c],
        rest=(),
        merge=lambda trained, rest: fill(trained, fixed),
        rest_of=lambda params: (),
        gradient=lambda trained: fill(trained, [None] * len(leaves)),
        write=lambda rest: None,
    )


def _is_inexact(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.inexact)


def chosen_leaves(params: Any, wanted: Any, names: list[str], argument: str = "wrt") -> list[bool]:
    """Return which leaves of the parameters a tree of bools or a function of their paths selects; None selects all.

    Errors call `wanted` by the name of the argument. A mask of a callable module is callable, too, and is no leaf.
    """
    if wanted is None:
        return [True] * len(names)
    if callable(wanted) and jax.tree.structure(wanted).num_nodes == 1:
        return [bool(wanted(name)) for name in names]
    try:
        mask = jax.tree.broadcast(wanted, params)
    except ValueError as error:
        raise ValueError(
            f"{argument} has the structure {jax.tree.structure(wanted)}, wanted a function of a path such as "
            "'layer/kernel', or a tree of bools that is a prefix of params."
        ) from error
    flags = jax.tree.leaves(mask)
    if not all(isinstance(flag, bool | np.bool_) for flag in flags):
        raise TypeError(f"{argument} holds {sorted({type(flag).__name__ for flag in flags})}, wanted bools.")
    return [bool(flag) for flag in flags]
