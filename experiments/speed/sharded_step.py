"""Case I: what each device of a mesh computes and receives in a step with `value_and_grad(gather=k)` under `jit`.

Read from the compiled program, in a fresh process with 8 CPU devices: FLOPs of a device against the forward pass of its
share of the batch and a step on its share of the k rows (target at most 1.05), and the bytes of every collective.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import in_fresh_process

DEVICES = 8
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}
Meshes = Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]
MESHES: Meshes = {"(8,)": ((8,), ("data",)), "(4, 2)": ((4, 2), ("data", "model"))}
NAMES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf"= (.*?) ({NAMES})\(")
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def measure(rows: int, kept: int, widths: tuple[int, ...], meshes: Meshes = MESHES) -> dict[str, dict[str, float]]:
    """FLOPs of a device as a ratio, and megabytes of each kind of collective, for every mesh and kind of axes."""
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from minibatch_jax import normalize, value_and_grad
    from minibatch_jax.selection import keep_topk

    select = optax.chain(keep_topk(kept), normalize())
    params, state = init_mlp(jax.random.key(0), widths), select.init(jnp.zeros(rows))
    labels = jnp.arange(rows) % widths[-1]
    batch = {"x": jax.random.normal(jax.random.key(1), (rows, widths[0])), "y": jax.nn.one_hot(labels, widths[-1])}

    def losses(params, batch):
        return optax.softmax_cross_entropy(mlp(params, batch["x"]), batch["y"])

    def one_step(params, batch):
        return jax.value_and_grad(lambda p: jnp.sum(losses(p, batch)))(params)

    def first(count):
        return jax.tree.map(lambda x: x[:count], batch)

    found = {}
    for name, (shape, axes) in meshes.items():
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(shape))
            whole, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
            placed = jax.device_put(params, whole), jax.device_put(batch, sharded), jax.device_put(state, whole)
            compiled: Any = jax.jit(value_and_grad(losses, select, gather=kept, rows_axis="data"))
            compiled = compiled.lower(*placed).compile()
            parts = flops(losses, params, first(rows // shape[0])) + flops(one_step, params, first(kept // shape[0]))
            moved: Counter[str] = Counter()
            for result, operation in COLLECTIVE.findall(compiled.as_text()):
                for dtype, size in SHAPE.findall(result):
                    moved[operation] += BYTES[dtype] * prod(int(n) for n in size.split(",") if n)
            ratio = compiled.cost_analysis()["flops"] / parts
            found[f"{name}, {kind.name}"] = {"ratio": ratio, **{k: n / 1e6 for k, n in moved.items()}}
    return found


def flops(function: Any, *args: Any) -> float:
    """FLOPs of the compiled function."""
    compiled: Any = jax.jit(function).lower(*args).compile()
    return compiled.cost_analysis()["flops"]


def main(rows: int = 128, kept: int = 64, widths: tuple[int, ...] = (48, 256, 10)) -> None:
    """Print the ratio of FLOPs and the megabytes that collectives bring to a device."""
    found = in_fresh_process(__spec__.name, rows, kept, *widths)
    print(f"\nI. sharded step, MLP {'-'.join(map(str, widths))}, B = {rows}, k = {kept}; MB a device receives")
    for mesh, numbers in found.items():
        ratio = numbers.pop("ratio")
        print(f"  {mesh:18s} FLOPs / parts {ratio:.3f} (target 1.05); ", end="")
        print(", ".join(f"{name} {megabytes:.4f}" for name, megabytes in numbers.items()))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    size, wanted, *layers = map(int, sys.argv[1:])
    print(json.dumps(measure(size, wanted, tuple(layers))))
