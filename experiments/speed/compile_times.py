"""Cases K and L: how long programs take to compile and how much they reserve, of every factory and of the functions.

The factories are those of the conformance suite, with its arguments, on batches of `size` items; so run it from a
checkout. The functions choose `kept` of `size` items, and have as many classes. All are compiled from shapes alone,
without the persistent cache, one after the other in one process. A program of one device should take at most a second
to be traced, lowered and compiled, and no longer for larger batches or more choices: run it with other sizes. It should
reserve at most four floats for each pair of a batch of 4,096.

Measured on two cores, nothing else running, B = 1024: 5 of 90 transformations and 6 of 138 functions took longer than a
second, `attention_scores` 3.0, `keep_by_attention` 2.8, `couple_hierarchical` 1.8, `multifilter_regressions` 1.4,
`typi_clust_indices`, `batch_bald_indices` and `immiscible_noise` 1.1 to 1.3; half took less than .4. At B = 4096 and
k = 1024 they take as long. Temporaries at B = 4096: `manifold_loss` with gradient 8.6, `angular_loss` 6.4,
`lifted_structure_loss` 5.3; of couplings 5 at most.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

from experiments.speed._compiled_functions import Program, functions
from minibatch_jax.testing import ROWS, transformations

SECONDS, PAIRS = 1.0, 4.0  # the targets
OF_FIXED_SIZE = ("mix_by_schedule", "mix_by_skills")


def factories(size: int) -> dict[str, Program]:
    """One update of each transformation of the conformance suite, its batch of `ROWS` rows grown to `size`."""
    from tests.conformance_test import CASES  # not installed

    def grown(x):
        return jax.ShapeDtypeStruct(tuple(size if rows == ROWS else rows for rows in x.shape), x.dtype)

    programs = {}
    for name, case in CASES.items():
        batch = transformations.draw(case)
        weights, signals = batch if name in OF_FIXED_SIZE else jax.tree.map(grown, batch)
        tx = case.make()
        state = jax.eval_shape(tx.init, weights)
        programs[name] = Program(lambda w, state, x, tx=tx: tx.update(w, state, **x), (weights, state, signals))
    return programs


class Cost(NamedTuple):
    """Seconds until a program is lowered and until it is compiled, and its temporaries in floats for each pair."""

    lowered: float
    compiled: float
    memory: float


def cost(program: Program, size: int) -> Cost:
    """Compile, cold."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(program.function).lower(*program.shapes)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend reports no memory"
    return Cost(middle - start, end - start, memory.temp_size_in_bytes / (4 * size**2))


def print_costs(title: str, costs: Mapping[str, Cost], size: int, lines: int) -> None:
    """The slowest first, and the largest."""
    print(f"\n{title} (load average {os.getloadavg()[0]:.1f})")
    print(f"  {'slowest: seconds until':<52} {'lowered':>8} {'compiled':>9}")
    for name, found in sorted(costs.items(), key=lambda item: -item[1].compiled)[:lines]:
        print(f"  {name:<52} {found.lowered:>8.2f} {found.compiled:>9.2f}")
    print(f"  above {SECONDS:g} s: {sum(found.compiled > SECONDS for found in costs.values())} of {len(costs)}")
    print(f"  {'largest: temporaries in floats for each pair, B^2':<70} {size**2 * 4 / 1e6:.0f} MB")
    for name, found in sorted(costs.items(), key=lambda item: -item[1].memory)[:lines]:
        print(f"  {name:<52} {found.memory:>18.2f}")
    print(f"  above {PAIRS:g}: {sum(found.memory > PAIRS for found in costs.values())} of {len(costs)}")


def main(size: int = 1024, kept: int = 256, lines: int = 20) -> None:
    """Compile all and print the slowest and the largest."""
    jax.config.update("jax_enable_compilation_cache", False)
    title = f"Programs compiled for {jax.default_backend()}, B = {size}"
    for kind, programs in ((", transformations", factories(size)), (f", k = {kept}, functions", functions(size, kept))):
        print_costs(title + kind, {name: cost(program, size) for name, program in programs.items()}, size, lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
