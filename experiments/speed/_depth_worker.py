"""One case of `depth` in a process of its own: the TPU's compiler does not end on every program.

`python -m experiments.speed._depth_worker CASE SIZE ...` counts the loops for all sizes, then compiles from the
smallest size on. A line of JSON is printed for each size whose depth is known: by its own program, or meanwhile by one
of a smaller size.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.speed._depth_cases import case
from experiments.speed._depth_loops import loop_counts
from experiments.speed._tpu_program import compile_for_tpu, depth, parse

KERNEL = 'custom_call_target="tpu_custom_call"'


def depths(name: str, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the depth of each size, with the size of the program that it was counted in; later ones are better."""
    calls = {size: case(name, size) for size in sizes}
    counts = {size: loop_counts(function, *args) for size, (function, args) in calls.items()}
    for compiled, (function, args) in calls.items():
        texts = {True: compile_for_tpu(function, *args)}
        if KERNEL in texts[True]:
            texts[False] = compile_for_tpu(function, *args, kernels=False)
        for kernels, text in texts.items():
            program = parse(text)
            for size in sizes:
                if size == compiled or (size > compiled and counts[size].keys() == counts[compiled].keys()):
                    found = depth(program, counts[size])
                    yield {"size": size, "compiled": compiled, "kernels": kernels, **found._asdict()}


def main(name: str, *sizes: str) -> None:
    """Print a line for each size whose depth is known."""
    for found in depths(name, [int(size) for size in sizes]):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
