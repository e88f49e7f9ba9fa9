"""The one constructor of weight transformations, and how they meet several devices.

A mini-batch gradient is the vector-Jacobian product of the per-item losses with a weight array. A *weight
transformation* maps such an array to another of the same shape: it is an `optax.GradientTransformationExtraArgs` whose
updates are weights, so `optax.chain` composes it. `weight_transformation` builds every one of them and enforces:

1. shape and dtype of the weights are kept, and the state keeps its structure; weights in half precision are computed
   with, and kept in the state, in float32;
2. an item that enters with weight 0 leaves with weight 0 (padding), and no weight that leaves is NaN or infinite;
3. the signals that the transformation reads are listed in `SIGNALS`, keyword-only and required; others are ignored;
   `labels`, and `reference_labels` where references are not the anchors, can stand for `positives` and `negatives`;
4. weights are constants for the backward pass;
5. on a mesh with Explicit axes the transformation sees the whole batch.
"""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_bool, check_floating, check_integer, check_shape
from minibatch_jax._vector import as_index
from minibatch_jax.devices import as_optax, replicate, shard_like
from minibatch_jax.signals import SIGNALS, pair_signals

Weights = Any
State = Any


def uniform_like(losses: jax.Array) -> jax.Array:
    """Return weights 1/B for B losses: where every selection starts.

    Args:
      losses: `[B]`, floating point, B > 0.

    Returns:
      `[B]`, float32 (float64 if JAX runs with x64), with the sharding of the losses.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the losses are not a vector, or are empty.

    Examples:
      >>> uniform_like(jnp.zeros(4)).tolist()
      [0.25, 0.25, 0.25, 0.25]
    """
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    return jnp.full_like(losses, 1 / losses.shape[0], dtype=jnp.zeros(()).dtype)


class KeyState(NamedTuple):
    """State of a transformation that draws at random.

    Attributes:
      rng_key: `[]`, typed PRNG key of the next draw.
    """

    rng_key: jax.Array


def weight_dtype(dtype: Any) -> Any:
    """Return the dtype to compute in: float64 for signals in float64, float32 for all others."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def matrix_of(plan: Any) -> jax.Array:
    """Return the matrix of a plan that is given as the `Plan` of a solver or as the matrix itself."""
    return getattr(plan, "matrix", plan)


def weight_transformation(
    init: Callable[[Any], State], update: Callable[..., tuple[Any, State]], extra_signals: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """Make an optax transformation over weights, one that keeps weights finite, zeros zero and shapes as they are.

    Before `update` runs, non-finite weights become 0, and weights and signals become constants for the backward pass.
    After it, an item that came with weight 0 has weight 0 again, and a weight that is not finite becomes 0. Weights in
    half precision reach `init` and `update` in float32, and are rounded to their dtype after it.

    Args:
      init: `init(weights) -> state`; it must use only shape and dtype of the weights.
      update: `update(weights, state, params=None, *, <signals>, **extra_args) -> (weights, state)`, for one array of
        weights; signals are keyword-only and have no default.
      extra_signals: names of signals that are not in `SIGNALS` (a custom signal has one row for each row of weights).

    Returns:
      A transformation for an array of weights or a dict of them. For a dict, a signal may be a dict with the same keys.

    Raises:
      TypeError: at the call of this function, if the name of a signal is unknown, a signal has a default or
        `**extra_args` is missing. At the call of the transformation's `update`, if a signal is missing or has another
        kind of dtype than `SIGNALS` says.
      ValueError: at the call of the transformation's `update`, if a signal that has a row for each row of the weights
        has another number of rows, one of `[A, M]` another shape than the weights, or if the given `update` changes
        the shape or dtype of the weights or the structure of the state.

    Examples:
      >>> def update(weights, state, params=None, *, losses, **extra_args):
      ...   return jnp.where(losses < 1.0, weights, 0), state
      >>> tx = weight_transformation(lambda weights: optax.EmptyState(), update)
      >>> losses = jnp.array([0.5, 2.0])
      >>> weights = uniform_like(losses)
      >>> tx.update(weights, tx.init(weights), losses=losses)[0].tolist()
      [0.5, 0.0]
    """
    signals = _signals_of(update, extra_signals)
    reads = signals
    if not {"positives", "negatives"}.isdisjoint(signals):  # labels can stand for the two masks
        reads = tuple(dict.fromkeys([*signals, "positives", "negatives", "labels", "reference_labels"]))

    def init_one(weights):
        return _copied(init(replicate(_wide(weights))))

    def update_one(weights, state, params, extra_args):
        dtype, weights = jnp.result_type(weights), _wide(weights)
        clean = replicate(jax.lax.stop_gradient(jnp.where(jnp.isfinite(weights), weights, 0)))
        given = jax.lax.stop_gradient(replicate({name: extra_args[name] for name in reads if name in extra_args}))
        inputs = {**given, **(pair_signals(given, clean.shape) if reads != signals else {})}
        inputs = {name: inputs[name] for name in signals}
        for name, value in inputs.items():
            _check_signal(name, value, clean.shape)
            if name in SIGNALS and SIGNALS[name].dtype == jnp.integer:
                inputs[name] = as_index(jnp.asarray(value))
        new_weights, new_state = update(clean, state, params, **{**extra_args, **inputs})
        _check_kept("weights", clean, new_weights)
        _check_kept("state", state, new_state)
        new_weights = jnp.where((clean == 0) | ~jnp.isfinite(new_weights), 0, jax.lax.stop_gradient(new_weights))
        return _narrow(shard_like(weights, new_weights), dtype), new_state

    def init_fn(weights):
        return jax.tree.map(init_one, weights)

    def update_fn(weights, state, params=None, **extra_args):
        _check_signals([name for name in signals if name not in ("positives", "negatives")], extra_args)
        leaves, structure = jax.tree.flatten(weights)
        if jax.tree_util.treedef_is_leaf(structure):
            return update_one(weights, state, params, extra_args)
        states = structure.flatten_up_to(state)
        own = {name: _split(name, extra_args[name], structure) for name in reads if name in extra_args}
        args = [{**extra_args, **{name: parts[i] for name, parts in own.items()}} for i in range(len(leaves))]
        results = [update_one(w, s, params, a) for w, s, a in zip(leaves, states, args)]
        return structure.unflatten(r[0] for r in results), structure.unflatten(r[1] for r in results)

    return as_optax(init_fn, update_fn)


def _signals_of(update: Callable[..., Any], extra_signals: Sequence[str]) -> tuple[str, ...]:
    parameters = inspect.signature(update).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError("update has no **extra_args, wanted one so that signals of other transformations pass through.")
    signals = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    for signal in signals:
        known = [*SIGNALS, *extra_signals]
        if signal.name not in known:
            hint = _near(signal.name, known, "did you mean {!r}?")
            raise TypeError(f"update asks for the unknown signal {signal.name!r}{hint}; wanted one of {known}.")
        if signal.default is not signal.empty:
            raise TypeError(f"signal {signal.name!r} has a default, wanted none: an optional signal is lost unseen.")
    return tuple(signal.name for signal in signals)


def _check_signals(signals: Sequence[str], given: dict[str, Any]) -> None:
    for name in signals:
        if given.get(name) is None:
            wanted = f"{name!r} ({SIGNALS.get(name, 'an extra signal')})"
            raise TypeError(
                f"update got the signals {sorted(given)}, wanted {wanted}{_near(name, list(given), 'you gave {!r}')}."
            )


def _check_signal(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise unless a signal has the dtype of the table and a row for each row of weights of this shape.

    Columns are checked for `[A, M]` only: scores have one for each class, and losses may be `[B, T]`. A custom
    signal may be anything, and so may what is no array. A cost of pairs (i, i) is a vector; solvers check theirs.
    """
    if name not in SIGNALS or not hasattr(value, "shape"):
        return
    checks = {jnp.floating: check_floating, jnp.integer: check_integer, jnp.bool_: check_bool}
    checks[SIGNALS[name].dtype](name, value)
    axes = SIGNALS[name].shape
    if axes == ("A", "M"):
        check_shape(name, value, shape)
    elif axes[0] == "B":
        check_shape(name, value, (*shape[:1], *value.shape[1:]))


def _near(name: str, candidates: Sequence[str], hint: str) -> str:
    close = difflib.get_close_matches(name, candidates, n=1)
    return f" ({hint.format(close[0])})" if close else ""


def _check_kept(what: str, old: Any, new: Any) -> None:
    def describe_one(x):
        aval = jax.typeof(x)
        return f"{aval.dtype}{list(aval.shape)}{' weakly typed' if aval.weak_type else ''}"

    def describe(tree):
        return jax.tree.map(describe_one, tree)

    if jax.tree.structure(old) != jax.tree.structure(new) or describe(old) != describe(new):
        raise ValueError(f"update changed the {what} to {describe(new)}, wanted {describe(old)} as given.")


def _split(name: str, signal: Any, structure: Any) -> list[Any]:
    """Return the signal of each leaf of the weights: its entry in a dict of signals, or the one signal for all."""
    if not isinstance(signal, dict):
        return [signal] * structure.num_leaves
    try:
        return structure.flatten_up_to(signal)
    except ValueError as error:
        raise ValueError(f"signal {name!r} has the keys {list(signal)}, wanted those of the weights.") from error


def _copied(state: State) -> State:
    """Copy the arrays of a new state, so that each buffer is owned once and a step may donate the state."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True) if isinstance(x, jax.Array) else x, state)


def _wide(weights: Any) -> jax.Array:
    """Return the weights in float32 at least, as an array that is not weakly typed, as `jnp.full(3, 1 / 3)` is."""
    weights = jnp.asarray(weights)
    is_half = jnp.issubdtype(weights.dtype, jnp.floating) and weights.dtype.itemsize < 4
    return weights.astype(jnp.float32 if is_half else weights.dtype)


def _narrow(weights: jax.Array, dtype: Any) -> jax.Array:
    """Return the weights in a dtype, at most its largest number."""
    if weights.dtype == dtype:
        return weights
    numbers = jnp.finfo(dtype)
    return jnp.clip(weights, float(numbers.min), float(numbers.max)).astype(dtype)
