"""pytorch-metric-learning's miners and losses, the peer of `mining_table`, in a process of its own.

`python -m experiments.speed._mining_pml BATCH WIDTH PER_CLASS REPEATS ROWS` prints times in ms and values as JSON; ROWS
is a list of keys below, separated by semicolons. It needs torch and pytorch-metric-learning, and no JAX.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.speed._timing import milliseconds
from experiments.speed._triplets_pml import batch

CENTERS = 3
SLOW = ("NT-Xent", "histogram", "lifted structure", "tuplet margin", "triplets", "angular", "dynamic soft margin")


def class_vectors(size: int, width: int, per_class: int) -> np.ndarray:
    """Class vectors `[classes * CENTERS, width]`, the centers of a class beside each other."""
    return np.random.default_rng(1).normal(size=(CENTERS * (size // per_class), width)).astype(np.float32)


def miners_of_rows() -> dict[str, Any]:
    from pytorch_metric_learning import miners

    return {
        "mine angular": miners.AngularMiner(angle=40),
        "mine batch-hard": miners.BatchHardMiner(),
        "mine distance-weighted": miners.DistanceWeightedMiner(),
        "mine easy positive, semi-hard negative": miners.BatchEasyHardMiner(),
        "mine semi-hard positive, hard negative": miners.BatchEasyHardMiner("semihard", "hard"),
        "mine all positives, hard negative": miners.BatchEasyHardMiner("all", "hard"),
        "mine in allowed ranges": miners.BatchEasyHardMiner("all", "all", (0.0, 1.4), (1.2, 2.0)),
        "mine hardest half": miners.HDCMiner(),
        "mine multi-similarity": miners.MultiSimilarityMiner(),
        "mine pair margin": miners.PairMarginMiner(pos_margin=1.0, neg_margin=1.2),
        "mine all triplets": miners.TripletMarginMiner(0.2, type_of_triplets="all"),
        "mine semi-hard triplets": miners.TripletMarginMiner(0.2, type_of_triplets="semihard"),
        "mine uniform distances": miners.UniformHistogramMiner(),
    }


def losses_of_rows(vectors: np.ndarray) -> dict[str, Any]:
    import torch
    from pytorch_metric_learning import losses

    classes, width = len(vectors) // CENTERS, vectors.shape[1]

    def given(make, name, centers=1, **options):
        sizes = {"descriptors_dim" if make is losses.P2SGradLoss else "embedding_size": width}
        loss = make(num_classes=classes, **sizes, **options)
        kept = torch.as_tensor(vectors if centers > 1 else vectors[::CENTERS])
        getattr(loss, name).data = kept if name == "proxies" else kept.T.contiguous()
        return loss

    return {
        "angular": losses.AngularLoss(),
        "circle": losses.CircleLoss(),
        "contrastive": losses.ContrastiveLoss(),
        "contrastive, noise ratio": losses.SignalToNoiseRatioContrastiveLoss(),
        "cross-batch memory, contrastive": losses.CrossBatchMemory(losses.ContrastiveLoss(), width, 1024),
        "dynamic soft margin": losses.DynamicSoftMarginLoss(),
        "FastAP": losses.FastAPLoss(),
        "generalized lifted structure": losses.GeneralizedLiftedStructureLoss(),
        "histogram": losses.HistogramLoss(n_bins=100),
        "instance": losses.InstanceLoss(),
        "intra-pair variance": losses.IntraPairVarianceLoss(),
        "lifted structure": losses.LiftedStructureLoss(),
        "manifold": losses.ManifoldLoss(l=width, K=50),
        "margin": losses.MarginLoss(),
        "multi-similarity": losses.MultiSimilarityLoss(),
        "NCA": losses.NCALoss(),
        "N-pairs": losses.NPairsLoss(),
        "NT-Xent": losses.NTXentLoss(temperature=0.1),
        "PNP": losses.PNPLoss(),
        "ranked list": losses.RankedListLoss(margin=0.4, Tn=5),
        "SupCon": losses.SupConLoss(temperature=0.1),
        "threshold-consistent": losses.ThresholdConsistentMarginLoss(),
        "tuplet margin": losses.TupletMarginLoss(),
        "VICReg": losses.VICRegLoss(),
        "ArcFace": given(losses.ArcFaceLoss, "W"),
        "CosFace": given(losses.CosFaceLoss, "W"),
        "large-margin softmax": given(losses.LargeMarginSoftmaxLoss, "W"),
        "normalized softmax": given(losses.NormalizedSoftmaxLoss, "W"),
        "P2SGrad": given(losses.P2SGradLoss, "weight"),
        "proxy anchor": given(losses.ProxyAnchorLoss, "proxies"),
        "ProxyNCA": given(losses.ProxyNCALoss, "proxies"),
        "SoftTriple": given(losses.SoftTripleLoss, "fc", CENTERS, centers_per_class=CENTERS),
        "SphereFace": given(losses.SphereFaceLoss, "W"),
        "sub-center ArcFace": given(losses.SubCenterArcFaceLoss, "W", CENTERS, sub_centers=CENTERS),
    }


def steps_of_rows(embeddings: Any, labels: Any, vectors: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A loss as a function without arguments, for each row that has one."""
    import torch
    from pytorch_metric_learning import losses as pml

    losses, miners = losses_of_rows(vectors), miners_of_rows()
    triplet, constant = pml.TripletMarginLoss(0.2), embeddings.detach().flip(0)

    def mined(name):
        return lambda: triplet(embeddings, labels, miners[name](embeddings, labels))

    def dynamic():  # it keeps the graph of its histogram from call to call
        loss = pml.DynamicSoftMarginLoss()
        return loss(embeddings, labels)

    steps = {name: lambda loss=loss: loss(embeddings, labels) for name, loss in losses.items()}
    return steps | {
        "dynamic soft margin": dynamic,
        "hard triplets": mined("mine batch-hard"),
        "all triplets": mined("mine all triplets"),
        "semi-hard triplets": lambda: triplet(
            embeddings, labels, miners["mine semi-hard triplets"](embeddings, labels)
        ),
        "manifold": lambda: losses["manifold"](embeddings, indices_tuple=torch.arange(len(labels)) % 50),
        "VICReg": lambda: losses["VICReg"](embeddings, ref_emb=constant),
    }


def main(size: int, width: int, per_class: int, repeats: int, rows: list[str]) -> None:
    import torch

    torch.manual_seed(0)
    embeddings, labels = (torch.as_tensor(x) for x in batch(size, width, per_class))
    embeddings.requires_grad_(True)
    steps = steps_of_rows(embeddings, labels.long(), class_vectors(size, width, per_class))
    miners, values = miners_of_rows(), {}

    def call(row):
        if row in miners:
            return miners[row](embeddings, labels.long())
        value = steps[row]()
        values[row] = value.item()
        return torch.autograd.grad(value, embeddings)[0]

    def number(row):
        return 1 if any(name in row for name in SLOW) else repeats

    print(
        json.dumps({"times": {row: milliseconds(lambda r=row: call(r), number(row)) for row in rows}, "values": values})
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), rows=sys.argv[5].split(";"))
