"""pytorch-metric-learning, the peer of speed case F, in a process of its own.

`python -m experiments.speed._triplets_pml BATCH WIDTH PER_CLASS MARGIN REPEATS RESULTS` prints times in ms as JSON and
writes losses and gradients to the file RESULTS (.npz). It needs torch and pytorch-metric-learning, and no JAX.
"""

import json
import sys

import numpy as np

from experiments.speed._timing import milliseconds

SEED = 0
MINED = ("hard", "semihard", "all")


def batch(size: int, width: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around class centers, `[size, width]`, and labels."""
    rng = np.random.default_rng(SEED)
    labels = np.arange(size) // per_class
    centers = rng.normal(size=(labels[-1] + 1, width))
    return (rng.normal(size=(size, width)) + 0.3 * centers[labels]).astype(np.float32), labels.astype(np.int32)


def main(size: int, width: int, per_class: int, margin: float, repeats: int, results: str) -> None:
    import torch
    from pytorch_metric_learning import losses, miners

    embeddings, labels = (torch.as_tensor(x) for x in batch(size, width, per_class))
    embeddings.requires_grad_(True)
    loss = losses.TripletMarginLoss(margin)
    miner_of = {
        "hard": miners.BatchHardMiner(),
        "semihard": miners.TripletMarginMiner(margin, type_of_triplets="semihard"),
        "all": miners.TripletMarginMiner(margin, type_of_triplets="all"),
    }

    def step(miner):
        value = loss(embeddings, labels, miner(embeddings, labels))
        return value, torch.autograd.grad(value, embeddings)[0]

    times = {"mine hard": milliseconds(lambda: miner_of["hard"](embeddings, labels), repeats, warmup=2)}
    found = {}
    for name, miner in miner_of.items():
        slow = size > 512 and name != "hard"
        times[name] = milliseconds(lambda m=miner: step(m), max(repeats // 3, 1) if slow else repeats, warmup=1)
        value, gradient = step(miner)
        found |= {f"{name}_loss": value.detach().numpy(), f"{name}_gradient": gradient.numpy()}
    np.savez(results, **found)
    print(json.dumps(times))


if __name__ == "__main__":
    size, width, per_class = map(int, sys.argv[1:4])
    main(size, width, per_class, float(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
