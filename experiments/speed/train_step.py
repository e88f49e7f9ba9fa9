"""Case G: a train step on 512 examples that keeps the half with the highest losses (`value_and_grad(gather=256)`).

Target: at most 1.1 of its parts, a forward pass over all and a step on half. Whether it is faster than a step on all is
up to the network: the ideal share of that step, (forward + half step) / full step, is printed beside it. `lax.conv` has
a slow gradient on a CPU, so its large gain there is an artefact; the convolution by shifts and products has none.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine.arms import descend
from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_topk

OURS, FULL, FORWARD, HALF = "step that keeps half", "step on all", "forward pass over all", "step on half"
MASKED = "step that weighs half, no gather"
Batch = dict[str, jax.Array]


def by_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution, "SAME"."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as nine shifted products."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return sum((padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in shifts), jnp.zeros(()))


def conv_net(convolve: Callable[..., jax.Array], params: Any, x: jax.Array) -> jax.Array:
    """Two convolutions with ReLU and 2x2 average pooling, then a dense layer: `[B, 32, 32, 3]` to `[B, 10]`."""
    for kernel in params["kernels"]:
        x = jax.nn.relu(convolve(x, kernel))
        x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
    return mlp(params["dense"], x.reshape(x.shape[0], -1))


def networks(width: int, channels: int) -> dict[str, tuple[Any, Callable[..., jax.Array]]]:
    """Name to parameters and function of parameters and images."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 3, 3, channels), (3, 3, channels, 2 * channels)]
    kernels = [jax.random.normal(k, s) * (2 / (9 * s[2])) ** 0.5 for k, s in zip(keys, shapes)]
    conv = {"kernels": kernels, "dense": init_mlp(keys[2], (64 * 2 * channels, 10))}
    flat = init_mlp(keys[3], (3072, width, width, 10))
    return {
        f"MLP 3072-{width}-{width}-10": (flat, lambda p, x: mlp(p, x.reshape(x.shape[0], -1))),
        "conv net, lax.conv": (conv, partial(conv_net, by_lax)),
        "conv net, shifts and products": (conv, partial(conv_net, by_shifts)),
    }


def calls_of(apply: Callable[..., jax.Array], params: Any, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Jitted calls; a step is Adam."""
    rows = batch["y"].shape[0]
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(params)

    def losses(params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, batch["x"]), batch["y"])

    def plain(params, opt_state, batch):
        return descend(optimizer, jax.grad(lambda p: jnp.mean(losses(p, batch)))(params), params, opt_state)

    def selecting(gather):
        selection = optax.chain(keep_topk(rows // 2), normalize())
        step = value_and_grad(losses, selection, gather=gather)
        state = selection.init(jnp.zeros(rows))
        return lambda p, o, b: descend(optimizer, step(p, b, state)[1], p, o)

    half = jax.tree.map(lambda x: x[: rows // 2], batch)
    calls = {
        OURS: (selecting(rows // 2), batch),
        MASKED: (selecting(None), batch),
        FULL: (plain, batch),
        FORWARD: (lambda p, o, b: losses(p, b), batch),
        HALF: (plain, half),
    }
    return {name: partial(jax.jit(call), params, opt_state, b) for name, (call, b) in calls.items()}


def main(rows: int = 512, width: int = 512, channels: int = 32, rounds: int = 3, repeats: int = 5) -> None:
    """Print the ratios for each network, and the share of the parts that the step takes."""
    keys = jax.random.split(jax.random.key(1))
    batch = {"x": jax.random.normal(keys[0], (rows, 32, 32, 3)), "y": jax.random.randint(keys[1], (rows,), 0, 10)}
    for name, (params, apply) in networks(width, channels).items():
        times, calls = defaultdict(list), calls_of(apply, params, batch)
        for _ in range(rounds):
            for call_name, call in calls.items():
                times[call_name] += milliseconds(lambda c=call: jax.block_until_ready(c()), repeats)
        print_ratios(f"G. {name}, B = {rows}, half kept", times, OURS)
        middle = {call_name: median(values) for call_name, values in times.items()}
        parts = middle[FORWARD] + middle[HALF]
        ideal = f"forward / full {middle[FORWARD] / middle[FULL]:.2f}, ideal share {parts / middle[FULL]:.2f}"
        print(f"  step / (forward + half step) {middle[OURS] / parts:.3f} (target 1.1); {ideal}")


if __name__ == "__main__":
    main()
