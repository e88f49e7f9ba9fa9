"""Rows of the device run: cases G to L, training steps, dependent steps, compiling and memory, and growing batches."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.speed import gradient_norms, sharded_step, train_step
from experiments.speed._coupling_data import costs
from experiments.speed._device_laws import CASES
from experiments.speed._device_rows import Row, Values, floats, jitted, megabytes, timed
from experiments.speed._device_solvers import supcon_in_blocks
from minibatch_jax import coupling, mining, normalize, sample_pairs, selection, value_and_grad
from minibatch_jax.testing import ROWS, draw

OURS = "minibatch_jax"
Program = tuple[Callable[..., Any], tuple[Any, ...]]


def selecting_steps(small: bool) -> Iterator[Row]:
    """Case G."""
    rows, width, channels = (16, 8, 2) if small else (512, 512, 32)
    keys = jax.random.split(jax.random.key(1))
    batch = {"x": jax.random.normal(keys[0], (rows, 32, 32, 3)), "y": jax.random.randint(keys[1], (rows,), 0, 10)}
    for name, (params, apply) in train_step.networks(width, channels).items():
        if name.startswith("MLP") or (name == "conv net, lax.conv" and not small):
            yield Row(f"{name}, B = {rows}, half kept", partial(_selecting_step, apply, params, batch))


def _selecting_step(apply: Callable[..., Any], params: Any, batch: dict[str, jax.Array]) -> Values:
    return timed(train_step.calls_of(apply, params, batch))


def norms(small: bool) -> Iterator[Row]:
    """Case H."""
    rows, widths = (16, (12, 8, 4)) if small else (512, (3072, 512, 512, 10))
    yield Row(f"norms of single gradients, MLP {'-'.join(map(str, widths))}, B = {rows}", partial(_norms, rows, widths))


def _norms(rows: int, widths: tuple[int, ...]) -> Values:
    model, params, batch = gradient_norms.problem(rows, widths)
    calls = gradient_norms.calls_of(model, rows, whole=True)
    return timed({name: partial(call, params, batch) for name, call in calls.items()})


def sharded(small: bool) -> Iterator[Row]:
    """Case I, on as many devices as are here."""
    rows, kept, widths = (64, 32, (48, 80, 10)) if small else (4096, 2048, (768, 1024, 10))
    name = f"step that keeps half, MLP {'-'.join(map(str, widths))}, B = {rows}, {jax.device_count()} devices"
    if jax.device_count() == 1:
        yield Row(name, lambda: {"devices": "one: nothing to share"})
        return
    yield Row(
        f"{name}: FLOPs of a device, as a ratio of its parts", partial(_sharded_flops, rows, kept, widths), "ratio"
    )
    yield Row(name, partial(_sharded_time, rows, kept, widths))


def _sharded_flops(rows: int, kept: int, widths: tuple[int, ...]) -> Values:
    devices = jax.device_count()
    found = sharded_step.measure(rows, kept, widths, {f"{devices} devices": ((devices,), ("data",))})
    return {name: numbers["ratio"] for name, numbers in found.items()}


def _sharded_time(rows: int, kept: int, widths: tuple[int, ...]) -> Values:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    params = train_step.init_mlp(jax.random.key(0), widths)
    x = np.random.default_rng(0).normal(size=(rows, widths[0])).astype(np.float32)
    batch = {"x": x, "y": np.arange(rows, dtype=np.int32) % widths[-1]}
    select = optax.chain(selection.keep_topk(kept), normalize())
    state = select.init(jnp.zeros(rows))

    def losses(params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(train_step.mlp(params, batch["x"]), batch["y"])

    whole, by_rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    shared = jax.device_put(params, whole), jax.device_put(batch, by_rows), jax.device_put(state, whole)
    selecting = jax.jit(value_and_grad(losses, select, gather=kept, rows_axis="data"))
    plain = jax.jit(jax.value_and_grad(lambda p, b: jnp.mean(losses(p, b))))
    return timed(
        {
            "step that keeps half, sharded": lambda: selecting(*shared),
            "step on all, sharded": lambda: plain(*shared[:2]),
            "step that keeps half, one device": jitted(
                value_and_grad(losses, select, gather=kept), params, batch, state
            ),
        }
    )


def dependent_steps(small: bool) -> Iterator[Row]:
    """Case J: microseconds of a loop step, by which the table of depths becomes a time."""
    for size in (32,) if small else (256, 1024):
        yield Row(f"step of a loop, B = {size}", partial(_loop_steps, size, 20 if small else 2000), "us")


def _loop_steps(size: int, steps: int) -> Values:
    cost, index = jnp.asarray(costs(1, size, 2, 0)[0]), jnp.arange(size)

    def number(cost, x):
        return x * 0.999 + 1

    def row_minimum(cost, carry):
        i, prices = carry
        row = cost[i] - prices
        j = jnp.min(jnp.where(row == jnp.min(row), index, size - 1))
        return j, jnp.where(index == j, prices - 0.1, prices)

    def product(cost, v):
        v = cost @ v
        return v / jnp.max(v)

    starts = {
        "one number": (number, jnp.zeros(())),
        "a row, its first minimum, one entry changed": (row_minimum, (jnp.int32(0), jnp.zeros(size))),
        "matrix by vector, divided by its maximum": (product, jnp.ones(size)),
    }
    found = {}
    for name, (body, start) in starts.items():
        loop = jax.jit(lambda n, c, s, body=body: jax.lax.fori_loop(0, n, lambda _, x: body(c, x), s))
        times = timed({str(turns): partial(loop, jnp.int32(turns), cost, start) for turns in (1, steps + 1)})
        found[name] = 1e3 * (float(times[str(steps + 1)]) - float(times["1"])) / steps
    return found


def grown(size: int) -> dict[str, Program]:
    """Updates of the transformations of the laws, and functions with large intermediates, by shapes of B items."""

    def wide(x):
        return jax.ShapeDtypeStruct(tuple(size if rows == ROWS else rows for rows in x.shape), x.dtype)

    square, labels = floats(size, size), jax.ShapeDtypeStruct((size,), jnp.int32)
    programs: dict[str, Program] = {
        "boundaries, sample_pairs": (partial(sample_pairs, 0), (square,)),
        "coupling, sinkhorn with gradient": (jax.grad(_sinkhorn_value), (square,)),
    }
    for name, loss in {"lifted structure": mining.lifted_structure_loss, "circle": mining.circle_loss}.items():
        programs[f"mining, {name} loss with gradient"] = (jax.grad(partial(_by_labels, loss)), (square, labels))
    for name, case in CASES.items():  # the last of them has eigenvectors, whose compilation for a TPU takes minutes
        weights, signals = draw(case)
        tx = case.make()
        shapes = jax.tree.map(wide, (weights, jax.eval_shape(tx.init, weights), signals))
        programs[name] = (partial(_update, tx), shapes)
    return programs


def _update(tx: Any, weights: jax.Array, state: Any, signals: Mapping[str, jax.Array]) -> Any:
    return tx.update(weights, state, **signals)


def _by_labels(loss: Callable[..., jax.Array], similarities: jax.Array, labels: jax.Array) -> jax.Array:
    return loss(similarities, mining.positive_mask(labels), mining.negative_mask(labels))


def _sinkhorn_value(cost: jax.Array) -> jax.Array:
    return coupling.sinkhorn(cost, epsilon=0.05, relative_to="mean").value


def compiling(small: bool) -> Iterator[Row]:
    """Case K: seconds until a program is traced, lowered and compiled, without a cache."""
    size = 32 if small else 1024
    for name, program in list(grown(size).items())[: 2 if small else None]:
        yield Row(f"{name}, B = {size}", partial(_compile_seconds, *program), "s")


def _compile_seconds(function: Callable[..., Any], shapes: tuple[Any, ...]) -> Values:
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*shapes)
    middle = time.perf_counter()
    lowered.compile()
    return {"lowered": middle - start, "compiled": time.perf_counter() - start}


def temporaries(small: bool) -> Iterator[Row]:
    """Case L: what the compiler reserves, in arrays of B x B floats."""
    size = 32 if small else 4096
    for name, program in list(grown(size).items())[: 2 if small else None]:
        yield Row(f"{name}, B = {size}", partial(_temporaries, size, *program), "B^2 floats")


def _temporaries(size: int, function: Callable[..., Any], shapes: tuple[Any, ...]) -> Values:
    return {"temporaries": 1e6 * megabytes(function, *shapes) / (4 * size**2)}


def growing(small: bool) -> Iterator[Row]:
    """Time and temporaries as the batch grows: a train step, SupCon whole and in blocks, Sinkhorn in blocks."""
    width, block = (8, 16) if small else (512, 1024)
    for size in (32, 64) if small else (256, 1024, 4096, 16384, 65536):
        yield from _time_and_memory(f"train step that keeps half, MLP, B = {size}", _kept_half(size, width))
    for size in (32, 64) if small else (1024, 4096, 16384, 32768):
        shapes = floats(size, width), jax.ShapeDtypeStruct((size,), jnp.int32)
        name = f"SupCon of {size} x {width} with gradient"
        yield from _time_and_memory(f"{name}, in blocks of {block}", (jax.grad(partial(_in_blocks, block)), shapes))
        if size <= 16384:
            yield from _time_and_memory(f"{name}, whole", (jax.grad(_supcon), shapes))
    for size in (32, 64) if small else (4096, 16384, 65536):
        points = floats(size, 64), floats(size, 64)
        yield from _time_and_memory(f"10 iterations of sharded_sinkhorn, {size} points", (_blocked_sinkhorn, points))
    yield Row("largest amount of memory in use so far", _peak, "MB")


def _kept_half(size: int, width: int) -> Program:
    select = optax.chain(selection.keep_topk(size // 2), normalize())

    def losses(params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(train_step.mlp(params, batch["x"]), batch["y"])

    step = value_and_grad(losses, select, gather=size // 2)
    params = jax.eval_shape(lambda: train_step.init_mlp(jax.random.key(0), (width, width, width, 10)))
    batch = {"x": floats(size, width), "y": jax.ShapeDtypeStruct((size,), jnp.int32)}
    return lambda params, batch: step(params, batch, select.init(jnp.zeros(size)))[:2], (params, batch)


def _supcon(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    return _by_labels(mining.supcon_loss, mining.cosine_similarity(embeddings), labels)


def _in_blocks(block: int, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(supcon_in_blocks(embeddings, labels, block))


def _blocked_sinkhorn(x0: jax.Array, x1: jax.Array) -> jax.Array:
    rows = min(128, x0.shape[0])
    return coupling.sharded_sinkhorn(x0, x1, epsilon=6.4, max_iterations=10, block_size=rows).column


def _time_and_memory(name: str, program: Program) -> Iterator[Row]:
    yield Row(f"{name}: temporaries", lambda: {OURS: megabytes(program[0], *program[1])}, "MB")
    yield Row(name, lambda: timed({OURS: jitted(program[0], *map(_drawn, program[1]))}, repeats=5))


def _drawn(shapes: Any) -> Any:
    """Normal numbers, and labels of ten classes."""
    rng = np.random.default_rng(0)

    def one(leaf):
        if leaf.dtype == jnp.int32:
            return np.arange(leaf.shape[0], dtype=np.int32) % 10
        return rng.normal(size=leaf.shape).astype(np.float32)

    return jax.tree.map(one, shapes)


def _peak() -> Values:
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "peak_bytes_in_use" not in statistics:
        return {"peak": "this backend reports none"}
    return {"peak": statistics["peak_bytes_in_use"] / 1e6, "limit": statistics.get("bytes_limit", 0) / 1e6}
