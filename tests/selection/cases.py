import numpy as np

from minibatch_jax import selection
from tests.case import ROWS, Case, losses


def loss_pairs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return losses(rng) | {"reference_losses": rng.gamma(2.0, size=ROWS).astype(np.float32)}


def pair_losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "pair_losses": rng.gamma(2.0, size=(ROWS, ROWS)).astype(np.float32),
        "reference_pair_losses": rng.gamma(2.0, size=(ROWS, ROWS)).astype(np.float32),
    }


def features(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"features": rng.normal(size=(ROWS, 3)).astype(np.float32)}


def uneven(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5 / ROWS, 1.5 / ROWS, ROWS).astype(np.float32)


CASES = {
    "keep_topk": Case(lambda: selection.keep_topk(5), losses),
    "keep_bottomk": Case(lambda: selection.keep_bottomk(5), losses),
    "keep_below": Case(lambda: selection.keep_below(2.0), losses),
    "select_by_adaptive_k": Case(lambda: selection.select_by_adaptive_k("mean"), losses, tolerance=1e-6),
    "select_hard_batches": Case(lambda: selection.select_hard_batches(0.5), losses),
    "select_by_reducible_loss": Case(lambda: selection.select_by_reducible_loss(5), loss_pairs),
    "select_by_jest": Case(lambda: selection.select_by_jest(6, 3, key=0), pair_losses),
    "select_medoids": Case(lambda: selection.select_medoids(4), features, uneven, lowers_mass=False, tolerance=1e-6),
}
