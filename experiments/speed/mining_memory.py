"""Memory of mining over devices: losses, miners and retrieval of 16,384 x 512 embeddings, one block row per device.

Runs in a fresh process with 8 CPU devices, which share its cores. Prints what XLA reserves on a device for a loss and
its gradient, or for a retrieval score: on one device with the [B, B] array, as whole rows of a device (`jit` of the
same code on sharded embeddings), and in blocks of rows (`shard_map` and `axis_name`). Then it runs three of the blocked
ones, for their seconds and the growth of the process's peak memory: all devices and the arguments together.

Measured: SupCon and its gradient reserve 4.9 GB on one device, 642 MB of a device in whole rows, 181 MB in blocks of
128 rows, of which the block row is 8.4 MB and the gathered embeddings with their gradients most of the rest; 26 s on
one core. Hard triplets 134 MB and 6 s, recall@1 59 MB and 4 s. The process, all devices together, grew by 1.4 GB.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.speed._timing import in_fresh_process
from minibatch_jax import metrics, mining

DEVICES, PER_CLASS = 8, 8
Step = Callable[[jax.Array, jax.Array], Any]
each = functools.partial


def supcon(s: jax.Array, p: jax.Array, n: jax.Array, reduction: str = "anchors") -> jax.Array:
    return mining.supcon_loss(s, p, n, reduction=reduction)


def multi_similarity(s: jax.Array, p: jax.Array, n: jax.Array, reduction: str = "anchors") -> jax.Array:
    return mining.multi_similarity_loss(s, *mining.multi_similarity_pair_masks(s, p, n), reduction=reduction)


def triplets(d: jax.Array, p: jax.Array, n: jax.Array, reduction: str = "anchors") -> jax.Array:
    return mining.triplet_loss(d, p, n, mining="semihard", reduction=reduction)


LOSSES = {
    "SupCon": (mining.cosine_similarity, supcon),
    "multi-similarity, miner and loss": (mining.cosine_similarity, multi_similarity),
    "semi-hard triplets": (mining.euclidean_distances, triplets),
}
RETRIEVAL = {
    "recall@1": metrics.recall_at_k,
    "R-precision, mAP@R": each(metrics.retrieval_scores, max_positives=PER_CLASS),
}
HARD = "hard triplets through chosen pairs"
RUN = ("SupCon", HARD, "recall@1")


def whole(compare: Callable[..., jax.Array], loss: Callable[..., jax.Array]) -> Step:
    """Loss and gradient with all distances at once."""

    def value(x, y):
        return loss(compare(x), mining.positive_mask(y), mining.negative_mask(y), reduction="anchor_mean")

    return jax.value_and_grad(value)


def in_blocks(mesh: jax.sharding.Mesh, block: int) -> dict[str, Step]:
    """The same, and retrieval, a block of anchors of each device at a time."""

    def over_devices(function):
        return jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P())

    def blockwise(compare, loss):
        def local(x, y):
            losses = mining.blockwise_losses(loss, x, y, compare=compare, block_size=block, axis_name="data")
            return mining.reduce_losses(losses, jnp.isfinite(losses), "mean", "data")

        return jax.value_and_grad(over_devices(local))

    options = {"block_size": block, "axis_name": "data"}
    return {
        **{name: blockwise(*parts) for name, parts in LOSSES.items()},
        HARD: jax.value_and_grad(over_devices(each(mining.mined_triplet_loss, **options))),
        **{name: over_devices(each(score, **options)) for name, score in RETRIEVAL.items()},
    }


def reserved(step: Step, size: int, width: int, sharding: Any = None) -> float:
    """MB of temporaries on a device."""
    x = jax.ShapeDtypeStruct((size, width), "float32", sharding=sharding)
    y = jax.ShapeDtypeStruct((size,), "int32", sharding=sharding)
    memory = jax.jit(step).lower(x, y).compile().memory_analysis()
    assert memory is not None, "this backend reports no memory"
    return memory.temp_size_in_bytes / 1e6


def measure(size: int, width: int, block: int, run: bool) -> dict[str, dict[str, float]]:
    """By row: MB on a device by the three ways, seconds and MB of the run."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    blocked = in_blocks(mesh, block)
    found = {name: {"blocks": reserved(step, size, width, rows)} for name, step in blocked.items()}
    for name, parts in LOSSES.items():
        found[name]["one device"] = reserved(whole(*parts), size, width)
        found[name]["rows"] = reserved(whole(*parts), size, width, rows)
    x = jax.device_put(jax.random.normal(jax.random.key(0), (size, width)), rows)
    y = jax.device_put(jnp.arange(size, dtype=jnp.int32) // PER_CLASS, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in RUN if run else ():
        compiled = jax.jit(blocked[name]).lower(x, y).compile()
        start = time.perf_counter()
        jax.block_until_ready(compiled(x, y))
        found[name]["seconds"] = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    return {**found, "the process": {"grown": grown}}


def main(size: int = 16_384, width: int = 512, block: int = 128, run: bool = True) -> None:
    """Print memory of all ways."""
    found = in_fresh_process(__spec__.name, size, width, block, int(run))
    row, all_rows = size * 4 / 1e6, size**2 * 4 / 1e6
    print(f"\nMining over {DEVICES} devices, B = {size}, d = {width}, float32: MB of temporaries on a device")
    print(f"  [B, B] {all_rows:.0f}; rows of a device {all_rows / DEVICES:.0f}; block row of {block} {block * row:.1f}")
    print(f"  all embeddings, gathered on each device: {size * width * 4 / 1e6:.0f}")
    grown = found.pop("the process")["grown"]
    print(f"  {'loss and gradient, or score':<36} {'one device':>11} {'rows':>11} {'blocks':>11} {'seconds':>11}")
    for name, values in found.items():
        cells = (values.get(key) for key in ("one device", "rows", "blocks", "seconds"))
        print(f"  {name:<36} {' '.join(' ' * 11 if cell is None else f'{cell:>11.1f}' for cell in cells)}")
    print(f"  growth of the peak of the process by all runs: {grown:.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        size, width, block, run = map(int, sys.argv[1:])
        print(json.dumps(measure(size, width, block, bool(run))))
    else:
        main()
