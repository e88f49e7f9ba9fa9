"""Case M: the gradient of a weighted mean over 512 examples in 8 micro-batches (`accumulate`), against its parts.

Target: at most 1.05 of the 8 micro-steps, each a jitted gradient of the weighted sum on 64 rows that is added to a
running sum. Beside it: `optax.microbatch` with the same sums, one step on all rows, and `value_and_grad` with
`micro_batches=8` that keeps the half with the highest losses, whose parts are 8 forward passes and the 8 micro-steps.
XLA counts the body of a loop once. In `accumulate` it counts three, of which one runs: two stand in the branch that
leaves rows out after a gradient that is not finite. So a body is 0.127 of the operations on all rows, 8 are 1.016.

Measured on one core of a loaded machine, 15 calls in turns: `accumulate` takes 0.965 of its micro-steps (medians; 0.967
by the shortest calls), 0.93 of `optax.microbatch` (0.61), 1.19 of one step on all rows. The selecting step takes 1.009
of its parts (0.914).
"""

from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax import accumulate, value_and_grad
from minibatch_jax.selection import keep_topk

OURS, STEPS, OPTAX, WHOLE = "accumulate", "its micro-steps", "optax.microbatch", "one step on all rows"
SELECTING, FORWARD = "value_and_grad that keeps half", "its forward passes"
Call = Callable[[], Any]


def losses(params: Any, batch: Any) -> jax.Array:
    """Cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["y"])


def weighted_sum(params: Any, batch: Any, weights: jax.Array) -> jax.Array:
    """What a micro-step differentiates."""
    return jnp.sum(weights * losses(params, batch))


def calls_of(params: Any, batch: Any, weights: jax.Array, parts: int) -> tuple[dict[str, Call], dict[str, float]]:
    """Calls, and the operations of each in the units of XLA."""
    rows = weights.shape[0]
    size, select = rows // parts, keep_topk(rows // 2)
    gradient = jax.value_and_grad(weighted_sum)
    blocks = [jax.tree.map(lambda x, j=j: x[j::parts], (batch, weights)) for j in range(parts)]

    def micro_step(params, sums, batch, weights):
        return jax.tree.map(jnp.add, sums, gradient(params, batch, weights))

    def by_optax(params, batch, weights):
        sums = optax.microbatch(gradient, argnums=(1, 2), microbatch_size=size)(params, batch, weights)
        return jax.tree.map(lambda x: x / jnp.sum(weights), sums)

    def selecting(params, batch):
        return value_and_grad(losses, select, micro_batches=parts)(params, batch, select.init(weights))[:2]

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    flops, compiled = {}, {}

    def compile_one(name, function, *arguments, rounds=1):
        compiled[name] = jax.jit(function).lower(*arguments).compile()
        flops[name] = rounds * compiled[name].cost_analysis()["flops"]
        return lambda: jax.block_until_ready(compiled[name](*arguments))

    calls = {
        OURS: compile_one(OURS, lambda p, b, w: accumulate(losses, w, parts)(p, b), params, batch, weights),
        OPTAX: compile_one(OPTAX, by_optax, params, batch, weights),
        WHOLE: compile_one(WHOLE, lambda p, b, w: gradient(p, b, w / jnp.sum(w)), params, batch, weights),
        SELECTING: compile_one(SELECTING, selecting, params, batch),
    }
    compile_one(STEPS, micro_step, params, zeros, *blocks[0], rounds=parts)
    compile_one(FORWARD, losses, params, blocks[0][0], rounds=parts)

    def micro_steps():
        sums = zeros
        for block in blocks:
            sums = compiled[STEPS](params, sums, *block)
        return jax.block_until_ready(sums)

    forward = lambda: jax.block_until_ready([compiled[FORWARD](params, block) for block, _ in blocks])  # noqa: E731
    return {**calls, STEPS: micro_steps, FORWARD: forward}, flops


def main(rows: int = 512, parts: int = 8, width: int = 1024, rounds: int = 5, repeats: int = 3) -> None:
    """Print times, ratios and operations."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = init_mlp(keys[0], (width, width, width, 10))
    batch = {"x": jax.random.normal(keys[1], (rows, width)), "y": jax.random.randint(keys[2], (rows,), 0, 10)}
    weights = jnp.where(jnp.arange(rows) % parts == 1, 0.0, 1.0 + jnp.arange(rows) % 3)
    calls, flops = calls_of(params, batch, weights, parts)
    times = defaultdict(list)
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += milliseconds(call, repeats)
    print_ratios(f"M. MLP {width}-{width}-{width}-10, B = {rows} in {parts} micro-batches", times, OURS)
    for name, count in flops.items():
        print(f"  operations of {name:<30} {count / 1e9:8.3f}e9, of all rows at once {count / flops[WHOLE]:.3f}")
    middle, least = ({name: f(values) for name, values in times.items()} for f in (median, min))
    for title, of in (("medians", middle), ("shortest", least)):
        selecting = of[SELECTING] / (of[FORWARD] + of[STEPS])
        print(f"  {title}: accumulate / parts {of[OURS] / of[STEPS]:.3f} (target 1.05), selecting {selecting:.3f}")


if __name__ == "__main__":
    main()
