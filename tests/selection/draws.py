"""What the conformance cases of selection draw: weights and signals."""

import numpy as np

from tests.case import ROWS, losses


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


def predicted(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"logits": rng.normal(size=(ROWS, 3)).astype(np.float32)}


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


def committee(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"committee_logits": rng.normal(size=(ROWS, 4, 3)).astype(np.float32)}


def predicted_features(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return predicted(rng) | features(rng)


def near_references(rng: np.random.Generator) -> dict[str, np.ndarray]:
    references = {"reference_features": rng.normal(size=(5, 3)).astype(np.float32)}
    return features(rng) | references | {"reference_labels": np.array([0, 1, -1, 2, 0], np.int32)}


def contrasted(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return near_references(rng) | predicted(rng) | {"reference_logits": rng.normal(size=(5, 3)).astype(np.float32)}
