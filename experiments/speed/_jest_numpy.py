"""JEST in numpy, the peers of speed case E: as in the paper's pseudo-code, and with incremental rows.

`python -m experiments.speed._jest_numpy BATCH KEPT CHUNKS WIDTH SEED REPEATS` prints their times in ms as JSON.
"""

import json
import sys

import numpy as np

from experiments.speed._timing import milliseconds

SCALE, BIAS = np.float32(10), np.float32(-10)
Model = tuple[np.ndarray, np.ndarray]


def models(batch: int, width: int, seed: int) -> tuple[Model, Model]:
    """Unit embeddings of both sides of B pairs, for a learner and for a reference that matches pairs better."""
    rng = np.random.default_rng(seed)

    def model(noise):
        first = rng.normal(size=(batch, width))
        second = first + noise * rng.normal(size=(batch, width))
        return unit(first), unit(second)

    return model(1.0), model(0.5)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x)))


def pair_losses(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    logits = SCALE * (first @ second.T) + BIAS
    np.fill_diagonal(logits, -np.diagonal(logits))
    return softplus(logits)


def draw(logits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    keys = logits + rng.gumbel(size=logits.shape)
    return np.argpartition(-keys, count)[:count]


def jest_by_pseudo_code(
    learner: Model, reference: Model, kept: int, chunks: int, rng: np.random.Generator
) -> np.ndarray:
    """All pair losses first; each chunk multiplies them by the indicator of the chosen."""
    scores = pair_losses(*learner) - pair_losses(*reference)
    diagonal, indicator = np.diagonal(scores), np.zeros(len(scores), np.float32)
    chosen = draw(diagonal, kept // chunks, rng)
    for _ in range(chunks - 1):
        indicator[chosen] = 1
        logits = diagonal + scores @ indicator + indicator @ scores - 1e8 * indicator
        chosen = np.append(chosen, draw(logits, kept // chunks, rng))
    return chosen


def jest_by_rows(learner: Model, reference: Model, kept: int, chunks: int, rng: np.random.Generator) -> np.ndarray:
    """Only the rows and columns of the newly chosen, added to the sums of before."""

    def diagonal(first, second):
        return softplus(-(SCALE * np.sum(first * second, 1) + BIAS))

    def added(first, second, new):
        return sum(softplus(SCALE * (a[new] @ b.T) + BIAS).sum(0) for a, b in ((first, second), (second, first)))

    logits = diagonal(*learner) - diagonal(*reference)
    chosen = new = draw(logits, kept // chunks, rng)
    for _ in range(chunks - 1):
        logits = logits + added(*learner, new) - added(*reference, new)
        logits[new] = -np.inf
        new = draw(logits, kept // chunks, rng)
        chosen = np.append(chosen, new)
    return chosen


PEERS = {"numpy, as in the pseudo-code": jest_by_pseudo_code, "numpy, incremental rows": jest_by_rows}


def main(batch: int, kept: int, chunks: int, width: int, seed: int, repeats: int) -> None:
    learner, reference = models(batch, width, seed)
    times = {}
    for name, peer in PEERS.items():
        rng = np.random.default_rng(seed)
        times[name] = milliseconds(lambda peer=peer, rng=rng: peer(learner, reference, kept, chunks, rng), repeats)
    print(json.dumps(times))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
