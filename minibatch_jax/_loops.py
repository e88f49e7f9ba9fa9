"""Loops and branches that JAX compiles once, also outside of `jit`.

JAX finds the program of a loop again if the body is the same function object. A lambda, or a function defined inside
another one, is a new object at every call: outside of `jit` each call compiles it anew and keeps the program. So the
body of these loops is a function of a module, and `bind` gives it the arrays and options that it reads.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its first arguments and with options; a pytree of the arrays in the arguments.

    Attributes:
      function: a function of a module, or what `given` returns.
      arguments: pytrees of arrays.
      options: keywords and their values.
    """

    function: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Hashable], ...] = dataclasses.field(default=(), metadata={"static": True})

    def __call__(self, *others: Any) -> Any:
        return self.function(*self.arguments, *others, **dict(self.options))


def bind(function: Callable[..., Any], *arguments: Any, **options: Hashable) -> Bound:
    """Return the function with its first arguments, pytrees of arrays, and with static options."""
    return Bound(function, arguments, tuple(sorted(options.items())))


def given(function: Callable[..., Any], user_function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with a function of the user as its first argument.

    The result is the same object, and its programs are kept, for as long as the user keeps their function. A
    `functools.partial` counts as the same function as another one with the same arguments.
    """
    arguments, keywords = (), ()
    if isinstance(user_function, functools.partial):
        arguments, keywords = user_function.args, tuple(sorted(user_function.keywords.items()))
        user_function = user_function.func

    def make(function_of_user):
        def with_user_function(*args, **options):
            return function(functools.partial(function_of_user(), *arguments, **dict(keywords)), *args, **options)

        return with_user_function

    return _kept(user_function, (function, arguments, keywords), make)


def scan(
    step: Callable[..., Any], start: Any, xs: Any, *, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Scan as `lax.scan` does."""
    step = _bound(step)
    (_, last), ys = lax.scan(_body(_scan_body, step), (step.arguments, start), xs, length=length, reverse=reverse)
    return last, ys


def fori_loop(lower: Any, upper: Any, step: Callable[..., Any], start: Any) -> Any:
    """Loop as `lax.fori_loop` does."""
    step = _bound(step)
    return lax.fori_loop(lower, upper, _body(_fori_body, step), (step.arguments, start))[1]


def while_loop(goes_on: Callable[..., Any], step: Callable[..., Any], start: Any) -> Any:
    """Loop as `lax.while_loop` does."""
    goes_on, step = _bound(goes_on), _bound(step)
    carry = goes_on.arguments, step.arguments, start
    return lax.while_loop(_body(_while_condition, goes_on), _body(_while_body, step), carry)[2]


def map_rows(one: Callable[..., Any], xs: Any, *, block_size: int | None = None) -> Any:
    """Map over the leading axis as `lax.map` does, `block_size` rows at a time."""
    one = _bound(one)
    if block_size is None:
        return lax.scan(_body(_map_body, one), one.arguments, xs)[1]
    rows = jax.tree.leaves(xs)[0].shape[0]
    blocks, left = divmod(rows, block_size)
    whole = jax.tree.map(lambda x: x[: rows - left].reshape(blocks, block_size, *x.shape[1:]), xs)
    parts = []
    if blocks:
        found = lax.scan(_body(_blocks_body, one), one.arguments, whole)[1]
        parts.append(jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), found))
    if left or not blocks:
        parts.append(jax.vmap(one)(jax.tree.map(lambda x: x[rows - left :], xs)))
    return jax.tree.map(lambda *ys: jnp.concatenate(ys), *parts) if len(parts) > 1 else parts[0]


def cond(condition: jax.Array, on_true: Callable[..., Any], on_false: Callable[..., Any], *operands: Any) -> Any:
    """Branch as `lax.cond` does."""
    on_true, on_false = _bound(on_true), _bound(on_false)
    branches = _body(_true_branch, on_true), _body(_false_branch, on_false)
    return lax.cond(condition, *branches, on_true.arguments, on_false.arguments, operands)


def if_needed(condition: jax.Array, step: Callable[..., Any], state: Any) -> Any:
    """Return `step(state)` if the condition holds, else `state`: for a step that is dear and rarely needed.

    It is a loop of at most one step. Under `vmap` it runs only if one of the problems needs the step, where a branch
    would always run. It also updates the state in place, where a branch copies what it does not change.
    """
    step = _bound(step)
    return lax.while_loop(_is_needed, _body(_once_body, step), (condition, step.arguments, state))[2]


def _bound(function: Callable[..., Any]) -> Bound:
    return function if isinstance(function, Bound) else Bound(function)


_KEPT: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _kept(owner: Callable[..., Any], key: Hashable, make: Callable[[Callable[[], Any]], Any]) -> Any:
    """Return the same result for the same owner and key. It knows the owner by a weak reference, and dies with it."""
    try:
        made = _KEPT.setdefault(owner, {})
        if key not in made:
            made[key] = make(weakref.ref(owner))
        return made[key]
    except TypeError:  # some callable objects of users have no hash or no weak references
        return make(lambda: owner)


def _body(kind: Callable[..., Any], step: Bound) -> Callable[..., Any]:
    """Return the body of one kind of loop, the same object for the same function and options."""
    options = dict(step.options)  # the body must not keep the arguments alive

    def make(function):
        return kind(lambda *args: function()(*args, **options))

    return _kept(step.function, (kind, step.options), make)


def _scan_body(step):
    def body(carry, x):
        arguments, state = carry
        state, y = step(*arguments, state, x)
        return (arguments, state), y

    return body


def _fori_body(step):
    return lambda i, carry: (carry[0], step(*carry[0], i, carry[1]))


def _while_condition(goes_on):
    return lambda carry: goes_on(*carry[0], carry[2])


def _while_body(step):
    return lambda carry: (*carry[:2], step(*carry[1], carry[2]))


def _is_needed(carry):
    return carry[0]


def _once_body(step):
    def body(carry):
        # XLA moves what only depends on the arguments out of the loop: the barrier ties them to the condition
        needed, arguments = lax.optimization_barrier(carry[:2])
        return needed & False, carry[1], step(*arguments, carry[2])

    return body


def _map_body(one):
    return lambda arguments, x: (arguments, one(*arguments, x))


def _blocks_body(one):
    return lambda arguments, xs: (arguments, jax.vmap(lambda x: one(*arguments, x))(xs))


def _true_branch(branch):
    return lambda mine, others, operands: branch(*mine, *operands)


def _false_branch(branch):
    return lambda others, mine, operands: branch(*mine, *operands)
