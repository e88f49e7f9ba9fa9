"""The two backbones: a step of Adam takes at most 60 ms (images) and 40 ms (text), its forward pass a third of that.

Images are 128 of 28x28 pixels, texts 32 of 64 bytes. Forward pass and step are timed in turn, by the clock and in the
time of all CPUs. The gradient of a weight is a product over all tokens, which XLA does at half the speed of the forward
products on a CPU: so a forward pass is less than a third.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.engine import descend
from experiments.shared.backbones import ByteTransformer, PatchMixer, functional

REPEATS = 30


def cases() -> dict[str, tuple[nnx.Module, jax.Array, jax.Array]]:
    """Name to network, inputs and labels."""
    images = jax.random.normal(jax.random.key(0), (128, 28, 28, 1))
    tokens = jax.random.randint(jax.random.key(1), (32, 64), 0, 256)
    mixer, transformer = PatchMixer(10, rngs=nnx.Rngs(0)), ByteTransformer(rngs=nnx.Rngs(0))
    return {
        "PatchMixer, 128 images": (mixer, images, jnp.arange(128) % 10),
        "bytes, 32 x 64": (transformer, tokens, tokens),
    }


def measure(name: str, network: Any, inputs: jax.Array, labels: jax.Array) -> None:
    """Print the milliseconds of a forward pass and of a step, and their ratio."""
    apply, params = functional(network)
    optimizer = optax.adam(1e-3)

    def loss(params):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply(params, inputs), labels))

    forward, state = jax.jit(loss), optimizer.init(params)
    step = jax.jit(lambda params, state: descend(optimizer, jax.grad(loss)(params), params, state))
    calls: list[Callable[[], Any]] = [lambda: forward(params), lambda: step(params, state)]
    times = [[], []]
    for repeat in range(REPEATS + 1):
        for call, found in zip(calls, times):
            clock, busy = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if repeat:
                found.append((1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - busy)))
    (forward_ms, forward_cpu), (step_ms, step_cpu) = ([statistics.median(t) for t in zip(*found)] for found in times)
    print(
        f"  {name:<24} {forward_ms:>10.1f} {step_ms:>8.1f} {forward_ms / step_ms:>14.2f} "
        f"{forward_cpu:>14.1f} {step_cpu:>12.1f} {forward_cpu / step_cpu:>10.2f}"
    )


def main() -> None:
    """Print one line for each network."""
    print(f"\nBackbones (load average {os.getloadavg()[0]:.1f})")
    print(
        f"  {'':<24} {'forward ms':>10} {'step ms':>8} {'forward / step':>14} "
        f"{'CPU: forward ms':>14} {'step ms':>12} {'ratio':>10}"
    )
    for name, case in cases().items():
        measure(name, *case)


if __name__ == "__main__":
    main()
