"""Case O: what the noise scale costs beside a training step, for an MLP 784-512-512-10 and Adam.

Target: at most 1.03 of a step that accumulates 8 micro-batches anyway, with the norms of their gradients. They cost one
more read of the gradient for each micro-batch, whatever its rows. In CPU time of one core, least of 30 to 60 calls, on
a busy machine, the gradients alone: with 64 rows in a micro-batch the target is missed (1.05, 1.3 ms of 28), with 256
rows it is met (1.02, 2.4 ms of 103). Beside it stand the norms of single examples: exact ones with taps (about 1.2 of a
step at once) and those of formed gradients (8). All in one process, in turns; the least time says more than the median
on a busy machine.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax

from experiments.engine.arms import descend
from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax import value_and_grad
from minibatch_jax.scores import (
    ghost_gradient_norms,
    gradient_norms,
    group_sums,
    grouped_value_and_grad,
    noise_scale,
    tap_dense,
)

PLAIN, GROUPS = "step in micro-batches", "step in micro-batches, noise scale"
WHOLE, TAPS, FORMED = "step at once", "step at once, norms by taps", "step at once, norms of formed gradients"
Batch = dict[str, jax.Array]


def losses(params: Any, batch: Batch) -> jax.Array:
    """Cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["y"])


def tapped_losses(params: Any, batch: Batch, tap: jax.Array) -> jax.Array:
    """The same losses with a tap at each layer."""
    x = batch["x"]
    for number, (kernel, bias) in enumerate(params):
        y = tap_dense(tap, x, x @ kernel + bias[None])
        x = jax.nn.relu(y) if number < len(params) - 1 else y
    return optax.softmax_cross_entropy_with_integer_labels(x, batch["y"])


def calls_of(params: Any, batch: Batch, blocks: int) -> dict[str, Callable[[], Any]]:
    """Jitted steps of Adam."""
    rows, nothing = batch["y"].shape[0], optax.identity()
    optimizer, monitor = optax.adam(1e-3), noise_scale()
    start = optimizer.init(params), monitor.init(params)

    def plain(micro_batches, params, state, batch):
        step = value_and_grad(losses, nothing, micro_batches=micro_batches)
        return descend(optimizer, step(params, batch, optax.EmptyState())[1], params, state[0])

    def in_groups(params, state, batch):
        step = grouped_value_and_grad(losses, nothing, micro_batches=blocks)
        _, grads, _, groups = step(params, batch, optax.EmptyState())
        grads, seen = monitor.update(grads, state[1], groups=groups)
        return descend(optimizer, grads, params, state[0]), seen

    def by_examples(norms, params, state, batch):
        grads = value_and_grad(losses, nothing)(params, batch, optax.EmptyState())[1]
        groups = group_sums(norms(params, batch) ** 2, 1)
        grads, seen = monitor.update(grads, state[1], groups=groups)
        return descend(optimizer, grads, params, state[0]), seen

    def taps(params, batch):
        return ghost_gradient_norms(lambda tap: tapped_losses(params, batch, tap), rows)

    calls = {
        PLAIN: partial(plain, blocks),
        GROUPS: in_groups,
        WHOLE: partial(plain, 1),
        TAPS: partial(by_examples, taps),
        FORMED: partial(by_examples, partial(gradient_norms, losses)),
    }
    return {name: partial(jax.jit(call), params, start, batch) for name, call in calls.items()}


def main(
    all_rows: tuple[int, ...] = (512, 2048), blocks: int = 8, width: int = 512, rounds: int = 12, repeats: int = 4
) -> None:
    """Print the ratios of medians, and of the least times."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = init_mlp(keys[0], (784, width, width, 10))
    for rows in all_rows:
        batch = {"x": jax.random.normal(keys[1], (rows, 784)), "y": jax.random.randint(keys[2], (rows,), 0, 10)}
        times, calls = defaultdict(list), calls_of(params, batch, blocks)
        for _ in range(rounds):
            for name, call in calls.items():
                count = 1 if name == FORMED else repeats
                times[name] += milliseconds(lambda c=call: jax.block_until_ready(c()), count)
        print_ratios(f"O. noise scale, MLP 784-{width}-{width}-10, B = {rows}, {blocks} micro-batches", times, GROUPS)
        for name, base in ((GROUPS, PLAIN), (TAPS, WHOLE), (FORMED, WHOLE)):
            print(f"  {name}: {min(times[name]) / min(times[base]):.3f} of '{base}', least times")


if __name__ == "__main__":
    main()
