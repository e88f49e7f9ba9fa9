"""Case P: the alignment of every example with a direction beside one batch gradient, for an MLP 784-512-512-10.

Target: at most 1.1 of a batch gradient, and 0.1 for the last layer beside a forward pass that runs anyway. All in one
process, in turns.

Least times on two cores of a loaded machine: 0.96 (B = 128) and 0.83 (B = 512) of a batch gradient, medians 0.94 and
0.91; the last layer 0.012 and 0.008; the same numbers from the gradients of all examples, 32 at a time, 18 and 14.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax.scores import alignment, last_layer_alignment, last_layer_gradients

BATCH, WHOLE, LAST, FORMED = "one batch gradient", "alignment", "last_layer_alignment", "gradients of examples, formed"
Batch = dict[str, jax.Array]


def losses(params: Any, batch: Batch) -> jax.Array:
    """Cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["y"])


def formed(params: Any, batch: Batch, direction: Any) -> jax.Array:
    """The same inner products from the gradient of each row."""

    def of_row(row):
        gradient = jax.grad(lambda p: losses(p, jax.tree.map(lambda x: x[None], row))[0])(params)
        return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))

    return jax.lax.map(of_row, batch, batch_size=32)


def last_layer(features: jax.Array, logits: jax.Array, batch: Batch, direction: Any) -> jax.Array:
    """The alignment in the last layer, from what the forward pass has made."""
    return last_layer_alignment(last_layer_gradients(logits, batch["y"]), features, *direction[-1])


def calls_of(params: Any, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Jitted calls."""
    direction = jax.tree.map(jnp.ones_like, params)
    features = jax.nn.relu(mlp(params[:-1], batch["x"]))
    logits = mlp(params[-1:], features)
    gradient = jax.jit(jax.grad(lambda p, b: jnp.mean(losses(p, b))))
    return {
        BATCH: partial(gradient, params, batch),
        WHOLE: partial(jax.jit(partial(alignment, losses)), params, batch, direction),
        LAST: partial(jax.jit(last_layer), features, logits, batch, direction),
        FORMED: partial(jax.jit(formed), params, batch, direction),
    }


def main(all_rows: tuple[int, ...] = (128, 512), width: int = 512, rounds: int = 12, repeats: int = 5) -> None:
    """Print the ratios of medians, and of the least times."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = init_mlp(keys[0], (784, width, width, 10))
    for rows in all_rows:
        batch = {"x": jax.random.normal(keys[1], (rows, 784)), "y": jax.random.randint(keys[2], (rows,), 0, 10)}
        times, calls = defaultdict(list), calls_of(params, batch)
        for _ in range(rounds):
            for name, call in calls.items():
                count = 1 if name == FORMED else repeats
                times[name] += milliseconds(lambda c=call: jax.block_until_ready(c()), count)
        print_ratios(f"P. alignment, MLP 784-{width}-{width}-10, B = {rows}", times, WHOLE)
        for name in (WHOLE, LAST, FORMED):
            print(f"  {name}: {min(times[name]) / min(times[BATCH]):.3f} of '{BATCH}', least times")


if __name__ == "__main__":
    main()
