"""Micro-batches of a small network: memory that the compiler reports, time of a batch, and what the planner chooses.

The network is an MLP 784-512-512-10, the batch has 1024 rows, and a step is gradients by `accumulate` without an
optimizer. Beside a part that does not depend on the micro-batch, temporaries grow with it; the gradients of all sizes
of micro-batches are equal up to rounding. All times in one process, in turns. At the end two tables of arithmetic: how
long pipelines wait, and what a block of a transformer keeps for the backward pass.
"""

import functools
import os
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine import init_mlp, mlp
from experiments.speed._timing import milliseconds
from minibatch_jax import accumulate
from minibatch_jax.schedules import activation_bytes, largest_micro_batch, pipeline_bubble


def losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["y"])


def step_of(rows: int, micro_batch: int) -> Any:
    """Gradient of the mean loss, in micro-batches of this size."""
    weights = jnp.full(rows, 1 / rows)
    return jax.jit(lambda params, batch: accumulate(losses, weights, rows // micro_batch)(params, batch)[1])


def main(
    rows: int = 1024,
    widths: tuple[int, ...] = (784, 512, 512, 10),
    sizes: tuple[int, ...] = (16, 64, 256, 1024),
    budgets_mb: tuple[float, ...] = (17, 19, 21, 23),
    repeats: int = 9,
) -> None:
    """Print a line for each micro-batch, then what fits into some amounts of memory."""
    params = init_mlp(jax.random.key(0), widths)
    batch = {"x": jax.random.normal(jax.random.key(1), (rows, widths[0])), "y": jnp.arange(rows) % widths[-1]}

    @functools.cache
    def compiled(size: int) -> Any:
        return step_of(rows, size).lower(params, batch).compile()

    times = {size: [] for size in sizes}
    gradients = {size: compiled(size)(params, batch) for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            call = functools.partial(compiled(size), params, batch)
            times[size] += milliseconds(lambda call=call: jax.block_until_ready(call()), 1, warmup=0)
    print(f"\nMicro-batches of a batch of {rows}, MLP {'-'.join(map(str, widths))} (load {os.getloadavg()[0]:.1f})")
    print(f"  {'micro-batch':>12} {'steps':>6} {'temporaries MB':>15} {'median ms':>10} {'min':>8} {'differs by':>12}")
    for size in sizes:
        megabytes = compiled(size).memory_analysis().temp_size_in_bytes / 1e6
        differs = optax.tree.norm(optax.tree.sub(gradients[size], gradients[sizes[-1]]))
        relative = float(differs / optax.tree.norm(gradients[sizes[-1]]))
        middle, least = statistics.median(times[size]), min(times[size])
        print(f"  {size:>12} {rows // size:>6} {megabytes:>15.2f} {middle:>10.1f} {least:>8.1f} {relative:>12.1e}")
    for budget in budgets_mb:
        found = largest_micro_batch(compiled, rows, budget * 1e6)
        needs = f"{found.memory_bytes / 1e6:.2f} MB"
        print(f"  in {budget:g} MB: {found.size} rows, {found.accumulation_steps} micro-batches, which needs {needs}")
    waits = ", ".join(f"{pipeline_bubble(4, number):.2f} of {number}" for number in (1, 4, 16, 64))
    print(f"  idle fraction of a pipeline of 4 stages, by its number of micro-batches: {waits}")
    devices = (1, 2, 4, 8)
    print("  MB that a block of 5120 features and 40 heads keeps of 2048 tokens, by the devices that share a layer:")
    print(f"  {'recomputed':>12}" + "".join(f"{number:>9}" for number in devices))
    for recompute in ("none", "selective", "full"):
        kept = [activation_bytes(1, 2048, 5120, 40, tensor_parallel=t, recompute=recompute) / 1e6 for t in devices]
        print(f"  {recompute:>12}" + "".join(f"{number:>9.0f}" for number in kept))


if __name__ == "__main__":
    main()
