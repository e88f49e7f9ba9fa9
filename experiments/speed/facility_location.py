"""Case D: greedy facility location, d = 64, a tenth kept, against submodlib, apricot and numpy.

Targets: lazy at most 0.4 of submodlib at 1000 items and 0.2 at 4000; 16000 items by stochastic greedy in less than a
second and without the matrix. The peers run in a process of their own, in turns with ours; `pip install submodlib-py
apricot-select` adds those two.
"""

from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp

from experiments.speed import _facility_location_peers
from experiments.speed._timing import in_fresh_process, milliseconds, print_ratios
from minibatch_jax.selection import facility_location, facility_location_from_features, similarity_matrix

OURS = "facility_location, lazy, given the matrix"


def calls(count: int, kept: int) -> dict:
    """Ours, as functions of the features: name to jitted call with its input made outside the clock."""
    key = jax.random.key(0)
    dense = partial(facility_location, k=kept)
    lazy = partial(facility_location_from_features, k=kept)
    stochastic = partial(facility_location_from_features, k=kept, method="stochastic", key=key)
    made = {
        OURS: (jax.jit(dense), True),
        "stochastic, given the matrix": (jax.jit(partial(dense, method="stochastic", key=key)), True),
        "lazy, no matrix": (jax.jit(lazy), False),
        "stochastic, no matrix": (jax.jit(stochastic), False),
    }
    if count <= 1000:
        made["naive, given the matrix"] = (jax.jit(partial(dense, method="naive")), True)
    return made


def measure(count: int, width: int, rounds: int, repeats: int, peers: bool) -> None:
    kept = count // 10
    times, values = defaultdict(list), {}
    for seed in range(rounds):
        features = jnp.asarray(_facility_location_peers.items(count, width, seed))
        inputs = {False: features}
        made = calls(count, kept)
        if peers:
            inputs[True] = jax.jit(similarity_matrix)(features)
            name = _facility_location_peers.__name__
            found = in_fresh_process(name, count, kept, width, seed, repeats)
            for peer, measured in found["times"].items():
                times[peer] += measured
            values.update(found["values"])
        for name, (call, given) in made.items():
            if given in inputs:
                run = partial(call, inputs[given])
                times[name] += milliseconds(lambda run=run: run().gains.block_until_ready(), repeats)
                values[name] = float(jnp.sum(run().gains))
    first = OURS if OURS in times else "stochastic, no matrix"
    print_ratios(f"D. facility location, {count} -> {kept}, d = {width}", times, first)
    for name, value in values.items():
        print(f"  value / best, {name:<44} {value / max(values.values()):.5f}")


def main(sizes: tuple[int, ...] = (1000, 4000), large: int = 16000, width: int = 64, rounds: int = 3, repeats: int = 3):
    """Print the ratios for each size, with peers, and our times for the large one, without."""
    for count in sizes:
        measure(count, width, rounds, repeats, peers=True)
    if large:
        measure(large, width, rounds=1, repeats=1, peers=False)


if __name__ == "__main__":
    main()
