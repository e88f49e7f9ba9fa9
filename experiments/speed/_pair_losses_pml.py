"""pytorch-metric-learning's miners and losses of pairs, the peer of `pair_losses`, in a process of its own.

`python -m experiments.speed._pair_losses_pml BATCH WIDTH PER_CLASS REPEATS ROWS` prints times in ms and values as JSON;
ROWS is a comma-separated list of keys below. It needs torch and pytorch-metric-learning, and no JAX.
"""

import json
import sys

from experiments.speed._timing import milliseconds
from experiments.speed._triplets_pml import batch

MINERS = ("mine multi-similarity", "mine pair margin", "mine easy positive", "mine hardest half")

SLOW = ("NT-Xent", "histogram", "lifted structure", "tuplet margin")


def main(size: int, width: int, per_class: int, repeats: int, rows: list[str]) -> None:
    import torch
    from pytorch_metric_learning import losses, miners

    of_row = {
        "mine multi-similarity": miners.MultiSimilarityMiner(),
        "mine pair margin": miners.PairMarginMiner(pos_margin=1.0, neg_margin=1.2),
        "mine easy positive": miners.BatchEasyHardMiner(),
        "mine hardest half": miners.HDCMiner(),
        "contrastive": losses.ContrastiveLoss(),
        "multi-similarity": losses.MultiSimilarityLoss(),
        "NT-Xent": losses.NTXentLoss(temperature=0.1),
        "SupCon": losses.SupConLoss(temperature=0.1),
        "circle": losses.CircleLoss(),
        "generalized lifted structure": losses.GeneralizedLiftedStructureLoss(),
        "margin": losses.MarginLoss(),
        "intra-pair variance": losses.IntraPairVarianceLoss(),
        "ranked list": losses.RankedListLoss(margin=0.4, Tn=5),
        "FastAP": losses.FastAPLoss(),
        "histogram": losses.HistogramLoss(n_bins=100),
        "lifted structure": losses.LiftedStructureLoss(),
        "tuplet margin": losses.TupletMarginLoss(),
        "angular": losses.AngularLoss(),
        "PNP": losses.PNPLoss(),
    }
    embeddings, labels = (torch.as_tensor(x) for x in batch(size, width, per_class))
    embeddings.requires_grad_(True)
    values = {}

    def call(row):
        if row in MINERS:
            return of_row[row](embeddings, labels)
        value = of_row[row](embeddings, labels)
        values[row] = value.item()
        return torch.autograd.grad(value, embeddings)[0]

    times = {row: milliseconds(lambda r=row: call(r), 1 if row in SLOW else repeats) for row in rows}
    print(json.dumps({"times": times, "values": values}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), rows=sys.argv[5].split(","))
