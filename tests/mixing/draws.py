"""What the conformance cases of mixing draw: weights and signals of 16 domains, one of which was not drawn."""

import numpy as np

from tests.case import ROWS


def losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    counts = rng.integers(1, 9, ROWS).astype(np.int32)
    counts[3] = 0
    return {"domain_losses": rng.gamma(2.0, size=ROWS).astype(np.float32), "domain_counts": counts}


def alignments(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"domain_alignments": rng.normal(size=ROWS).astype(np.float32)}


def targets(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"target_losses": rng.gamma(2.0, size=5).astype(np.float32)}


def uneven(rng: np.random.Generator) -> np.ndarray:
    weights = rng.uniform(0.5, 1.5, ROWS)
    return (weights / weights.sum()).astype(np.float32)
