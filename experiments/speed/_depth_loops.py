"""Loops and branches of a function: named, so that a compiled program shows which is which, and counted.

Both are done by going through the function's jaxpr and doing each of its equations again. A loop or branch is named by
its place there, such as `at_12_3` for equation 3 in the body of equation 12. Counts say how often the body of each loop
ran, and how often each branch was taken, over the whole call.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr

from minibatch_jax._platforms import completion_p, jaxpr_everywhere

CALLS = {"jit", "closed_call", "core_call", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
KERNEL = "pallas_call"


def loop_counts(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Return how often each loop's body ran and each branch was taken when `function(*args)` ran on this machine.

    Of code for one platform the TPU's runs, unless it is a kernel: then the other code does.

    Args:
      function: from arrays to arrays, fit for `jax.jit`.
      *args: its arrays.

    Returns:
      A dict from the names of loops, such as `at_3`, and of branches, such as `at_3_5_b1`, to counts.
    """
    closed, leaves = _jaxpr(function, args)
    names = sorted(set(_names(closed.jaxpr, ())))
    zeros = {name: jnp.zeros((), jnp.int32) for name in names}

    def counted(*leaves):
        return _evaluate(closed.jaxpr, closed.consts, leaves, (), zeros, False)

    counts, _ = jax.jit(counted)(*leaves)
    return {name: int(count) for name, count in counts.items()}


def with_names(function: Callable[..., Any], *args: Any, kernels: bool = True) -> tuple[Callable[..., Any], list[Any]]:
    """Return a function of arrays in which loops and branches have their names, and the flat arguments for it.

    Args:
      function: from arrays to arrays, fit for `jax.jit`.
      *args: its arrays, or `jax.ShapeDtypeStruct`.
      kernels: whether code for TPUs that is a kernel is taken, or the other code in its place.

    Returns:
      A function that does the same, with the code for TPUs, and `args` as a flat list.
    """
    closed, leaves = _jaxpr(function, args)

    def named(*leaves):
        return _evaluate(closed.jaxpr, closed.consts, leaves, (), {}, kernels)[1]

    return named, leaves


def _jaxpr(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    return jax.make_jaxpr(function)(*args), jax.tree.leaves(args)


def _name(path: tuple[int, ...]) -> str:
    return "at_" + "_".join(map(str, path))


def _called(eqn: Any, kernels: bool = False) -> Any:
    """Return the closed jaxpr that a call runs, or None if the equation is not a call."""
    if eqn.primitive is completion_p:
        return None if kernels else jaxpr_everywhere(eqn)
    if eqn.primitive.name not in CALLS:
        return None
    found = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if key in eqn.params)
    return found if hasattr(found, "jaxpr") else ClosedJaxpr(found, ())


def _branch_of_platform(eqn: Any, kernels: bool) -> int | None:
    """Return the branch for a TPU, or the one for a CPU in place of a kernel, or None if the branch depends on data."""
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return None

    def branch(name):
        chosen = [i for i, names in enumerate(platforms) if names is not None and name in names]
        return chosen[0] if chosen else next(i for i, names in enumerate(platforms) if names is None)

    wanted = branch("tpu")
    return wanted if kernels or KERNEL not in str(eqn.params["branches"][wanted]) else branch("cpu")


def _names(jaxpr: Any, path: tuple[int, ...]) -> Iterator[str]:
    """Yield the names of all loops and branches."""
    for number, eqn in enumerate(jaxpr.eqns):
        here, kind = (*path, number), eqn.primitive.name
        if kind == "while":
            yield _name(here)
            yield from _names(eqn.params["body_jaxpr"].jaxpr, here)
        elif kind == "scan":
            yield _name(here)
            yield from _names(eqn.params["jaxpr"].jaxpr, here)
        elif kind == "cond":
            for branch, closed in enumerate(eqn.params["branches"]):
                yield f"{_name(here)}_b{branch}"
                yield from _names(closed.jaxpr, (*here, branch))
        elif (closed := _called(eqn)) is not None:
            yield from _names(closed.jaxpr, here)


def _evaluate(
    jaxpr: Any, consts: Any, args: Any, path: tuple[int, ...], counts: dict[str, jax.Array], kernels: bool
) -> tuple[dict[str, jax.Array], list[Any]]:
    """Do the equations again; returns the counts after them, and the results. Without counts it only names."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))

    def read(atom):
        return atom.val if hasattr(atom, "val") else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        here, inputs = (*path, number), [read(atom) for atom in eqn.invars]
        step = STEPS.get(eqn.primitive.name)
        closed = _called(eqn, kernels)
        with eqn.ctx.manager:
            if closed is not None:
                counts, results = _evaluate(closed.jaxpr, closed.consts, inputs, here, counts, kernels)
            elif step is not None:
                with jax.named_scope(_name(here)):
                    counts, results = step(eqn, inputs, here, counts, kernels)
            else:
                results = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
                results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results))
    return counts, [read(atom) for atom in jaxpr.outvars]


def _plus_one(counts: dict[str, jax.Array], name: str) -> dict[str, jax.Array]:
    return {key: value + 1 if key == name else value for key, value in counts.items()}


def _while(eqn, inputs, here, counts, kernels):
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    first, second = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]

    def test_of(carry):
        return _evaluate(test.jaxpr, test.consts, (*inputs[:first], *carry), here, {}, kernels)[1][0]

    def step(state):
        consts = (*inputs[first:second], *state[1])
        later, new = _evaluate(body.jaxpr, body.consts, consts, here, _plus_one(state[0], _name(here)), kernels)
        if batched:
            goes_on = test_of(state[1])
            new = [_where(goes_on, x, y) for x, y in zip(new, state[1])]
        return later, new

    batched = test.out_avals[0].ndim > 0  # by vmap: problems that are done wait for the others
    return lax.while_loop(lambda state: jnp.any(test_of(state[1])), step, (counts, inputs[second:]))


def _where(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(jnp.expand_dims(condition, tuple(range(condition.ndim, x.ndim))), x, y)


def _scan(eqn, inputs, here, counts, kernels):
    body, fixed = eqn.params["jaxpr"], eqn.params["num_consts"]
    carried = fixed + eqn.params["num_carry"]

    def step(state, xs):
        args = (*inputs[:fixed], *state[1], *xs)
        later, results = _evaluate(body.jaxpr, body.consts, args, here, _plus_one(state[0], _name(here)), kernels)
        return (later, results[: carried - fixed]), results[carried - fixed :]

    options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
    (counts, last), ys = lax.scan(step, (counts, inputs[fixed:carried]), inputs[carried:], **options)
    return counts, [*last, *ys]


def _cond(eqn, inputs, here, counts, kernels):
    branches = eqn.params["branches"]

    def take(branch, counts, args):
        closed, counts = branches[branch], _plus_one(counts, f"{_name(here)}_b{branch}")
        return _evaluate(closed.jaxpr, closed.consts, args, (*here, branch), counts, kernels)

    chosen = _branch_of_platform(eqn, kernels)
    if chosen is not None:
        return take(chosen, counts, inputs[1:])
    functions = [lambda counts, args, i=i: take(i, counts, args) for i in range(len(branches))]
    return lax.switch(inputs[0], functions, counts, inputs[1:])


STEPS: dict[str, Callable[..., Any]] = {"while": _while, "scan": _scan, "cond": _cond}
