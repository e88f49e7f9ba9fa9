"""Rows of the device run: exact solvers against scipy, and what has kernels against loops and the CPU."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment, linprog

from experiments.speed._coupling_data import costs
from experiments.speed._device_rows import CHECK, Row, Values, floats, largest_gap, on_device, on_host
from minibatch_jax import coupling, mining
from minibatch_jax.coupling.exact import assignments

KERNELS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu")
FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "points, d = 2": lambda size: costs(1, size, 2, 0)[0],
    "points, d = 64": lambda size: costs(1, size, 64, 0)[0],
    "whole numbers with ties": lambda size: np.random.default_rng(0).integers(1, 9, (size, size)).astype(np.float32),
    "constant": lambda size: np.ones((size, size), np.float32),
    "rectangular": lambda size: costs(1, size, 8, 0)[0][: size * 2 // 3],
    "70 % forbidden": lambda size: np.where(
        np.random.default_rng(0).random((size, size)) < 0.7 * (1 - np.eye(size)), np.inf, costs(1, size, 8, 1)[0]
    ).astype(np.float32),
}


def solvers(small: bool) -> Iterator[Row]:
    """Exact solvers against scipy, with the certificates of their potentials."""
    for family, make in FAMILIES.items():
        size = 32 if small else 256
        yield Row(f"assignment, {family}, B = {size}", partial(_assigned, make, size), CHECK)
    size = 32 if small else 48
    yield Row(f"transport, unequal masses, B = {size}", partial(_transported, size), CHECK)
    size = 32 if small else 256
    yield Row(f"partial_plan, 0.7 of the mass, B = {size}", partial(_partial, size), CHECK)
    for count, size in ((4, 32),) if small else ((16, 128), (256, 64)):
        yield Row(f"assignment under vmap, {count} x B = {size}", partial(_assigned_stack, count, size), CHECK)
    yield Row("assignment of costs that are NaN ends", _nan_ends, CHECK)
    for size in () if small else (1024, 64, 512, 2048):
        for family, make in FAMILIES.items():
            if size <= 512 or family.startswith("points"):
                yield Row(f"assignment, {family}, B = {size}", partial(_assigned, make, size), CHECK)


def _assigned(make: Callable[[int], np.ndarray], size: int) -> Values:
    given = make(size)
    found = on_device(coupling.assignment, given)
    wide, (rows, columns) = given.astype(np.float64), _scipy(given)
    best = wide[rows, columns].sum()
    paired = np.flatnonzero(found.columns >= 0)
    assert len(set(found.columns[paired])) == len(paired) == len(rows), f"{len(paired)} pairs, wanted {len(rows)}"
    gap = float(wide[paired, found.columns[paired]].sum() / best - 1)
    slack = wide - found.row_potentials[:, None] - found.column_potentials[None]
    violated = float(-np.min(slack) / np.mean(wide[np.isfinite(wide)]))
    assert abs(gap) <= 1e-6, f"the cost differs from scipy's by {gap:.1e} of it"
    assert violated <= 1e-4, f"the potentials exceed a cost by {violated:.1e} of the mean cost"
    return {"gap to scipy": gap, "potentials above costs": max(violated, 0.0)}


def _scipy(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """scipy's rows and columns; a forbidden pair costs more than all others together."""
    wide = given.astype(np.float64)
    allowed = np.isfinite(wide)
    rows, columns = linear_sum_assignment(np.where(allowed, wide, wide[allowed].sum() + 1))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def _assigned_stack(count: int, size: int) -> Values:
    stack = costs(count, size, 2, 0)
    columns = on_device(jax.vmap(lambda c: coupling.assignment(c).columns), stack)
    gaps = [float(c[np.arange(size), j].sum(dtype=np.float64) / c[_scipy(c)].sum(dtype=np.float64) - 1)
            for c, j in zip(stack, columns)]  # fmt: skip
    assert np.abs(gaps).max() <= 1e-6, f"costs differ from scipy's by {np.abs(gaps).max():.1e} of them"
    return {"largest gap to scipy": float(np.abs(gaps).max())}


def _partial(size: int) -> Values:
    given = costs(1, size, 64, 0)[0]
    plan = on_device(lambda c: coupling.partial_plan(c, 0.7).matrix, given)
    pairs = 0.7 * size
    bounds = [_cheapest(given.astype(np.float64), int(count)) for count in (np.floor(pairs), np.ceil(pairs))]
    best = (bounds[0] + (pairs - np.floor(pairs)) * (bounds[1] - bounds[0])) / size
    gap = float((plan.astype(np.float64) * given).sum() / best - 1)
    assert abs(gap) <= 1e-5, f"the cost differs from scipy's by {gap:.1e} of it"
    assert abs(plan.sum() - 0.7) <= 1e-5, f"the mass is {plan.sum()}, wanted 0.7"
    return {"gap to scipy": gap}


def _cheapest(given: np.ndarray, pairs: int) -> float:
    """Cost of the cheapest pairing of so many rows, as a square problem with dummies."""
    size = len(given)
    padded = np.zeros((2 * size - pairs,) * 2)
    padded[:size, :size], padded[size:, size:] = given, given.sum() + 1
    rows, columns = linear_sum_assignment(padded)
    return float(padded[rows, columns].sum())


def _transported(size: int) -> Values:
    given, masses = costs(1, size, 2, 0)[0], np.random.default_rng(0).random((2, size)) + 0.1
    a, b = masses / masses.sum(1, keepdims=True)
    plan = on_device(lambda c, a, b: coupling.transport(c, a, b).matrix, given, np.float32(a), np.float32(b))
    sums = np.concatenate([np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))])
    best = linprog(given.astype(np.float64).ravel(), A_eq=sums, b_eq=np.concatenate([a, b])).fun
    gap = float((plan.astype(np.float64) * given).sum() / best - 1)
    off = float(max(np.abs(plan.sum(1) - a).max(), np.abs(plan.sum(0) - b).max()))
    assert abs(gap) <= 1e-5, f"the cost differs from scipy's linear program by {gap:.1e} of it"
    assert off <= 1e-6, f"the marginals are off by {off:.1e}"
    return {"gap to scipy": gap, "marginals off by": off}


def _nan_ends() -> Values:
    given = np.where(np.eye(64) > 0, np.nan, costs(1, 64, 8, 0)[0]).astype(np.float32)
    kept = on_device(lambda c: coupling.assignment(c).columns, given)
    assert np.all(kept != np.arange(64)), "a pair of cost NaN was taken"
    return {"pairs": int(np.sum(kept >= 0))}


def kernels(small: bool) -> Iterator[Row]:
    """What has a kernel for some device, on this one: against loops on the device and against the CPU."""
    for size in (32,) if small else (128, 1024):
        yield Row(f"pairs of assignment and its loops, bit by bit, B = {size}", partial(_bit_by_bit, size), CHECK)
    size = 32 if small else 256
    given = costs(1, size, 64, 0)[0]
    points = np.random.default_rng(0).normal(size=(2, size, 8)).astype(np.float32)
    mass = np.random.default_rng(1).random(size).astype(np.float32) + 0.1
    labels = np.arange(size, dtype=np.int32) // 4
    calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "assignment": (lambda c: coupling.assignment(c).columns, (given,)),
        "partial_plan": (lambda c: coupling.partial_plan(c, 0.7).matrix * size, (given,)),
        "transport": (
            lambda c, a: coupling.transport(c, a / jnp.sum(a), a[::-1] / jnp.sum(a)).matrix * size,
            (given, mass),
        ),
        "sinkhorn": (lambda c: coupling.sinkhorn(c, epsilon=0.1, relative_to="mean").matrix * size**2, (given,)),
        "sharded_sinkhorn in blocks": (
            lambda x, y: coupling.sharded_sinkhorn(x, y, epsilon=1.0, max_iterations=20, block_size=16).column,
            tuple(points),
        ),
        "gradient of SupCon in blocks": (
            jax.grad(lambda x, y: jnp.mean(supcon_in_blocks(x, y, 16))),
            (points[0], labels),
        ),
    }
    for name, (function, arguments) in calls.items():
        yield Row(f"{name} here and on the CPU, B = {size}", partial(_here_and_on_host, function, arguments), CHECK)


def supcon_in_blocks(embeddings: jax.Array, labels: jax.Array, block: int) -> jax.Array:
    """SupCon of each anchor, a block of anchors at a time."""
    loss = partial(mining.supcon_loss, reduction="anchors")
    return mining.blockwise_losses(
        loss, embeddings, labels, compare=mining.cosine_similarity, block_size=block, axis_name=None
    )


def _bit_by_bit(size: int) -> Values:
    given = costs(1, size, 64, 0)[0]
    reduced = given - given.min(1, keepdims=True)

    def both(reduced):
        active, v = jnp.full(size, True), jnp.zeros(size)
        start = assignments._start(reduced, active, v)
        loops = assignments._pair_in_loops(reduced, active, *start)
        return tuple(assignments._paired(reduced, active, start)), tuple(loops)

    chosen, loops = on_device(both, reduced)
    for name, one, other in zip(("columns", "rows", "potentials"), chosen, loops):
        np.testing.assert_array_equal(one, other, err_msg=name)
    text: Any = jax.jit(coupling.assignment).lower(floats(size, size)).compile().as_text()
    return {"kernels in the program": sum(text.count(target) for target in KERNELS)}


def _here_and_on_host(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Values:
    wanted = on_host(function, *arguments)
    gap = largest_gap(on_device(function, *arguments), wanted)
    assert gap <= 1e-3, f"differs from the CPU by {gap:.1e} of the largest number"
    found = {"difference from the CPU": gap}
    if jax.default_backend() != "cpu":
        rounded = on_device(function, *arguments, precision="default")
        found["with products in the precision of the device"] = largest_gap(rounded, wanted)
    return found
