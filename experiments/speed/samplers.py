"""Samplers over a million rows: sample and update take at most 3 ms, also where an epoch ends, and compile in 1 s.

The state is donated, and each step waits for its rows. The steps of `shuffled` reach over the end of an epoch, which
comes after `examples / batch_size` of them. Compiling is measured with the compilation cache off, from the trace to the
program, of sample and update together.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed._timing import milliseconds
from minibatch_jax import mixing, sampling
from minibatch_jax.sampling import Sampler

DOMAINS = 12
Made = tuple[Sampler, Callable[[], Any], dict[str, jax.Array]]


def samplers(examples: int, classes: int, batch_size: int) -> dict[str, Made]:
    """Name to sampler, its first state, and what is fed back."""
    key, losses = jax.random.key(0), jnp.linspace(0.0, 2.0, batch_size)
    labels = jax.random.randint(key, (examples,), 0, classes)
    weights = jax.random.uniform(key, (examples,))
    shuffled, weighted = sampling.shuffled(examples, batch_size), sampling.weighted(batch_size, decay=0.5)
    by_class = sampling.by_class(classes, batch_size // 4, 4)
    mixture = sampling.mixture(DOMAINS, batch_size, mixing.mix_by_odm())
    return {
        "shuffled": (shuffled, lambda: shuffled.init(key), {}),
        f"by_class, {classes} classes": (by_class, lambda: jax.jit(by_class.init)(key, labels=labels), {}),
        "weighted": (weighted, lambda: weighted.init(key, weights=weights), {"losses": losses}),
        f"mixture, {DOMAINS} domains": (
            mixture,
            lambda: jax.jit(mixture.init)(key, domains=labels % DOMAINS),
            {"losses": losses},
        ),
    }


def measure(name: str, made: Made, steps: int) -> None:
    """Print the seconds to compile, of the clock and of the CPUs, and the milliseconds of a step."""
    sampler, init, signals = made

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, signals: dict[str, jax.Array]) -> Any:
        rows, state = sampler.sample(state)
        return rows, sampler.update(state, rows, **signals)

    state = init()
    start, busy = time.perf_counter(), time.process_time()
    program = step.lower(state, signals).compile()
    compiled, busy = time.perf_counter() - start, time.process_time() - busy

    def call() -> None:
        nonlocal state
        _, state = jax.block_until_ready(program(state, signals))

    times = milliseconds(call, steps)
    tail = statistics.quantiles(times, n=100)[98]
    print(
        f"  {name:<28} {compiled:>10.2f} {busy:>10.2f} {statistics.median(times):>10.3f} {min(times):>10.3f} "
        f"{tail:>10.3f} {max(times):>10.3f}"
    )


def main(
    examples: int = 1_000_000, classes: tuple[int, ...] = (1000, 100_000), batch_size: int = 256, steps: int = 4000
) -> None:
    """Print one line for each sampler."""
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"\nSamplers, N = {examples}, b = {batch_size}, {steps} steps (load average {os.getloadavg()[0]:.1f})")
    print(f"  {'':<28} {'compile s':>10} {'CPU s':>10} {'median ms':>10} {'min':>10} {'99%':>10} {'max':>10}")
    for count in classes:
        for name, made in samplers(examples, count, batch_size).items():
            if count == classes[0] or name.startswith("by_class"):
                measure(name, made, steps)


if __name__ == "__main__":
    main()
