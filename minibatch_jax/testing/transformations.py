"""Checks of a weight transformation: the laws that every transformation of this library keeps.

`check_transformation` runs all checks on one transformation. `CHECKS` holds them by name, so that a test runner can
show each as a test of its own. Most checks compare exactly what two programs return: eager and compiled, one device and
many, a batch with garbage in its padding and one without.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax.devices import across
from minibatch_jax.signals import SIGNALS
from minibatch_jax.testing._laws import (
    ROWS,
    export_for_accelerators,
    is_float,
    law,
    make_mesh,
    require,
    require_same,
    require_same_shapes,
    stack_trees,
)

PAIRWISE = frozenset(name for name, signal in SIGNALS.items() if signal.pairwise)
"""Signals with one row and one column for each item."""
REPLICATED = frozenset(name for name, signal in SIGNALS.items() if signal.replicated)
"""Signals that every device holds whole."""
OF_DOMAINS = frozenset(name for name, signal in SIGNALS.items() if signal.shape == ("K",))
"""Signals with one entry for each domain; where the items are domains, one that is padding has such entries, too."""
BATCHES = 4
"""Batches in a row that the checks of the sum of the weights see."""


@dataclass(frozen=True)
class Case:
    """A transformation and data to run it on.

    Attributes:
      make: returns the transformation, with arguments that keep some of the items and drop others.
      signals: `signals(rng)` draws the signals: name -> numpy array, float32, int32 or bool, with one row per item.
      weights: `weights(rng)` draws the incoming weights, `[B]` or `[A, M]`, float32, without zeros. None for those that
        `value_and_grad` starts with: 1 for each of the `distances`, 1/(B0 B1) for each `cost`, else 1/B, where B is
        the number of rows of the signals, or `ROWS` without signals.
      lowers_mass: True if the sum of the weights may fall (filters and miners; of four batches, one must show it),
        False if it stays (couplings, `normalize`), None if it stays in expectation only (unbiased samples).
      tolerance: relative difference allowed between one device and many, and with other padding; 0 demands equality,
        which sums over the batch do not reach, as another order rounds otherwise.
      pairwise: names of the signals that have a column, too, for each item, or for each reference of `[A, M]` weights.
    """

    make: Callable[[], optax.GradientTransformationExtraArgs]
    signals: Callable[[np.random.Generator], Mapping[str, np.ndarray]]
    weights: Callable[[np.random.Generator], np.ndarray] | None = None
    lowers_mass: bool | None = True
    tolerance: float = 0.0
    pairwise: frozenset[str] = PAIRWISE


def draw(case: Case, seed: int = 0) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return weights and signals of one batch of a case.

    Args:
      case: the transformation and its data.
      seed: of the random generator that the case draws from.

    Returns:
      The weights, `[B]` or `[A, M]`, and name -> signal.

    Raises:
      ValueError: if a signal has not as many rows as the weights.
    """
    rng = np.random.default_rng(seed)
    weights = None if case.weights is None else case.weights(rng)
    signals = {name: jnp.asarray(value) for name, value in case.signals(rng).items()}
    weights = jnp.asarray(_first_weights(signals) if weights is None else weights)
    for name, value in signals.items():
        if name not in REPLICATED and value.shape[:1] != weights.shape[:1]:
            raise ValueError(
                f"signal {name!r} has shape {list(value.shape)}, wanted {len(weights)} rows, as many as the weights."
            )
    return weights, signals


def _first_weights(signals: Mapping[str, jax.Array]) -> np.ndarray:
    if "distances" in signals:
        return np.ones(signals["distances"].shape, np.float32)
    rows = next((len(value) for name, value in signals.items() if name not in REPLICATED), ROWS)
    shape = signals["cost"].shape if "cost" in signals else (rows,)
    return np.full(shape, 1 / math.prod(shape), np.float32)


def run(case: Case, weights: jax.Array, signals: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
    """Initialize and update once, compiled; one case compiles once in a process.

    Args:
      case: the transformation and its data.
      weights: `[B]` or `[A, M]`, as `draw` returns them.
      signals: name -> signal, as `draw` returns them.

    Returns:
      The new weights and the new state.
    """
    init, update = _compiled(case)
    return update(weights, init(weights), dict(signals))


def _starts(case: Case) -> dict[str, Any]:
    """The states from which laws of one update are checked, and how a message names them.

    The warm state has seen another batch and the batch of the check itself, with all its ids.
    """
    init, update = _compiled(case)
    start = warm = init(draw(case)[0])
    if not jax.tree.leaves(start):
        return {"": start}
    for seed in (1, 0):
        weights, signals = draw(case, seed)
        warm = update(weights, warm, signals)[1]
    return {"from the first state, ": start, "from the state after two batches, ": warm}


@functools.cache
def _compiled(case: Case) -> tuple[Callable[..., Any], Callable[..., Any]]:
    tx = case.make()
    return jax.jit(tx.init), jax.jit(lambda w, s, x: tx.update(w, s, **x))


def _named(result: tuple[Any, Any]) -> dict[str, Any]:
    return {"weights": result[0], "state": result[1]}


def _padding(size: int) -> np.ndarray:
    return np.arange(size) >= size * 3 // 4


def _bad(size: int) -> np.ndarray:
    return np.isin(np.arange(size), [1, size * 3 // 8])


def _outside(weights: jax.Array, picked: Callable[[int], np.ndarray]) -> np.ndarray:
    """Where neither the row nor the column of a weight is picked."""
    mask = np.ones(weights.shape, bool)
    for axis, size in enumerate(weights.shape):
        mask &= np.expand_dims(~picked(size), [other for other in range(weights.ndim) if other != axis])
    return mask


def _zero(weights: jax.Array, picked: Callable[[int], np.ndarray]) -> jax.Array:
    return jnp.asarray(np.where(_outside(weights, picked), np.asarray(weights), 0).astype(weights.dtype))


def _replace(
    case: Case, weights: jax.Array, signals: Mapping[str, jax.Array], picked: Callable[[int], np.ndarray], fill: float
) -> dict[str, jax.Array]:
    """Overwrite picked rows (and columns) of the signals: with `fill`, or the first entry where they hold no floats."""
    rows, columns = picked(len(weights)), picked(weights.shape[-1])

    def overwrite(name, value):
        value = np.array(value)
        new = fill if np.issubdtype(value.dtype, np.floating) else value.flat[0]
        if weights.ndim == 2 and SIGNALS.get(name) == SIGNALS["reference_labels"]:
            value[columns] = new
        elif name not in REPLICATED or (name in OF_DOMAINS and len(value) == len(weights)):
            value[rows] = new
        if name in case.pairwise and value.shape[1:2] == columns.shape:
            value[:, columns] = new
        return jnp.asarray(value)

    return {name: overwrite(name, value) for name, value in signals.items()}


@law("Compiled, a transformation gives what it gives eagerly, and compiles once for all batches of one shape.")
def check_jit(case: Case) -> None:
    """Check that `jit` gives what eager execution gives, in one trace for four batches.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if the results differ or the update is traced again.
    """
    tx, traces = case.make(), []

    @jax.jit
    def step(weights, state, signals):
        traces.append(None)
        return tx.update(weights, state, **signals)

    weights, signals = draw(case)
    state = tx.init(weights)
    eager = tx.update(weights, state, **signals)
    for seed in range(4):
        weights, signals = draw(case, seed)
        kept, state = step(weights, state, signals)
        if seed == 0:
            require_same(_named((kept, state)), _named(eager), max(case.tolerance, 1e-6))
    require(len(traces) == 1, f"traced {len(traces)} times, wanted once")


@law("The weights keep their shape and dtype, and the state keeps structure, shapes and dtypes from init on.")
def check_structure(case: Case) -> None:
    """Check shapes and dtypes of the weights and of the state, before and after an update.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if a structure, shape or dtype changes.
    """
    tx = case.make()
    weights, signals = draw(case)
    shapes = jax.eval_shape(tx.init, weights)
    kept, state = run(case, weights, signals)
    require_same_shapes(kept, weights)
    require_same_shapes(tx.init(weights), shapes)
    require_same_shapes(state, shapes)


@law("Weights are not negative, something is kept, and the sum of the weights changes only as declared.")
def check_mass(case: Case) -> None:
    """Check the sign and the sum of the new weights of four batches, with the state carried on.

    Args:
      case: the transformation and its data; `lowers_mass` says what the sum may do.

    Raises:
      AssertionError: if a weight is negative, all are zero, or the sum grows, or changes though it must not, or if no
        weight of any batch changes though the sum may fall.
    """
    init, update = _compiled(case)
    state, changed = init(draw(case)[0]), False
    for seed in range(BATCHES):
        weights, signals = draw(case, seed)
        kept, state = update(weights, state, signals)
        kept, before, where = np.asarray(kept), np.asarray(weights), f"in batch {seed + 1} of {BATCHES}, "
        changed |= bool(np.any(kept != before))
        require(np.all(kept >= 0), f"{where}got the weight {kept.min()}")
        require(kept.sum() > 0, f"{where}got only zeros")
        sums = f"{where}got the sum {kept.sum()} from {before.sum()}"
        if case.lowers_mass:
            require(kept.sum() <= before.sum() * (1 + 1e-5), f"{sums}, wanted at most that")
        elif case.lowers_mass is False:
            require(np.isclose(kept.sum(), before.sum(), rtol=1e-4, atol=0), f"{sums}, wanted the same")
    require(
        changed or not case.lowers_mass,
        f"no weight changed in {BATCHES} batches: choose arguments that drop something, or lowers_mass=False",
    )


@law("Under vmap, every batch gets what it gets alone, with its own state and random numbers.")
def check_vmap(case: Case) -> None:
    """Check `vmap` over three batches, each with a key of its own if the state has a field `rng_key`.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if a batch gets other weights or another state than alone.
    """

    def seeded(state, seed):
        has_key = optax.tree.get_all_with_path(state, "rng_key")
        return optax.tree.set(state, rng_key=jax.random.key(seed)) if has_key else state

    tx = case.make()
    batches = [draw(case, seed) for seed in range(3)]
    states = [seeded(tx.init(weights), seed) for seed, (weights, _) in enumerate(batches)]
    expected = [_named(_compiled(case)[1](w, s, x)) for (w, x), s in zip(batches, states)]
    weights, signals = stack_trees(*batches)
    actual = jax.jit(jax.vmap(lambda w, s, x: tx.update(w, s, **x)))(weights, stack_trees(*states), signals)
    require_same(_named(actual), stack_trees(*expected), max(case.tolerance, 1e-6))


@law("Inside lax.scan, a transformation does what it does in a Python loop.")
def check_scan(case: Case) -> None:
    """Check `lax.scan` over three batches against a loop.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if weights or the last state differ.
    """
    tx = case.make()
    batches = [draw(case, seed) for seed in range(3)]
    state = start = tx.init(batches[0][0])
    expected = []
    for weights, signals in batches:
        kept, state = _compiled(case)[1](weights, state, signals)
        expected.append(kept)

    def step(carry, batch):
        kept, carry = tx.update(batch[0], carry, **batch[1])
        return carry, kept

    last, actual = jax.lax.scan(step, start, stack_trees(*batches))
    require_same(_named((actual, last)), _named((np.stack(expected), state)), max(case.tolerance, 1e-6))


@law("Weights are constants for the backward pass.")
def check_gradient(case: Case) -> None:
    """Check that the gradients for the signals and for the incoming weights are zero.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if a gradient is not zero.
    """
    tx = case.make()
    weights, signals = draw(case)
    floats = {k: v for k, v in signals.items() if is_float(v)}

    def total(floats, weights):
        kept: Any = tx.update(weights, tx.init(weights), **(signals | floats))[0]
        return jnp.sum(kept * jnp.cos(jnp.arange(kept.size, dtype=kept.dtype)).reshape(kept.shape))

    for gradient in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(floats, weights)):
        np.testing.assert_array_equal(gradient, 0)


@law("An item that enters with weight 0 leaves with weight 0, and its signals change nothing for the others.")
def check_padding(case: Case, fill: float) -> None:
    """Check that the last quarter of the items, with weight 0, is nothing, whatever its signals are.

    Of weights `[A, M]`, the last quarter of the rows and of the columns are padding. This is checked from the first
    state and from one that has seen two batches, the second of which is the same without padding.

    Args:
      case: the transformation and its data.
      fill: what overwrites the float signals of these items; may be NaN or infinite. Other signals get the first entry
        that they have.

    Raises:
      AssertionError: if such an item gets weight, or the signals of such items change weights or state.
    """
    weights, signals = draw(case)
    weights, replaced = _zero(weights, _padding), _replace(case, weights, signals, _padding, fill)
    update = _compiled(case)[1]
    for start, state in _starts(case).items():
        found, wanted = update(weights, state, replaced), update(weights, state, signals)
        require(np.all(np.asarray(found[0])[np.asarray(weights) == 0] == 0), f"{start}padding got weight")
        where = f"{start}with the signals of the padding {fill:g}, "
        require_same(_named(found), _named(wanted), case.tolerance, where)


@law("An item with a signal that is not finite is never kept, and spoils neither the other weights nor the state.")
def check_non_finite_signals(case: Case, fill: float) -> None:
    """Check a batch in which two items have signals that are not finite, and a clean batch after it.

    This is checked from the first state and from one that has seen two batches, the second of which is the clean one.

    Args:
      case: the transformation and its data.
      fill: NaN or an infinity, which overwrites the float signals of two items.

    Raises:
      AssertionError: if a weight is not finite, such an item is kept, or nothing is kept where the clean batch is.
    """
    weights, signals = draw(case)
    spoilt, bad = _replace(case, weights, signals, _bad, fill), ~_outside(weights, _bad)
    update = _compiled(case)[1]
    for start, state in _starts(case).items():
        some = np.asarray(update(weights, state, signals)[0]).sum() > 0
        kept, state = update(weights, state, spoilt)
        where = f"{start}with two signals {fill:g}, "
        require(np.all(np.isfinite(kept)), f"{where}got a weight that is not finite")
        if any(is_float(v) and k not in REPLICATED for k, v in signals.items()):
            require(np.all(np.asarray(kept)[bad] == 0), f"{where}an item with such a signal got weight")
            require(np.asarray(kept).sum() > 0 or not some, f"{where}got only zeros")
        again, _ = update(weights, state, signals)
        require(np.all(np.isfinite(again)), f"{where}got a weight that is not finite in the next batch")
        require(np.asarray(again).sum() > 0 or not some, f"{where}got only zeros in the next batch")


@law("An incoming weight that is not finite counts as 0.")
def check_non_finite_weights(case: Case) -> None:
    """Check that NaN weights give what zeros in their places give, from the first state and after two batches.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if weights or state differ.
    """
    weights, signals = draw(case)
    spoilt, zeroed = jnp.where(_outside(weights, _bad), weights, jnp.nan), _zero(weights, _bad)
    update = _compiled(case)[1]
    for start, state in _starts(case).items():
        found, wanted = update(spoilt, state, signals), update(zeroed, state, signals)
        require_same(_named(found), _named(wanted), case.tolerance, f"{start}with two weights NaN, ")


@law("Signals may be bfloat16 or float64; the weights keep their own dtype and stay finite.")
def check_dtype(case: Case, dtype: str) -> None:
    """Check signals of another floating-point dtype.

    Args:
      case: the transformation and its data.
      dtype: `bfloat16`, with float32 weights, or `float64`, with float64 weights and x64 enabled.

    Raises:
      AssertionError: if the dtype of the weights changes, a weight is not finite, or all are zero.
    """
    with jax.enable_x64(dtype == "float64"):
        tx = case.make()
        weights, signals = draw(case)
        weights = weights.astype("float64" if dtype == "float64" else "float32")
        cast = {k: v.astype(dtype) if is_float(v) else v for k, v in signals.items()}
        kept, _ = jax.jit(lambda w, x: tx.update(w, tx.init(w), **x))(weights, cast)
        require(kept.dtype == weights.dtype, f"got weights of dtype {kept.dtype}, wanted {weights.dtype}")
        require(np.all(np.isfinite(kept)), "got a weight that is not finite")
        require(np.asarray(kept).sum() > 0, "got only zeros")


@law("A step may donate the state: each of its buffers is owned once, and none belongs to the factory or its caller.")
def check_donation(case: Case) -> None:
    """Check two runs of two steps that donate the state, both begun by one transformation.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if a buffer of the state is used twice or is gone when the second run begins, or results differ.
    """
    tx = case.make()
    weights, signals = draw(case)
    expected = run(case, weights, signals)
    step = jax.jit(lambda w, s, x: tx.update(w, s, **x), donate_argnums=1)
    for _ in range(2):
        found = step(weights, tx.init(weights), signals)
        require_same(_named(found), _named(expected), case.tolerance)
        step(weights, found[1], signals)


@law("With `across`, under shard_map and pmap, all devices together select what one device selects.")
def check_shard_map_and_pmap(case: Case) -> None:
    """Check `shard_map` and `pmap` over as many devices as divide the rows, against one device.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if weights or state differ.
    """
    weights, signals = draw(case)
    expected = run(case, weights, signals)
    sharded = across("data", case.make())
    state = sharded.init(weights)

    def step(w, s, x):
        return sharded.update(w, s, **x)

    mesh = make_mesh(len(weights), AxisType.Auto)
    specs = {name: P() if name in REPLICATED else P("data") for name in signals}
    shard = jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P(), specs), out_specs=(P("data"), P()))
    found = jax.jit(shard)(weights, state, signals)
    require_same(_named(found), _named(expected), case.tolerance, "under shard_map, ")

    def split(x):
        return x.reshape(mesh.size, -1, *x.shape[1:])

    axes = {name: None if name in REPLICATED else 0 for name in signals}
    rows = {name: x if axes[name] is None else split(x) for name, x in signals.items()}
    mapped = jax.pmap(
        step, axis_name="data", in_axes=(0, None, axes), out_axes=(0, None), devices=list(mesh.devices.flat)
    )
    kept, new_state = mapped(split(weights), state, rows)
    found = kept.reshape(weights.shape), new_state
    require_same(_named(found), _named(expected), case.tolerance, "under pmap, ")


@law("Under jit, a batch that is sharded over devices is selected from as on one device.")
def check_sharded_jit(case: Case, axis_type: AxisType) -> None:
    """Check `jit` of a batch sharded by rows over as many devices as divide the rows, against one device.

    Args:
      case: the transformation and its data.
      axis_type: of the mesh axis, `Auto` or `Explicit`; with `Explicit` the new weights must be sharded by rows, too.

    Raises:
      AssertionError: if weights or state differ, or the weights lose their sharding.
    """
    tx = case.make()
    weights, signals = draw(case)
    expected = run(case, weights, signals)
    mesh = make_mesh(len(weights), axis_type)
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    placed = {k: jax.device_put(v, whole if k in REPLICATED else rows) for k, v in signals.items()}
    sharded_weights, state = jax.device_put(weights, rows), jax.device_put(tx.init(weights), whole)
    kept, new_state = jax.jit(lambda w, s, x: tx.update(w, s, **x))(sharded_weights, state, placed)
    require_same(_named((kept, new_state)), _named(expected), case.tolerance)
    if axis_type is AxisType.Explicit:
        spec = jax.typeof(kept).sharding.spec
        require(spec[0] == "data", f"got weights with the sharding {spec}, wanted rows over 'data'")


@law("A transformation lowers for TPU, CUDA and ROCm, without callbacks to the host.")
def check_lowering(case: Case) -> None:
    """Check that init and update are exported for TPU, CUDA and ROCm; none of them needs to be there.

    Args:
      case: the transformation and its data.

    Raises:
      AssertionError: if the program cannot be exported for one of them.
    """
    tx = case.make()
    export_for_accelerators(jax.jit(lambda w, x: tx.update(w, tx.init(w), **x)[0]), draw(case))


CHECKS: dict[str, Callable[[Case], None]] = {
    "structure": check_structure,
    "jit": check_jit,
    "mass": check_mass,
    "vmap": check_vmap,
    "scan": check_scan,
    "gradient": check_gradient,
    **{
        f"padding {fill:g}": functools.partial(check_padding, fill=fill)
        for fill in (0.0, 1e6, -1e6, math.nan, math.inf, -math.inf)
    },
    **{
        f"signals {fill:g}": functools.partial(check_non_finite_signals, fill=fill)
        for fill in (math.nan, math.inf, -math.inf)
    },
    "weights nan": check_non_finite_weights,
    "donation": check_donation,
    **{dtype: functools.partial(check_dtype, dtype=dtype) for dtype in ("bfloat16", "float64")},
    "shard_map and pmap": check_shard_map_and_pmap,
    **{
        f"sharded jit, {axis_type.name}": functools.partial(check_sharded_jit, axis_type=axis_type)
        for axis_type in (AxisType.Auto, AxisType.Explicit)
    },
    "lowering": check_lowering,
}
"""Name -> check of a `Case`, in the order in which `check_transformation` runs them."""


def check_transformation(
    make: Callable[[], optax.GradientTransformationExtraArgs],
    signals: Callable[[np.random.Generator], Mapping[str, np.ndarray]],
    *,
    weights: Callable[[np.random.Generator], np.ndarray] | None = None,
    lowers_mass: bool | None = True,
    tolerance: float = 0.0,
    pairwise: frozenset[str] = PAIRWISE,
) -> None:
    """Run every check of `CHECKS` on a transformation and stop at the first law that is broken.

    The checks use the largest number of devices at hand that divides the number of rows. On a CPU, call
    `jax.config.update("jax_num_cpu_devices", 8)` first, so that one device is compared with eight.

    Args:
      make: returns the transformation, with arguments that keep some of the items and drop others.
      signals: `signals(rng)` draws the signals: name -> numpy array, float32, int32 or bool, with one row per item;
        16 rows are a good number, fewer than 8 too few. Signals of pairs `[A, M]` may be rectangular.
      weights: `weights(rng)` draws the incoming weights, `[B]` or `[A, M]`, float32, without zeros. None for those that
        `value_and_grad` starts with: 1 for each of the `distances`, 1/(B0 B1) for each `cost`, else 1/B, where B is
        the number of rows of the signals, or `ROWS` without signals.
      lowers_mass: True if the sum of the weights may fall (filters and miners; of four batches, one must show it),
        False if it stays (couplings, `normalize`), None if it stays in expectation only (unbiased samples).
      tolerance: relative difference allowed between one device and many, and with other padding; 0 demands equality,
        which sums over the batch do not reach, as another order rounds otherwise.
      pairwise: names of the signals that have a column, too, for each item, or for each reference of `[A, M]` weights.

    Returns:
      None.

    Raises:
      AssertionError: if a law is broken; the first sentence of the message is the law.
      ValueError: if a signal has not as many rows as the weights.

    Examples:
      >>> import numpy as np
      >>> from minibatch_jax import weight_transformation
      >>> def update(weights, state, params=None, *, losses, **extra_args):
      ...   return jnp.where(jnp.isfinite(losses) & (losses < 2), weights, 0), state
      >>> check_transformation(
      ...   lambda: weight_transformation(lambda weights: optax.EmptyState(), update),
      ...   lambda rng: {"losses": rng.gamma(2.0, size=16).astype(np.float32)},
      ... )
    """
    case = Case(make, signals, weights, lowers_mass, tolerance, pairwise)
    draw(case)
    for check in CHECKS.values():
        check(case)
