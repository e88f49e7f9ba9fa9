"""Checks of a sampler: the laws that every sampler of this library keeps.

`check_sampler` runs all checks on one sampler. `SAMPLER_CHECKS` holds them by name, so that a test runner can show each
as a test of its own. Most checks compare exactly what two programs return: eager and compiled, a loop and a scan, one
device and many, a run that was saved and restored and one that was not.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax.sampling import Rows, Sampler
from minibatch_jax.testing._laws import (
    export_for_accelerators,
    is_float,
    law,
    leaf_name,
    make_mesh,
    require,
    require_same,
    require_same_shapes,
    stack_trees,
)

STEPS = 6
"""Steps of the runs that are compared with one another."""
MANY = 1000
"""Steps that are compiled once."""
NON_FINITE = (np.nan, np.inf, -np.inf)

Arrays = Callable[[np.random.Generator], Mapping[str, Any]]
Signals = Callable[[np.random.Generator, Rows], Mapping[str, Any]]


def _no_arrays(rng: np.random.Generator) -> Mapping[str, Any]:
    return {}


def _no_signals(rng: np.random.Generator, rows: Rows) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class SamplerCase:
    """A sampler and data to run it on.

    Attributes:
      make: returns the sampler.
      num_examples: N, rows of the data set; more than the rows of a batch and than the classes.
      arrays: `arrays(rng)` draws what `init` takes by name.
      signals: `signals(rng, rows)` draws what `update` takes by name about these rows, whatever rows of the data set
        they are: arrays with one row for each row of the batch, or other arrays and trees of arrays.
      any_order: whether updates about different rows lead to one state in any order, also after later draws.
      sharded_arrays: whether `init` takes arrays that are sharded by rows over devices.
      tolerance: relative difference allowed between two programs that compute the same; 0 demands equality.
    """

    make: Callable[[], Sampler]
    num_examples: int
    arrays: Arrays = _no_arrays
    signals: Signals = _no_signals
    any_order: bool = False
    sharded_arrays: bool = True
    tolerance: float = 0.0


@functools.cache
def _compiled(case: SamplerCase) -> Sampler:
    return _compile(case.make())


def _compile(sampler: Sampler) -> Sampler:
    update = jax.jit(lambda state, rows, signals: sampler.update(state, rows, **signals))
    return Sampler(
        jax.jit(sampler.init), jax.jit(sampler.sample), lambda state, rows, **signals: update(state, rows, signals)
    )


def _arrays(case: SamplerCase) -> dict[str, Any]:
    return {name: jax.tree.map(jnp.asarray, value) for name, value in case.arrays(np.random.default_rng(0)).items()}


def _signals(case: SamplerCase, rng: np.random.Generator, rows: Rows) -> dict[str, Any]:
    on_host = Rows(np.asarray(rows.indices), np.asarray(rows.weights))  # pyright: ignore[reportArgumentType]
    return {name: jax.tree.map(jnp.asarray, value) for name, value in case.signals(rng, on_host).items()}


def _start(case: SamplerCase, seed: int = 0) -> Any:
    return _compiled(case).init(jax.random.key(seed), **_arrays(case))


def _run(
    case: SamplerCase, sampler: Sampler, state: Any, steps: int, place: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[list[Rows], list[dict[str, Any]], Any]:
    """Draw and feed back; return the rows, the signals, and the last state. `place` puts the signals on devices."""
    rng, drawn, fed = np.random.default_rng(1), [], []
    for _ in range(steps):
        rows, state = sampler.sample(state)
        signals = _signals(case, rng, rows)
        state = sampler.update(state, rows, **place(signals))
        drawn.append(rows)
        fed.append(signals)
    return drawn, fed, state


@functools.cache
def _expected(case: SamplerCase) -> tuple[list[Rows], list[dict[str, Any]], Any]:
    """The run that the others are compared with: compiled functions in a loop on one device."""
    return _run(case, _compiled(case), _start(case), STEPS, dict)


def _named(rows: list[Rows] | Rows, state: Any) -> dict[str, Any]:
    return {"rows": rows, "state": state}


def _one_row_each(value: Any, rows: Rows) -> bool:
    return hasattr(value, "shape") and value.shape[:1] == rows.indices.shape


def _overwrite(signals: Mapping[str, Any], rows: Rows, picked: np.ndarray, fill: float) -> dict[str, Any]:
    """Overwrite the floats of the picked rows; those of signals that are not about rows if all rows are picked."""

    def overwrite(value):
        if not is_float(value):
            return value
        if _one_row_each(value, rows):
            return jnp.asarray(np.where(picked.reshape(-1, *[1] * (value.ndim - 1)), fill, value).astype(value.dtype))
        return jnp.full_like(value, fill) if picked.all() else value

    return {name: jax.tree.map(overwrite, value) for name, value in signals.items()}


def _check_rows(case: SamplerCase, rows: Rows, where: str) -> None:
    indices, weights = np.asarray(rows.indices), np.asarray(rows.weights)
    require(indices.dtype == np.int32, f"{where}the indices have dtype {indices.dtype}, wanted int32")
    require(weights.dtype == np.float32, f"{where}the weights have dtype {weights.dtype}, wanted float32")
    shapes = list(indices.shape), list(weights.shape)
    require(indices.ndim == 1 and shapes[0] == shapes[1], f"{where}got the shapes {shapes}, wanted twice [b]")
    outside = indices[(indices < -1) | (indices >= case.num_examples)]
    require(not outside.size, f"{where}got the indices {outside[:5]}, wanted some in [-1, {case.num_examples})")
    padding = indices < 0
    require(np.all(weights[padding] == 0), f"{where}padding got weight")
    require(np.all(weights[~padding] > 0), f"{where}a row has the weight {weights[~padding].min(initial=1)}")
    total = float(weights.sum(dtype=np.float64))
    require(padding.all() or abs(total - 1) < 1e-5, f"{where}the weights sum to {total}, wanted 1")


def _has_nan(tree: Any) -> list[str]:
    return [
        leaf_name(path)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating) and np.isnan(np.asarray(leaf)).any()
    ]


@law("The state is a tree of arrays that keeps structure, shapes and dtypes through init, sample and update.")
def check_structure(case: SamplerCase) -> None:
    """Check the state after `init`, `sample` and `update`, eager and as `jax.eval_shape` sees it.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a leaf is no array, or a structure, shape or dtype changes.
    """
    sampler, arrays = case.make(), _arrays(case)
    first = sampler.init(jax.random.key(0), **arrays)
    for path, leaf in jax.tree.leaves_with_path(first):
        require(isinstance(leaf, jax.Array), f"state.{leaf_name(path)} is a {type(leaf).__name__}, wanted a jax.Array")
    require_same_shapes(jax.eval_shape(sampler.init, jax.random.key(0), **arrays), first)
    rows, sampled = jax.eval_shape(sampler.sample, first)
    require_same_shapes(sampled, first)
    drawn = Rows(*(jnp.zeros(x.shape, x.dtype) for x in rows))
    signals = _signals(case, np.random.default_rng(1), drawn)
    updated = jax.eval_shape(lambda state, signals: sampler.update(state, drawn, **signals), first, signals)
    require_same_shapes(updated, first)


@law("A batch has int32 indices in [-1, N) and float32 weights that sum to 1 and are 0 on padding, without any signal.")
def check_rows(case: SamplerCase) -> None:
    """Check the rows of some batches that are drawn before anything is fed back, and of some after.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a dtype, shape, index or weight is wrong, or a sampler of one row each draws none at all.
    """
    sampler, state = _compiled(case), _start(case)
    found = 0
    for step in range(STEPS):
        rows, state = sampler.sample(state)
        _check_rows(case, rows, f"in draw {step + 1} without feedback, ")
        found += int(np.sum(np.asarray(rows.indices) >= 0))
    require(found, f"got only padding in {STEPS} draws")
    for step, rows in enumerate(_run(case, sampler, state, 4 * STEPS, dict)[0]):
        _check_rows(case, rows, f"in step {step + 1} with feedback, ")


@law("With x64 enabled, state and rows have the dtypes that they have without.")
def check_x64(case: SamplerCase) -> None:
    """Check the state of `init`, and state and rows of some steps, with x64 against those without.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a shape or dtype differs, or a batch is wrong.
    """
    drawn, _, last = _expected(case)
    with jax.enable_x64(True):
        found, _, state = _run(case, _compiled(case), _start(case), 2, dict)
        require_same_shapes(_named(found[0], state), _named(drawn[0], last))
        _check_rows(case, found[-1], "")


@law("The three functions are pure: called twice they give the same, and compiled what they give eagerly.")
def check_pure(case: SamplerCase) -> None:
    """Check two eager calls, and an eager against a compiled one.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if results differ.
    """
    sampler, arrays = case.make(), _arrays(case)
    runs = []
    for _ in range(2):
        drawn, _, state = _run(case, sampler, sampler.init(jax.random.key(0), **arrays), 2, dict)
        runs.append(_named(drawn, state))
    require_same(runs[1], runs[0], 0.0, "called again, ")
    drawn, _, state = _run(case, _compiled(case), _start(case), 2, dict)
    require_same(_named(drawn, state), runs[0], case.tolerance, "compiled, ")


@law("One compiled step serves a whole run.")
def check_compiles_once(case: SamplerCase) -> None:
    """Check that many steps of sample and update are traced once, and that their rows and the last state are sound.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a step is traced again, a batch is wrong or the state has a NaN.
    """
    sampler, traces = case.make(), []

    @jax.jit
    def feed(state, rows, signals):
        traces.append(None)
        return sampler.sample(sampler.update(state, rows, **signals))

    state, rng = _start(case), np.random.default_rng(1)
    rows, state = _compiled(case).sample(state)
    for step in range(MANY):
        rows, state = feed(state, rows, _signals(case, rng, rows))
        _check_rows(case, rows, f"in step {step + 1}, ")
    require(len(traces) == 1, f"traced {len(traces)} times in {MANY} steps, wanted once")
    require(not _has_nan(state), f"after {MANY} steps there is a NaN in {_has_nan(state)}")


@law("Inside lax.scan, a sampler does what it does in a Python loop.")
def check_scan(case: SamplerCase) -> None:
    """Check `lax.scan` over some steps against a loop.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if rows or the last state differ.
    """
    sampler = case.make()
    drawn, fed, last = _expected(case)

    def step(state, signals):
        rows, state = sampler.sample(state)
        return sampler.update(state, rows, **signals), rows

    scan = jax.jit(lambda state, signals: jax.lax.scan(step, state, signals, length=STEPS))
    state, rows = scan(_start(case), stack_trees(*fed))
    require_same(_named(rows, state), _named(stack_trees(*drawn), last), case.tolerance)


@law("A run that is saved as numbers, and restored by a new process, goes on to the same rows.")
def check_restored(case: SamplerCase) -> None:
    """Check a run whose state goes through numpy in its middle, into the structure of a new sampler.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if rows or the last state differ from those of an uninterrupted run.
    """
    expected, fed, last = _expected(case)
    sampler, state, drawn = _compiled(case), _start(case), []
    for step, signals in enumerate(fed):
        if step == STEPS // 2:
            saved = [np.array(_key_data(leaf)) for leaf in jax.tree.leaves(state)]
            made = case.make()
            target, structure = jax.tree.flatten(made.init(jax.random.key(5), **_arrays(case)))
            state = structure.unflatten(_as_leaf(leaf, numbers) for leaf, numbers in zip(target, saved))
            sampler = _compile(made)
        rows, state = sampler.sample(state)
        state = sampler.update(state, rows, **signals)
        drawn.append(rows)
    require_same(_named(drawn, state), _named(expected, last), case.tolerance)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_leaf(like: jax.Array, numbers: np.ndarray) -> jax.Array:
    array = jnp.asarray(numbers)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if _is_key(like) else array


@law("Under vmap over keys, every sampler draws what it draws alone.")
def check_vmap(case: SamplerCase) -> None:
    """Check `vmap` over three keys of init, sample, update and sample again.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if rows or states differ from those of each key alone.
    """
    sampler, arrays = case.make(), _arrays(case)

    def first(key):
        return sampler.sample(sampler.init(key, **arrays))

    def second(state, rows, signals):
        return sampler.sample(sampler.update(state, rows, **signals))

    alone, rng, fed = _compiled(case), np.random.default_rng(1), []
    expected = []
    for seed in range(3):
        rows, state = alone.sample(_start(case, seed))
        fed.append(_signals(case, rng, rows))
        then = alone.sample(alone.update(state, rows, **fed[-1]))
        expected.append((rows, then))
    keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
    rows, state = jax.jit(jax.vmap(first))(keys)
    found = rows, jax.jit(jax.vmap(second))(state, rows, stack_trees(*fed))
    require_same(found, stack_trees(*expected), max(case.tolerance, 1e-6))


@law("A step may donate the state: each of its buffers is owned once, and none belongs to the caller of init.")
def check_donation(case: SamplerCase) -> None:
    """Check two runs that donate the state at every step, begun with one key and the same arrays.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a buffer is used twice or is gone when the second run begins, or results differ.
    """
    sampler, key, arrays = case.make(), jax.random.key(0), _arrays(case)
    drawn, fed, _ = _expected(case)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, signals):
        rows, state = sampler.sample(state)
        return rows, sampler.update(state, rows, **signals)

    for _ in range(2):
        state = sampler.init(key, **arrays)
        for signals, expected in zip(fed, drawn):
            rows, state = step(state, signals)
            require_same(rows, expected, case.tolerance)


@law("What is as large as the data set is in the state, and no program holds it as a constant.")
def check_constants(case: SamplerCase) -> None:
    """Check that no constant of `sample` and `update` has as many numbers as the data set has rows.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if there is such a constant.
    """
    sampler, state = case.make(), _start(case)
    rows, _ = _compiled(case).sample(state)
    signals = _signals(case, np.random.default_rng(1), rows)
    programs = {
        "sample": jax.make_jaxpr(sampler.sample)(state),
        "update": jax.make_jaxpr(lambda state, rows, x: sampler.update(state, rows, **x))(state, rows, signals),
    }
    for name, program in programs.items():
        sizes = [size for size in _constant_sizes(program) if size >= case.num_examples]
        require(not sizes, f"{name} has constants of {sizes} numbers, wanted fewer than {case.num_examples} in each")


def _constant_sizes(program: Any) -> Iterator[int]:
    """Sizes of the constants of a jaxpr and of those inside it, as consts and as literals."""
    yield from (np.size(value) for value in getattr(program, "consts", ()))
    jaxpr = getattr(program, "jaxpr", program)
    for equation in jaxpr.eqns:
        yield from (np.size(x.val) for x in equation.invars if isinstance(x, jax.extend.core.Literal))
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _constant_sizes(value)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


@law("An int seed, a typed key and a legacy key of one number are the same, and different keys give different rows.")
def check_keys(case: SamplerCase) -> None:
    """Check the states of three forms of one key, and the first batches of three keys.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if states of one key differ, or the rows of two keys are the same.
    """
    sampler, arrays = case.make(), _arrays(case)
    typed = sampler.init(jax.random.key(3), **arrays)
    require_same(sampler.init(3, **arrays), typed, 0.0, "from the int 3, ")
    require_same(sampler.init(jax.random.PRNGKey(3), **arrays), typed, 0.0, "from the legacy key, ")
    first = [_run(case, _compiled(case), _start(case, seed), STEPS, dict)[0] for seed in range(3)]
    drawn = [np.concatenate([np.asarray(rows.indices) for rows in batches]) for batches in first]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        require(np.any(drawn[a] != drawn[b]), f"the keys {a} and {b} draw the same rows in {STEPS} batches")


@law("On many devices, a sampler draws what it draws on one.")
def check_devices(case: SamplerCase, axis_type: AxisType) -> None:
    """Check a run with the state whole on every device and the signals sharded by rows, against one device.

    Args:
      case: the sampler and its data.
      axis_type: of the mesh axis, `Auto` or `Explicit`.

    Raises:
      AssertionError: if rows or the last state differ.
    """
    drawn, _, last = _expected(case)
    mesh = make_mesh(len(drawn[0].indices), axis_type)
    sharded, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def place(signals):
        return {
            name: jax.device_put(value, sharded if _one_row_each(value, drawn[0]) else whole)
            for name, value in signals.items()
        }

    start = jax.device_put(_start(case), whole)
    found = _run(case, _compiled(case), start, STEPS, place)
    require_same(_named(found[0], found[2]), _named(drawn, last), case.tolerance)


@law("Arrays of the data set may be sharded over devices.")
def check_sharded_arrays(case: SamplerCase) -> None:
    """Check a run whose arrays were sharded by rows when `init` got them, against one device.

    Args:
      case: the sampler and its data; passes if `sharded_arrays` is False.

    Raises:
      AssertionError: if rows or the last state differ.
    """
    if not case.sharded_arrays:
        return
    drawn, _, last = _expected(case)
    mesh = make_mesh(case.num_examples, AxisType.Auto)
    sharded, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def place(leaf):
        return jax.device_put(leaf, sharded if leaf.shape[:1] == (case.num_examples,) else whole)

    state = _compiled(case).init(jax.device_put(jax.random.key(0), whole), **jax.tree.map(place, _arrays(case)))
    found = _run(case, _compiled(case), state, STEPS, lambda signals: jax.device_put(signals, whole))
    require_same(_named(found[0], found[2]), _named(drawn, last), case.tolerance)


@law("Rows of -1 or beyond the data set are ignored in update; at most a field `ignored` counts them.")
def check_foreign_rows(case: SamplerCase) -> None:
    """Check updates in which every second row is padding or of another data set, whatever their signals are.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if such rows or their signals change the state, but for fields of the name `ignored`.
    """
    update, (rows, state) = _compiled(case).update, _compiled(case).sample(_start(case))
    signals = _signals(case, np.random.default_rng(1), rows)
    indices, weights = np.array(rows.indices), np.array(rows.weights)
    foreign = np.arange(len(indices)) % 2 == 1
    padding = Rows(jnp.asarray(np.where(foreign, -1, indices)), jnp.asarray(np.where(foreign, 0, weights)))
    expected = _without_counters(update(state, padding, **signals))
    beyond = np.where(foreign, case.num_examples + np.arange(len(indices)), indices).astype(np.int32)
    for fill in (None, 1e6, *NON_FINITE):
        spoilt = signals if fill is None else _overwrite(signals, rows, foreign, fill)
        where = "" if fill is None else f"with the signals {fill:g}, "
        found = _without_counters(update(state, padding, **spoilt))
        require_same(found, expected, case.tolerance, f"rows of -1 {where}")
        found = _without_counters(update(state, Rows(jnp.asarray(beyond), rows.weights), **spoilt))
        require_same(found, expected, case.tolerance, f"rows beyond the data set {where}")


def _without_counters(state: Any) -> dict[str, Any]:
    leaves = [(leaf_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(state)]
    return {f"state.{name}": leaf for name, leaf in leaves if name.split(".")[-1] != "ignored"}


@law("Updates about different rows lead to one state in any order, also after later draws.")
def check_any_order(case: SamplerCase) -> None:
    """Check two updates in both orders, one with its rows in another order, and one after a later draw.

    Args:
      case: the sampler and its data; passes if `any_order` is False.

    Raises:
      AssertionError: if the states differ.
    """
    if not case.any_order:
        return
    sample, update = _compiled(case).sample, _compiled(case).update
    state, rng = _start(case), np.random.default_rng(1)
    size = len(sample(state)[0].indices)
    places = rng.permutation(case.num_examples)[: 2 * size].astype(np.int32)
    require(len(places) == 2 * size, f"num_examples is {case.num_examples}, wanted at least {2 * size}, two batches")
    weights = jnp.full(size, 1 / size, jnp.float32)
    a, b = Rows(jnp.asarray(places[:size]), weights), Rows(jnp.asarray(places[size:]), weights)
    of_a, of_b = _signals(case, rng, a), _signals(case, rng, b)
    expected = update(update(state, a, **of_a), b, **of_b)
    require_same(update(update(state, b, **of_b), a, **of_a), expected, case.tolerance, "the other way around, ")
    turned = {name: value[::-1] if _one_row_each(value, a) else value for name, value in of_a.items()}
    found = update(update(state, Rows(a.indices[::-1], weights), **turned), b, **of_b)
    require_same(found, expected, case.tolerance, "with the rows of the batch turned around, ")
    rows, drawn = sample(state)
    signals = _signals(case, rng, rows)
    late = update(sample(drawn)[1], rows, **signals)
    require_same(late, sample(update(drawn, rows, **signals))[1], case.tolerance, "after a later draw, ")


@law("Signals that are not finite put no NaN into the state, and the sampler goes on drawing.")
def check_non_finite_signals(case: SamplerCase, fill: float) -> None:
    """Check updates in which two rows of the signals, and then all signals, are not finite.

    Args:
      case: the sampler and its data.
      fill: NaN or an infinity.

    Raises:
      AssertionError: if the state has a NaN after it, or the next batch is wrong or has no row.
    """
    sampler, state = _compiled(case), _start(case)
    rng = np.random.default_rng(1)
    for bad in ("two rows", "all signals"):
        rows, state = sampler.sample(state)
        picked = np.arange(len(rows.indices)) < (2 if bad == "two rows" else len(rows.indices))
        state = sampler.update(state, rows, **_overwrite(_signals(case, rng, rows), rows, picked, fill))
        where = f"with {bad} {fill:g}, "
        require(not _has_nan(state), f"{where}there is a NaN in {_has_nan(state)}")
        following = sampler.sample(state)[0]
        _check_rows(case, following, where)
        require(np.any(np.asarray(following.indices) >= 0), f"{where}the next batch has only padding")


@law("A signal that is missing, or has another number of rows or kind of dtype, is named by an error.")
def check_bad_signals(case: SamplerCase) -> None:
    """Check the errors of signals with a row too many, of another kind of dtype, and of no signal at all.

    Args:
      case: the sampler and its data; passes if nothing is fed back.

    Raises:
      AssertionError: if such a signal raises nothing, or an error that does not name it.
    """
    sampler = case.make()
    rows, state = _compiled(case).sample(_start(case))
    signals = _signals(case, np.random.default_rng(1), rows)
    if signals:
        _require_error(lambda: sampler.update(state, rows), TypeError, list(signals), "without a signal")
    for name, value in signals.items():
        if _one_row_each(value, rows):
            longer = signals | {name: jnp.concatenate([value, value[:1]])}
            where = f"with {name} of {len(value) + 1} rows"
            _require_error(lambda x=longer: sampler.update(state, rows, **x), ValueError, [name], where)
            kind = jnp.int32 if is_float(value) else jnp.float32
            other = signals | {name: jnp.zeros(value.shape, kind)}
            where = f"with {name} of dtype {kind.dtype}"
            _require_error(lambda x=other: sampler.update(state, rows, **x), TypeError, [name], where)


def _require_error(call: Callable[[], Any], error: type[Exception], names: list[str], where: str) -> None:
    try:
        call()
    except error as raised:
        require(any(n in str(raised) for n in names), f"{where} the error is {raised}, wanted one that names {names}")
    else:
        require(False, f"{where} nothing was raised, wanted a {error.__name__} that names {names}")


@law("A sampler lowers for TPU, CUDA and ROCm, without callbacks to the host.")
def check_lowering(case: SamplerCase) -> None:
    """Check that sample and update are exported for TPU, CUDA and ROCm; none of them needs to be there.

    Args:
      case: the sampler and its data.

    Raises:
      AssertionError: if a program cannot be exported for one of them.
    """
    sampler, state = case.make(), _start(case)
    rows, _ = _compiled(case).sample(state)
    signals = _signals(case, np.random.default_rng(1), rows)

    def step(state, rows, signals):
        return sampler.sample(sampler.update(state, rows, **signals))

    export_for_accelerators(jax.jit(step), (state, rows, signals))


SAMPLER_CHECKS: dict[str, Callable[[SamplerCase], None]] = {
    "structure": check_structure,
    "rows": check_rows,
    "x64": check_x64,
    "pure": check_pure,
    "compiles once": check_compiles_once,
    "scan": check_scan,
    "restored": check_restored,
    "vmap": check_vmap,
    "donation": check_donation,
    "constants": check_constants,
    "keys": check_keys,
    **{
        f"devices, {axis_type.name}": functools.partial(check_devices, axis_type=axis_type)
        for axis_type in (AxisType.Auto, AxisType.Explicit)
    },
    "sharded arrays": check_sharded_arrays,
    "foreign rows": check_foreign_rows,
    "any order": check_any_order,
    **{f"signals {fill:g}": functools.partial(check_non_finite_signals, fill=fill) for fill in NON_FINITE},
    "bad signals": check_bad_signals,
    "lowering": check_lowering,
}
"""Name -> check of a `SamplerCase`, in the order in which `check_sampler` runs them."""


def check_sampler(
    make: Callable[[], Sampler],
    num_examples: int,
    arrays: Arrays = _no_arrays,
    signals: Signals = _no_signals,
    *,
    any_order: bool = False,
    sharded_arrays: bool = True,
    tolerance: float = 0.0,
) -> None:
    """Run every check of `SAMPLER_CHECKS` on a sampler and stop at the first law that is broken.

    The checks use the largest number of devices at hand that divides the rows of a batch, or of the data set. On a CPU,
    call `jax.config.update("jax_num_cpu_devices", 8)` first, so that one device is compared with eight.

    Args:
      make: returns the sampler.
      num_examples: N, rows of the data set; more than the rows of a batch and than the classes, and a multiple of 8 is
        a good number.
      arrays: `arrays(rng)` draws what `init` takes: name -> numpy array, such as `labels` with N numbers.
      signals: `signals(rng, rows)` draws what `update` takes about these rows, whatever rows of the data set they are:
        name -> numpy array with one row for each row of the batch, or other arrays and trees of arrays, such as
        parameters.
      any_order: whether updates about different rows lead to one state in any order, also after later draws; checked
        if True.
      sharded_arrays: whether `init` takes arrays that are sharded by rows over devices; checked if True.
      tolerance: relative difference allowed between two programs that compute the same; 0 demands equality, which a
        sampler that adds up numbers in `update` may not reach.

    Returns:
      None.

    Raises:
      AssertionError: if a law is broken; the first sentence of the message is the law.

    Examples:
      >>> from minibatch_jax.sampling import shuffled
      >>> check_sampler(lambda: shuffled(20, 8), 20)
    """
    case = SamplerCase(make, num_examples, arrays, signals, any_order, sharded_arrays, tolerance)
    for check in SAMPLER_CHECKS.values():
        check(case)
