"""Every public factory keeps the law of `minibatch_jax.base`, on one device and on eight."""

import functools
import inspect

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, compose, coupling, mining, selection
from tests import compose_cases
from tests.case import PAIRWISE, REPLICATED, ROWS
from tests.coupling import cases as coupling_cases
from tests.mining import cases as mining_cases
from tests.selection import cases as selection_cases

CASES = compose_cases.CASES | selection_cases.CASES | coupling_cases.CASES | mining_cases.CASES
AXIS_TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
PADDING = np.arange(ROWS) >= 12
BAD = np.isin(np.arange(ROWS), [1, 6])

each_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=pytest.mark.xdist_group(name)) for name, case in CASES.items()]
)


def public_factories():
    for module in (compose, selection, coupling, mining):
        for name, value in inspect.getmembers(module, inspect.isfunction):
            made = inspect.signature(value).return_annotation
            if (
                value.__module__.startswith(module.__name__)
                and not name.startswith("_")
                and made is optax.GradientTransformationExtraArgs
            ):
                yield name


def draw(case, seed=0):
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(case.weights(rng))
    return weights, {name: jnp.asarray(value) for name, value in case.signals(rng).items()}


@functools.cache
def compiled(case):
    """Init and update of one transformation, compiled once for all tests of a process."""
    tx = case.make()
    return jax.jit(tx.init), jax.jit(lambda w, s, x: tx.update(w, s, **x))


def run(case, weights, signals):
    init, update = compiled(case)
    return update(weights, init(weights), signals)


def assert_same(actual, desired, tolerance=0.0):
    def compare(a, d):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, d = jax.random.key_data(a), jax.random.key_data(d)
        np.testing.assert_allclose(np.asarray(a), np.asarray(d), rtol=tolerance, atol=tolerance / ROWS)

    chex.assert_trees_all_equal_structs(actual, desired)
    jax.tree.map(compare, actual, desired)


def replace(signals, rows, fill):
    """Overwrite those rows (and columns) of every float signal, and scramble those of the integer ones."""

    def overwrite(name, value):
        value = np.array(value)
        if name in REPLICATED:
            return jnp.asarray(value)
        new = fill if np.issubdtype(value.dtype, np.floating) else value.flat[0]
        value[rows] = new
        if name in PAIRWISE:
            value[:, rows] = new
        return jnp.asarray(value)

    return {name: overwrite(name, value) for name, value in signals.items()}


def zero(weights, rows):
    return jnp.asarray(np.where(outside(weights, rows), np.asarray(weights), 0).astype(weights.dtype))


def outside(weights, rows):
    mask = ~rows
    for _ in range(1, weights.ndim):
        mask = mask[..., None] & ~rows
    return mask


def test_every_public_factory_has_a_case():
    assert set(public_factories()) == set(CASES)


@each_case
def test_jit_gives_what_eager_gives_in_one_trace(case):
    tx = case.make()
    step = jax.jit(chex.assert_max_traces(lambda w, s, x: tx.update(w, s, **x), n=1))
    weights, signals = draw(case)
    state = tx.init(weights)
    for seed in range(4):
        weights, signals = draw(case, seed)
        if seed == 0:
            eager = tx.update(weights, state, **signals)
        kept, state = step(weights, state, signals)
        if seed == 0:
            assert_same((kept, state), eager, max(case.tolerance, 1e-6))
    chex.clear_trace_counter()


@each_case
def test_init_and_update_states_have_one_structure(case):
    tx = case.make()
    weights, signals = draw(case)
    shapes = jax.eval_shape(tx.init, weights)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, tx.init(weights))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, run(case, weights, signals)[1])


@each_case
def test_mass_and_sign(case):
    weights, signals = draw(case)
    kept = np.asarray(run(case, weights, signals)[0])
    assert np.all(kept >= 0)
    assert kept.sum() > 0
    if case.lowers_mass:
        assert kept.sum() <= weights.sum() * (1 + 1e-5)
    elif case.lowers_mass is False:
        np.testing.assert_allclose(kept.sum(), weights.sum(), rtol=1e-4)


@each_case
def test_vmap_over_batches_and_seeds(case):
    tx = case.make()
    batches = [draw(case, seed) for seed in range(3)]
    states = [with_seed(tx.init(weights), seed) for seed, (weights, _) in enumerate(batches)]
    expected = [compiled(case)[1](w, s, x) for (w, x), s in zip(batches, states)]
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    actual = jax.vmap(lambda w, s, x: tx.update(w, s, **x))(
        stack(*(w for w, _ in batches)), stack(*states), stack(*(x for _, x in batches))
    )
    assert_same(actual, stack(*expected), max(case.tolerance, 1e-6))


def with_seed(state, seed):
    has_key = optax.tree.get_all_with_path(state, "rng_key")
    return optax.tree.set(state, rng_key=jax.random.key(seed)) if has_key else state


@each_case
def test_scan_gives_what_a_loop_gives(case):
    tx = case.make()
    batches = [draw(case, seed) for seed in range(3)]
    state = start = tx.init(batches[0][0])
    expected = []
    for weights, signals in batches:
        kept, state = compiled(case)[1](weights, state, signals)
        expected.append(kept)

    def step(carry, batch):
        kept, carry = tx.update(batch[0], carry, **batch[1])
        return carry, kept

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    assert_same(jax.lax.scan(step, start, stacked), (state, jnp.stack(expected)), max(case.tolerance, 1e-6))


@each_case
def test_weights_are_constants_for_the_backward_pass(case):
    tx = case.make()
    weights, signals = draw(case)
    floats = {k: v for k, v in signals.items() if jnp.issubdtype(v.dtype, jnp.floating)}

    def total(floats, weights):
        kept = tx.update(weights, tx.init(weights), **(signals | floats))[0]
        return jnp.sum(kept * jnp.cos(jnp.arange(kept.size, dtype=kept.dtype)).reshape(kept.shape))

    for gradient in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(floats, weights)):
        np.testing.assert_array_equal(gradient, 0)


@each_case
@pytest.mark.parametrize("fill", [0.0, 1e6, -1e6, np.nan, np.inf, -np.inf])
def test_padding_is_nothing(case, fill):
    weights, signals = draw(case)
    weights = zero(weights, PADDING)
    expected, state_expected = run(case, weights, signals)
    kept, state = run(case, weights, replace(signals, PADDING, fill))
    np.testing.assert_array_equal(np.asarray(kept)[~outside(weights, PADDING)], 0)
    assert_same((kept, state), (expected, state_expected), case.tolerance)


@each_case
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_non_finite_signals_are_never_selected_nor_spread(case, fill):
    weights, signals = draw(case)
    bad = replace(signals, BAD, fill)
    kept, state = run(case, weights, bad)
    assert np.all(np.isfinite(kept))
    if any(jnp.issubdtype(v.dtype, jnp.floating) and k not in REPLICATED for k, v in signals.items()):
        np.testing.assert_array_equal(np.asarray(kept)[~outside(weights, BAD)], 0)
        assert np.asarray(kept).sum() > 0
    again, _ = compiled(case)[1](weights, state, signals)
    assert np.all(np.isfinite(again)) and np.asarray(again).sum() > 0


@each_case
def test_non_finite_weights_count_as_zero(case):
    weights, signals = draw(case)
    expected = run(case, zero(weights, BAD), signals)
    spoilt = jnp.where(jnp.asarray(outside(weights, BAD)), weights, jnp.nan)
    assert_same(run(case, spoilt, signals), expected, case.tolerance)


@each_case
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes_other_than_float32(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        tx = case.make()
        weights, signals = draw(case)
        weights = weights.astype("float64" if dtype == "float64" else "float32")
        cast = {k: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in signals.items()}
        kept, _ = jax.jit(lambda w, x: tx.update(w, tx.init(w), **x))(weights, cast)
        assert kept.dtype == weights.dtype
        assert np.all(np.isfinite(kept)) and np.asarray(kept).sum() > 0


@each_case
def test_pmap_and_shard_map_select_what_one_device_selects(case):
    tx = case.make()
    weights, signals = draw(case)
    expected = run(case, weights, signals)
    sharded = across("data", tx)
    state = sharded.init(weights)

    def step(w, s, x):
        return sharded.update(w, s, **x)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {name: P() if name in REPLICATED else P("data") for name in signals}
    shard = jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P(), specs), out_specs=(P("data"), P()))
    assert_same(jax.jit(shard)(weights, state, signals), expected, case.tolerance)

    split = lambda x: x.reshape(8, -1, *x.shape[1:])  # noqa: E731
    axes = {name: None if name in REPLICATED else 0 for name in signals}
    rows = {name: x if axes[name] is None else split(x) for name, x in signals.items()}
    kept, new_state = jax.pmap(step, axis_name="data", in_axes=(0, None, axes), out_axes=(0, None))(
        split(weights), state, rows
    )
    assert_same((kept.reshape(weights.shape), new_state), expected, case.tolerance)


@each_case
@pytest.mark.parametrize("axis_type", AXIS_TYPES.values(), ids=AXIS_TYPES)
def test_jit_on_a_sharded_batch_selects_what_one_device_selects(case, axis_type):
    tx = case.make()
    weights, signals = draw(case)
    expected = run(case, weights, signals)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    placed = {k: jax.device_put(v, whole if k in REPLICATED else rows) for k, v in signals.items()}
    sharded_weights = jax.device_put(weights, rows)
    state = jax.device_put(tx.init(weights), whole)
    kept, new_state = jax.jit(lambda w, s, x: tx.update(w, s, **x))(sharded_weights, state, placed)
    assert_same((kept, new_state), expected, case.tolerance)
    if axis_type is AxisType.Explicit:
        assert jax.typeof(kept).sharding.spec[0] == "data"


@each_case
def test_lowers_for_tpu_and_gpu_without_host_callbacks(case):
    tx = case.make()
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), draw(case))
    select = jax.jit(lambda w, x: tx.update(w, tx.init(w), **x)[0])
    jax.export.export(select, platforms=["tpu", "cuda", "rocm"])(*arguments)
