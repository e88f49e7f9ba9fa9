"""Case A: exact assignment in jit against scipy, optax, POT's emd, and lapjv and lap where they are installed.

Targets: at most 0.6 of scipy for B >= 512 and d >= 64, at most 1.15 for d = 2 and B >= 256, at most 0.3 of optax's
Hungarian algorithm for B >= 256. lapjv is AVX code, and the faster for B <= 128 at d >= 64; lap computes in float64.
Transport of unequal masses is beside POT's network simplex.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
from scipy.optimize import linear_sum_assignment

from experiments.speed._coupling_data import costs
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax.coupling import assignment, transport

OURS, OURS_UNEQUAL = "minibatch_jax.coupling.assignment", "minibatch_jax.coupling.transport"
solve = jax.jit(lambda cost: assignment(cost).columns)
solve_vmap = jax.jit(jax.vmap(lambda cost: assignment(cost).columns))
solve_map = jax.jit(lambda cost: jax.lax.map(lambda c: assignment(c).columns, cost))
solve_unequal = jax.jit(lambda cost, a, b: transport(cost, a, b).matrix)
solve_optax = jax.jit(optax.assignment.hungarian_algorithm)
optax_vmap = jax.jit(jax.vmap(optax.assignment.hungarian_algorithm))


def scipy_columns(cost: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(cost)[1]


def emd_columns(cost: np.ndarray) -> np.ndarray:
    uniform = np.full(len(cost), 1 / len(cost))
    return np.argmax(ot.emd(uniform, uniform, cost.astype(np.float64)), axis=1)


def optax_columns(cost: np.ndarray) -> np.ndarray:
    rows, columns = solve_optax(jnp.asarray(cost))
    return np.asarray(columns)[np.argsort(rows)]


def lapjv_columns(cost: np.ndarray) -> np.ndarray:
    from lapjv import lapjv  # pyright: ignore[reportMissingImports]

    return lapjv(cost)[0]


def lap_columns(cost: np.ndarray) -> np.ndarray:
    from lap import lapjv  # pyright: ignore[reportMissingImports]

    return lapjv(cost)[1]


def peers(size: int, largest_optax: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Name to solver of one cost matrix, columns in the order of the rows."""
    found = {"scipy linear_sum_assignment": scipy_columns, "POT emd": emd_columns}
    if size <= largest_optax:
        found["optax hungarian_algorithm"] = optax_columns
    if find_spec("lapjv"):
        found["lapjv"] = lapjv_columns
    if find_spec("lap"):
        found["lap"] = lap_columns
    return found


def one_problem(size: int, width: int, rounds: int, repeats: int, largest_optax: int) -> None:
    """Print the ratios of single problems, one draw a round, the solvers in turns."""
    times, worst = defaultdict(list), 0.0
    for seed in range(rounds):
        cost = costs(1, size, width, seed)[0]
        placed = jnp.asarray(cost)
        times[OURS] += milliseconds(lambda p=placed: solve(p).block_until_ready(), repeats)
        for name, peer in peers(size, largest_optax).items():
            times[name] += milliseconds(lambda f=peer, c=cost: f(c), repeats)
        best = total(cost, scipy_columns(cost))
        worst = max(worst, abs(total(cost, np.asarray(solve(placed))) / best - 1))
    print_ratios(f"A. assignment, d = {width}, B = {size}", times, OURS)
    print(f"  largest relative gap to scipy's cost: {worst:.1e}")


def many_problems(count: int, size: int, width: int, rounds: int, repeats: int) -> None:
    """Print the ratios of a stack of problems."""
    times = defaultdict(list)
    for seed in range(rounds):
        stack = costs(count, size, width, seed)
        placed = jnp.asarray(stack)
        for name, call in {OURS: solve_vmap, "ours, lax.map": solve_map, "optax, vmap": optax_vmap}.items():
            times[name] += milliseconds(lambda f=call, p=placed: jax.block_until_ready(f(p)), repeats)
        times["scipy, loop"] += milliseconds(lambda s=stack: [scipy_columns(c) for c in s], repeats)
        times["POT emd, loop"] += milliseconds(lambda s=stack: [emd_columns(c) for c in s], repeats)
    print_ratios(f"A. {count} assignments, d = {width}, B = {size}", times, OURS)


def unequal_masses(size: int, width: int, rounds: int, repeats: int) -> None:
    """Print the ratio of exact transport with random marginals."""
    times = defaultdict(list)
    for seed in range(rounds):
        cost = costs(1, size, width, seed)[0]
        masses = np.random.default_rng(seed).random((2, size)) + 0.1
        a, b = masses / masses.sum(1, keepdims=True)
        placed = jnp.asarray(cost), jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        times[OURS_UNEQUAL] += milliseconds(lambda p=placed: solve_unequal(*p).block_until_ready(), repeats)
        wide = cost.astype(np.float64)
        times["POT emd"] += milliseconds(lambda a=a, b=b, c=wide: ot.emd(a, b, c), repeats)
    print_ratios(f"A. transport of unequal masses, d = {width}, B = {size}", times, OURS_UNEQUAL)


def total(cost: np.ndarray, columns: np.ndarray) -> float:
    """Cost of an assignment in float64."""
    return float(cost.astype(np.float64)[np.arange(len(cost)), columns].sum())


def main(
    sizes: Sequence[int] = (64, 128, 256, 512, 1024),
    widths: Sequence[int] = (2, 64, 3072),
    rounds: int = 3,
    repeats: int = 3,
    largest_optax: int = 512,
) -> None:
    """Print the ratios of every size and width."""
    for width in widths:
        for size in sizes:
            one_problem(size, width, rounds, repeats, largest_optax)
    for width in (2, 64):
        many_problems(16, 128, width, rounds, repeats)
        for size in (64, 256, 512):
            unequal_masses(size, width, rounds, repeats)


if __name__ == "__main__":
    main()
