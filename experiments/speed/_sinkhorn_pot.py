"""POT's Sinkhorn, the peer of speed case B, away from XLA's thread pool.

`python -m experiments.speed._sinkhorn_pot COUNT SIZE WIDTH EPSILON ITERATIONS TOLERANCE SEED REPEATS` prints times in
ms as JSON. ITERATIONS > 0 runs exactly that many; 0 runs to the tolerance.
"""

import json
import sys
import warnings
from typing import Any

import numpy as np
import ot

from experiments.speed._coupling_data import costs
from experiments.speed._timing import milliseconds


def main(count: int, size: int, width: int, epsilon: float, iterations: int, tolerance: float, seed: int, repeats: int):
    """Print the times of POT in float64 and float32, and of its batched solver."""
    warnings.simplefilter("ignore")
    stack = costs(count, size, width, seed)
    absolute = float(epsilon * stack.mean())
    stop: dict[str, Any] = {"numItermax": iterations or 1000, "stopThr": 0.0 if iterations else tolerance}
    times = {}
    for dtype in (np.float64, np.float32):
        typed, uniform = stack.astype(dtype), np.full(size, 1 / size, dtype)
        times[f"POT sinkhorn, {np.dtype(dtype).name}"] = milliseconds(
            lambda c=typed, u=uniform: [ot.sinkhorn(u, u, one, absolute, **stop) for one in c], repeats
        )
    masses = np.full((count, size), 1 / size, np.float32)
    times["POT solve_batch"] = milliseconds(
        lambda: ot.batch.solve_batch(
            stack, absolute, masses, masses, max_iter=stop["numItermax"], tol=stop["stopThr"], grad="detach"
        ),
        repeats,
    )
    print(json.dumps(times))


if __name__ == "__main__":
    COUNT, SIZE, WIDTH, EPSILON, ITERATIONS, TOLERANCE, SEED, REPEATS = sys.argv[1:]
    main(int(COUNT), int(SIZE), int(WIDTH), float(EPSILON), int(ITERATIONS), float(TOLERANCE), int(SEED), int(REPEATS))
