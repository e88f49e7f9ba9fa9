"""Rows of the device run: cases A, B and C, pairing of two batches beside peers on the device and on its host."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from experiments.speed._coupling_data import costs
from experiments.speed._device_rows import Row, Values, beside, jitted, timed, torch_place
from minibatch_jax import coupling
from minibatch_jax.coupling.plans import Plan

EPSILON, TOLERANCE, FRACTION = 0.05, 1e-3, 0.7
OURS = "minibatch_jax"


def assignments(small: bool) -> Iterator[Row]:
    """Case A."""
    sizes, stack = ((32,), (4, 32)) if small else ((64, 256, 512, 1024, 2048), (16, 128))
    widths = (2,) if small else (2, 64)
    for size in sizes:
        for width in widths:
            yield Row(f"assignment, d = {width}, B = {size}", partial(_assignment, size, width))
    for width in widths:
        yield Row(f"{stack[0]} assignments, d = {width}, B = {stack[1]}", partial(_assignment_stack, *stack, width))
    for size in sizes[:1] if small else (64, 256):
        yield Row(f"transport of unequal masses, d = 64, B = {size}", partial(_transport, size))


def _columns(cost: jax.Array) -> jax.Array:
    return coupling.assignment(cost).columns


def _assignment(size: int, width: int) -> Values:
    cost = costs(1, size, width, 0)[0]
    calls = {OURS: jitted(_columns, cost), "scipy, host": lambda: linear_sum_assignment(cost)}
    if size <= 256:  # its steps are those of the whole matrix
        calls["optax, device"] = jitted(optax.assignment.hungarian_algorithm, cost)
    peers = {"lapjv, host": (partial(_lapjv, cost), "lapjv"), "POT emd, host": (partial(_emd, cost), "ot")}
    return beside(calls, peers)


def _lapjv(cost: np.ndarray) -> Callable[[], Any]:
    from lapjv import lapjv  # pyright: ignore[reportMissingImports]

    return lambda: lapjv(cost)


def _emd(cost: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None) -> Callable[[], Any]:
    import ot

    uniform, wide = np.full(len(cost), 1 / len(cost)), cost.astype(np.float64)
    return lambda: ot.emd(uniform if a is None else a, uniform if b is None else b, wide)


def _assignment_stack(count: int, size: int, width: int) -> Values:
    stack = costs(count, size, width, 0)
    return timed(
        {
            OURS: jitted(jax.vmap(_columns), stack),
            "ours, lax.map": jitted(partial(jax.lax.map, _columns), stack),
            "scipy in a loop, host": lambda: [linear_sum_assignment(cost) for cost in stack],
            "optax under vmap, device": jitted(jax.vmap(optax.assignment.hungarian_algorithm), stack),
        }
    )


def _transport(size: int) -> Values:
    cost, masses = costs(1, size, 64, 0)[0], np.random.default_rng(0).random((2, size)) + 0.1
    a, b = masses / masses.sum(1, keepdims=True)
    ours = jitted(lambda c, a, b: coupling.transport(c, a, b).matrix, cost, np.float32(a), np.float32(b))
    return beside({OURS: ours}, {"POT emd, host": (partial(_emd, cost, a, b), "ot")})


def sinkhorns(small: bool) -> Iterator[Row]:
    """Case B: each to a marginal error of 1e-3, and all at the count of iterations that ours needs for it."""
    sizes, stack = ((32,), (4, 32)) if small else ((256, 1024, 4096), (16, 128))
    for size in sizes:
        for width in (64,) if small else (2, 64):
            yield Row(f"sinkhorn to {TOLERANCE}, d = {width}, B = {size}", partial(_sinkhorn, size, width, False))
            yield Row(f"sinkhorn, equal iterations, d = {width}, B = {size}", partial(_sinkhorn, size, width, True))
    yield Row(f"{stack[0]} times sinkhorn to {TOLERANCE}, d = 64, B = {stack[1]}", partial(_sinkhorn_stack, *stack))


def _ours(iterations: int, cost: jax.Array) -> Plan:
    stop: dict[str, Any] = {"tolerance": TOLERANCE}
    if iterations:
        stop = {"tolerance": None, "max_iterations": iterations}
    return coupling.sinkhorn(cost, epsilon=EPSILON, relative_to="mean", **stop)


def _ours_matrix(iterations: int, cost: jax.Array) -> jax.Array:
    return _ours(iterations, cost).matrix


def _sinkhorn(size: int, width: int, matched: bool) -> Values:
    cost = costs(1, size, width, 0)[0]
    needed = int(jax.jit(partial(_ours, 0))(cost).iterations)
    iterations = needed if matched else 0
    peers = {
        "OTT-JAX lse, device": (partial(_ott, True, iterations, cost), "ott", "ot"),
        "OTT-JAX kernel, device": (partial(_ott, False, iterations, cost), "ott", "ot"),
        f"POT with torch, {torch_place()}": (partial(_pot_with_torch, cost, iterations), "ot", "torch"),
    }
    ours = jitted(partial(_ours_matrix, iterations), cost)
    return {**beside({OURS: ours}, peers), "iterations of ours": str(needed)}


def _ott(lse: bool, iterations: int, given: np.ndarray) -> Callable[[], Any]:
    from experiments.speed.sinkhorn import ott

    solve = ott(iterations, lse)
    return jitted(solve if given.ndim == 2 else jax.vmap(solve), given)


def _pot_with_torch(cost: np.ndarray, iterations: int) -> Callable[[], Any]:
    """POT's Sinkhorn; the call waits for the plan."""
    import ot
    import torch

    placed = torch.as_tensor(cost, device=torch_place())
    masses = torch.full((len(cost),), 1 / len(cost), device=torch_place())
    absolute = EPSILON * float(cost.mean())
    stop: dict[str, Any] = {"numItermax": iterations or 1000, "stopThr": 0.0 if iterations else TOLERANCE}

    def call() -> float:
        plan: Any = ot.sinkhorn(masses, masses, placed, absolute, warn=False, **stop)
        return float(plan.sum())

    return call


def _sinkhorn_stack(count: int, size: int) -> Values:
    stack = costs(count, size, 64, 0)
    solve = partial(_ours_matrix, 0)
    calls = {OURS: jitted(jax.vmap(solve), stack), "ours, lax.map": jitted(partial(jax.lax.map, solve), stack)}
    return beside(calls, {"OTT-JAX lse under vmap, device": (partial(_ott, True, 0, stack), "ott", "ot")})


def partials(small: bool) -> Iterator[Row]:
    """Case C: 0.7 of the mass, exact and entropic."""
    for size in (32,) if small else (256, 1024):
        yield Row(f"partial_plan, d = 64, B = {size}", partial(_partial_exact, size))
        yield Row(f"partial_sinkhorn, d = 64, B = {size}", partial(_partial_entropic, size))


def _partial_exact(size: int) -> Values:
    cost = costs(1, size, 64, 0)[0]
    pairs = round(FRACTION * size)
    padded = np.zeros((2 * size - pairs,) * 2)
    padded[:size, :size], padded[size:, size:] = cost, cost.sum() + 1
    return timed(
        {
            OURS: jitted(lambda c: coupling.partial_plan(c, FRACTION).matrix, cost),
            "scipy with dummies, host": lambda: linear_sum_assignment(padded),
        }
    )


def _partial_entropic(size: int) -> Values:
    cost = costs(1, size, 64, 0)[0]
    options = {"epsilon": EPSILON, "relative_to": "mean", "tolerance": 1e-5}
    ours = jitted(lambda c: coupling.partial_sinkhorn(c, FRACTION, **options).matrix, cost)
    return beside({OURS: ours}, {"POT entropic_partial_wasserstein, host": (partial(_pot_entropic, cost), "ot")})


def _pot_entropic(cost: np.ndarray) -> Callable[[], Any]:
    import ot

    masses, wide = np.full(len(cost), 1 / len(cost)), cost.astype(np.float64)
    epsilon = EPSILON * float(wide.mean())
    return lambda: ot.partial.entropic_partial_wasserstein(masses, masses, wide, epsilon, m=FRACTION, stopThr=1e-6)
