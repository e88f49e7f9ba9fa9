"""Case H: the norm of each example's gradient, for a batch of 512 and an MLP 3072-512-512-10.

Target: ghost norms at most 0.8 of one batch gradient. All in one process, in turns; `vmap(grad)` at once needs 4 GB and
runs with `whole=True` only. The bound is timed together with the losses, as it is used: alone, a program that ends in a
softmax is fused whole by XLA on a CPU (jaxlib 0.10.2) and takes 7 times as long as the forward pass.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax.scores import ghost_gradient_norms, gradient_norms, linen_gradient_norms, tap_dense
from minibatch_jax.selection import gradient_norm_bound

LINEN, TAPS, BATCH = "linen_gradient_norms", "ghost_gradient_norms, taps by hand", "one batch gradient"
BOUND = "forward pass with the bound by the logits"


class Mlp(nn.Module):
    """Dense layers with ReLU between them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


def problem(rows: int, widths: tuple[int, ...], seed: int = 0) -> tuple[Mlp, Any, dict[str, jax.Array]]:
    """The network, its parameters and a batch; `widths` is inputs, hidden layers, classes."""
    keys = jax.random.split(jax.random.key(seed), 3)
    model = Mlp(widths[1:])
    x = jax.random.normal(keys[0], (rows, widths[0]))
    batch = {"x": x, "y": jax.random.randint(keys[1], (rows,), 0, widths[-1])}
    return model, jax.jit(model.init)(keys[2], x), batch


def losses(model: Mlp, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy of each row."""
    return cross_entropy(logits(model, params, batch), batch["y"])


def logits(model: Mlp, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """What the network says, `[B, C]`."""
    out: Any = model.apply(params, batch["x"])
    return out


def tapped_losses(params: Any, batch: dict[str, jax.Array], tap: jax.Array) -> jax.Array:
    """The same network on plain arrays, with taps."""
    x, layers = batch["x"], list(params["params"].values())
    for i, layer in enumerate(layers):
        y = tap_dense(tap, x, x @ layer["kernel"] + layer["bias"][None])
        x = nn.relu(y) if i < len(layers) - 1 else y
    return cross_entropy(x, batch["y"])


def calls_of(model: Mlp, rows: int, whole: bool) -> dict[str, Callable[..., jax.Array]]:
    """What is timed, as jitted functions of params and batch."""
    loss_fn = partial(losses, model)

    def batch_gradient(params, batch):
        return jax.grad(lambda p: jnp.mean(loss_fn(p, batch)))(params)

    def bound_and_losses(params, batch):
        said = logits(model, params, batch)
        return gradient_norm_bound(said, batch["y"]), cross_entropy(said, batch["y"])

    calls = {
        LINEN: lambda p, b: linen_gradient_norms(loss_fn, p, b),
        TAPS: lambda p, b: ghost_gradient_norms(lambda tap: tapped_losses(p, b, tap), rows),
        BATCH: batch_gradient,
        "forward pass": loss_fn,
        BOUND: bound_and_losses,
        "gradient_norms, chunks of 16": lambda p, b: gradient_norms(loss_fn, p, b),
    }
    if whole:
        calls["vmap(grad)"] = lambda p, b: gradient_norms(loss_fn, p, b, block_size=rows)
    return {name: jax.jit(call) for name, call in calls.items()}


def main(
    rows: int = 512,
    widths: tuple[int, ...] = (3072, 512, 512, 10),
    rounds: int = 3,
    repeats: int = 9,
    whole: bool = False,
) -> None:
    """Print the ratios, and how far the norms are from those of formed gradients."""
    model, params, batch = problem(rows, widths)
    calls = calls_of(model, rows, whole)
    times = defaultdict(list)
    for _ in range(rounds):
        for name, call in calls.items():
            slow = name.startswith(("gradient_norms", "vmap"))
            run = partial(call, params, batch)
            times[name] += milliseconds(
                lambda r=run: jax.block_until_ready(r()), max(repeats // 9, 1) if slow else repeats
            )
    print_ratios(f"H. gradient norms, MLP {'-'.join(map(str, widths))}, B = {rows}", times, LINEN)
    formed = calls["gradient_norms, chunks of 16"](params, batch)
    for name in (LINEN, TAPS):
        differs = jnp.max(jnp.abs(calls[name](params, batch) / formed - 1))
        print(f"  {name}: differs from formed gradients by at most {float(differs):.1e} of the norm")
    bound, _ = calls[BOUND](params, batch)
    print(f"  bound by the logits: correlation with the norms {float(jnp.corrcoef(bound, formed)[0, 1]):.2f}")


if __name__ == "__main__":
    main()
