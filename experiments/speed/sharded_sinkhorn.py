"""Memory of row-sharded Sinkhorn: 65,536 x 65,536 pairs on 8 devices, no cost matrix anywhere.

Runs in a fresh process with 8 CPU devices, which share its cores. Prints what XLA reserves on a device and the growth
of the process's peak memory, beside the size of the cost matrix and of one device's rows of it; then the time of an
iteration. One iteration of B = 65,536 takes about 25 s on one core: all costs are computed again.
"""

import json
import resource
import time

import jax

from experiments.speed._timing import in_fresh_process

DEVICES = 8


def measure(size: int, width: int, chunk: int, iterations: int) -> dict[str, float]:
    """Memory in MB and seconds of one call, in a process with 8 devices."""
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from minibatch_jax.coupling import sharded_sinkhorn
    from minibatch_jax.coupling.plans import Potentials

    mesh = jax.make_mesh((DEVICES,), ("rows",), axis_types=(AxisType.Auto,))

    def couple(x0, x1):
        # Gaussians: the mean squared distance is 2 * width
        return sharded_sinkhorn(
            x0, x1, epsilon=0.1 * width, max_iterations=iterations, block_size=chunk, tolerance=None, axis_name="rows"
        )

    out = Potentials(P("rows"), *(P(),) * 5)  # pyright: ignore[reportArgumentType]
    run = jax.jit(jax.shard_map(couple, mesh=mesh, in_specs=(P("rows"), P()), out_specs=out))
    keys = jax.random.split(jax.random.key(0))
    x0 = jax.device_put(jax.random.normal(keys[0], (size, width)), NamedSharding(mesh, P("rows")))
    x1 = jax.device_put(jax.random.normal(keys[1], (size, width)), NamedSharding(mesh, P()))
    compiled = run.lower(x0, x1).compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend reports no memory"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = jax.block_until_ready(compiled(x0, x1))
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "temporaries of a device": memory.temp_size_in_bytes / 1e6,
        "arguments of a device": memory.argument_size_in_bytes / 1e6,
        "growth of the peak of all": grown / 1e3,
        "seconds an iteration": seconds / iterations,
        "marginal error": float(found.error),
    }


def main(size: int = 65_536, width: int = 64, chunk: int = 128, iterations: int = 2) -> None:
    """Print the memory of one call beside that of the cost matrix it avoids."""
    found = in_fresh_process(__spec__.name, size, width, chunk, iterations)
    print(f"\nRow-sharded Sinkhorn, B = {size}, d = {width}, {DEVICES} devices, chunks of {chunk} rows: MB")
    matrix = size**2 * 4 / 1e6
    sizes = {"the cost matrix": matrix, "one device's rows of it": matrix / DEVICES}
    sizes |= {name: value for name, value in found.items() if "of" in name}
    for name, value in sizes.items():
        print(f"  {name:<28} {value:>10.1f}")
    print(f"  {found['seconds an iteration']:.1f} s an iteration, marginal error {found['marginal error']:.3f}")


if __name__ == "__main__":
    import sys

    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
