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


def classified(rng: np.random.Generator) -> dict[str, np.ndarray]:
    logits = rng.normal(size=(ROWS, 3)).astype(np.float32)
    return {"logits": logits, "labels": rng.integers(0, 3, ROWS).astype(np.int32)}


def norms(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"gradient_norms": rng.gamma(2.0, size=ROWS).astype(np.float32)}


def surrogate(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"teacher_logits": rng.normal(size=(ROWS, 3)).astype(np.float32)}


def concepts(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"concepts": rng.integers(-1, 5, (ROWS, 3)).astype(np.int32)}


def tracked(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return losses(rng) | {"example_ids": rng.permutation(40)[:ROWS].astype(np.int32)}


def labeled_features(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return features(rng) | {"labels": rng.integers(0, 3, ROWS).astype(np.int32)}


def mixed(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return features(rng) | {"domains": rng.integers(0, 3, ROWS).astype(np.int32)}


def uneven(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5 / ROWS, 1.5 / ROWS, ROWS).astype(np.float32)


CASES = {
    "keep_topk": Case(lambda: selection.keep_topk(5), losses),
    "keep_bottomk": Case(lambda: selection.keep_bottomk(5), losses),
    "keep_random": Case(lambda: selection.keep_random(5, key=0), losses),
    "keep_below": Case(lambda: selection.keep_below(2.0), losses),
    "select_by_adaptive_k": Case(lambda: selection.select_by_adaptive_k("mean"), losses, tolerance=1e-6),
    "select_hard_batches": Case(lambda: selection.select_hard_batches(0.5), losses),
    "select_by_reducible_loss": Case(lambda: selection.select_by_reducible_loss(5), loss_pairs),
    "select_by_jest": Case(lambda: selection.select_by_jest(6, 3, key=0), pair_losses),
    "select_medoids": Case(lambda: selection.select_medoids(4), features, uneven, lowers_mass=False, tolerance=1e-6),
    "select_centers": Case(lambda: selection.select_centers(4), features, uneven, lowers_mass=False, tolerance=1e-6),
    "select_by_concept_balance": Case(lambda: selection.select_by_concept_balance(6, 5), concepts),
    "select_by_concept_count": Case(lambda: selection.select_by_concept_count(6), concepts),
    "select_by_importance": Case(
        lambda: selection.select_by_importance(4, key=0, threshold=0.1), classified, lowers_mass=None, tolerance=1e-5
    ),
    "select_by_gradient_norm": Case(
        lambda: selection.select_by_gradient_norm(4, key=0, threshold=0.1), norms, lowers_mass=None, tolerance=1e-5
    ),
    "select_by_power": Case(lambda: selection.select_by_power(0.5, 0.5, key=0), surrogate),
    "select_diverse": Case(lambda: selection.select_diverse(4, key=0, bandwidth=1.0), features),
    "select_class_medoids": Case(
        lambda: selection.select_class_medoids(6, 3), labeled_features, uneven, lowers_mass=False, tolerance=1e-6
    ),
    "drop_learned": Case(lambda: selection.drop_learned(40, threshold=1.0, patience=1), tracked),
    "select_by_colm": Case(lambda: selection.select_by_colm(6, 3, keep_domains=(2,)), mixed, uneven, tolerance=1e-6),
}
