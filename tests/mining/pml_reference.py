"""Writes pml_reference.json: values of pytorch-metric-learning on one small batch, for the tests beside it.

Run it in an environment with torch 2.14.1 and pytorch-metric-learning 2.9.0:
`python tests/mining/pml_reference.py > tests/mining/pml_reference.json`
"""

import json

import numpy as np

SEED, CLASSES, PER_CLASS, WIDTH = 0, 4, 3, 5


def main():
    import pytorch_metric_learning
    import torch
    from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

    rng = np.random.default_rng(SEED)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), PER_CLASS))
    embeddings = (rng.normal(size=(labels.size, WIDTH)) + 0.7 * rng.normal(size=(CLASSES, WIDTH))[labels]).round(6)
    x, y = torch.tensor(embeddings, dtype=torch.float64, requires_grad=True), torch.tensor(labels)

    cosine, l2 = distances.CosineSimilarity(), distances.LpDistance()
    loss_of = {
        "contrastive": losses.ContrastiveLoss(pos_margin=0.5, neg_margin=1.2),
        "contrastive_snr": losses.SignalToNoiseRatioContrastiveLoss(pos_margin=0.5, neg_margin=1.2),
        "multi_similarity": losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        "ntxent": losses.NTXentLoss(temperature=0.2),
        "supcon": losses.SupConLoss(temperature=0.2),
        "nca": losses.NCALoss(),
        "triplet_margin": losses.TripletMarginLoss(margin=0.3),
        "triplet_margin_smooth": losses.TripletMarginLoss(margin=0.3, smooth_loss=True),
        "circle": losses.CircleLoss(m=0.4, gamma=8),
        "generalized_lifted_structure": losses.GeneralizedLiftedStructureLoss(neg_margin=1, pos_margin=0),
        "lifted_structure": losses.LiftedStructureLoss(neg_margin=1, pos_margin=0),
        "tuplet_margin": losses.TupletMarginLoss(margin=5.73, scale=8),
        "intra_pair_variance": losses.IntraPairVarianceLoss(),
        "threshold_consistent_margin": losses.ThresholdConsistentMarginLoss(margin_plus=0.6, margin_minus=0.2),
        "ranked_list": losses.RankedListLoss(margin=0.4, Tn=2, Tp=1, imbalance=0.3),
        "angular": losses.AngularLoss(alpha=40),
        "fast_ap": losses.FastAPLoss(num_bins=10),
        "histogram": losses.HistogramLoss(n_bins=20),
        "smooth_ap": losses.SmoothAPLoss(temperature=0.1),
        **{f"pnp_{v}": losses.PNPLoss(variant=v, anneal=0.1, alpha=2, b=3) for v in losses.PNPLoss.VARIANTS},
        "margin": losses.MarginLoss(margin=0.3, beta=1.1),
        "instance": losses.InstanceLoss(gamma=8),
        "n_pairs": losses.NPairsLoss(),
    }

    weights = rng.normal(size=(WIDTH, 3 * CLASSES)).round(6)

    class ConstantWeights(losses.DynamicSoftMarginLoss):
        """The histogram is a constant for the gradient, as in the paper."""

        def update_histogram(self, data):
            super().update_histogram(data.detach())

    dynamic, wide_margin = ConstantWeights(), ConstantWeights(min_val=-3.0)

    def with_weights(make, name, width=CLASSES, **options):
        width_name = "descriptors_dim" if make is losses.P2SGradLoss else "embedding_size"
        loss = make(num_classes=CLASSES, **{width_name: WIDTH}, **options)
        values = torch.tensor(weights[:, :width])
        getattr(loss, name).data = values.T.contiguous() if name == "proxies" else values
        return loss

    class_loss_of = {
        "arcface": with_weights(losses.ArcFaceLoss, "W", margin=28.6, scale=8),
        "cosface": with_weights(losses.CosFaceLoss, "W", margin=0.35, scale=8),
        "normalized_softmax": with_weights(losses.NormalizedSoftmaxLoss, "W", temperature=0.2),
        "sphereface": with_weights(losses.SphereFaceLoss, "W", margin=4, scale=1),
        "sub_center_arcface": with_weights(
            losses.SubCenterArcFaceLoss, "W", 3 * CLASSES, margin=28.6, scale=8, sub_centers=3
        ),
        "soft_triple": with_weights(losses.SoftTripleLoss, "fc", 3 * CLASSES, centers_per_class=3),
        "proxy_anchor": with_weights(losses.ProxyAnchorLoss, "proxies", margin=0.1, alpha=8),
        "large_margin_softmax": with_weights(losses.LargeMarginSoftmaxLoss, "W", margin=3, scale=0.5),
        "p2s_grad": with_weights(losses.P2SGradLoss, "weight"),
        "proxy_nca": with_weights(losses.ProxyNCALoss, "proxies", softmax_scale=1),
    }

    def value_and_gradient(loss, *args):
        value = loss(*args)
        return {"value": value.item(), "gradient": torch.autograd.grad(value, x, retain_graph=True)[0].tolist()}

    def mask(rows, columns):
        found = np.zeros((labels.size,) * 2, int)
        found[rows.numpy(), columns.numpy()] = 1
        return found.tolist()

    def easy_hard(positive, negative, **ranges):
        return miners.BatchEasyHardMiner(pos_strategy=positive, neg_strategy=negative, **ranges)

    pair_miner_of = {
        "multi_similarity": miners.MultiSimilarityMiner(epsilon=0.1),
        "pair_margin": miners.PairMarginMiner(pos_margin=0.9, neg_margin=1.1),
        "all_hard": easy_hard("all", "hard"),
        "easy_all": easy_hard("easy", "all"),
        "all_easy_in_range": easy_hard("all", "easy", allowed_neg_range=(0.4, 1.3)),
        "hdc": miners.HDCMiner(filter_percentage=0.3),
    }
    triplet_miner_of = {
        "hard": miners.BatchHardMiner(),
        "easy_positive": easy_hard("easy", "semihard"),
        "hard_easy": easy_hard("hard", "easy"),
        "hard_semihard": easy_hard("hard", "semihard"),
        "semihard_hard": easy_hard("semihard", "hard"),
        "semihard_easy": easy_hard("semihard", "easy"),
        "easy_semihard_in_range": easy_hard(
            "easy", "semihard", allowed_pos_range=(0.6, 1.2), allowed_neg_range=(0.5, 1.3)
        ),
        "all": miners.TripletMarginMiner(margin=0.3, type_of_triplets="all"),
        "semihard": miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard"),
        "violating": miners.TripletMarginMiner(margin=0.3, type_of_triplets="hard"),
        "easy": miners.TripletMarginMiner(margin=0.3, type_of_triplets="easy"),
        "angular": miners.AngularMiner(angle=30),
    }
    mean_triplets = losses.TripletMarginLoss(margin=0.3, reducer=reducers.AvgNonZeroReducer())
    found = {}
    for name, miner in pair_miner_of.items():
        a, p, b, n = miner(x.detach(), y)
        found[name] = [mask(a, p), mask(b, n)]
    triplets = {name: miner(x.detach(), y) for name, miner in triplet_miner_of.items()}
    mined_loss = {name: value_and_gradient(mean_triplets, x, y, t) for name, t in triplets.items()}
    other, other_labels = rng.normal(size=(7, WIDTH)).round(6), rng.integers(0, CLASSES, 7)
    memory = (torch.tensor(other), torch.tensor(other_labels))
    order = torch.argsort(y, stable=True)
    three = order[: 3 * PER_CLASS]  # SmoothAPLoss takes contiguous classes, as many as there are items in each
    first = order.view(CLASSES, PER_CLASS).T  # NPairsLoss draws pairs: give it one for each class
    pairs = first[0], first[1], first[0][:0], first[0][:0]
    in_order = x[order], y[order]
    on_sphere = torch.nn.functional.normalize(x), y  # AngularLoss does not normalize the negatives
    sphere = torch.nn.functional.normalize(x.detach())
    wide = miners.AngularMiner(angle=30)(sphere, y)  # AngularMiner takes the embeddings at their own length
    chosen = torch.tensor(rng.permutation(np.arange(labels.size) % CLASSES))
    length, squared_length = (regularizers.LpRegularizer(power=power) for power in (1, 2))
    regularizer_of = {
        "length": length,
        "squared_length": squared_length,
        "zero_sum": regularizers.ZeroMeanRegularizer(),
        "equal_length": regularizers.CenterInvariantRegularizer(),
        "nearest_center": regularizers.RegularFaceRegularizer(),
        "merge": regularizers.SparseCentersRegularizer(CLASSES, PER_CLASS),
    }
    plain = {"normalize_embeddings": False}
    manifold = losses.ManifoldLoss(l=WIDTH, K=CLASSES, lambdaC=0.5, alpha=0.7, margin=0.01).double()
    manifold.proxies.data = torch.tensor(weights[:, :CLASSES].T.copy())
    result = {
        "origin": f"pytorch-metric-learning {pytorch_metric_learning.__version__}, torch {torch.__version__}, float64",
        "embeddings": embeddings.tolist(),
        "labels": labels.tolist(),
        "references": other.tolist(),
        "reference_labels": other_labels.tolist(),
        "names": sorted(
            name
            for module in (losses, miners)
            for name, thing in vars(module).items()
            if isinstance(thing, type) and not name.startswith(("Base", "Generic")) and not name.endswith("Mixin")
        ),
        "losses": {name: value_and_gradient(loss, *in_order) for name, loss in loss_of.items()}
        | {
            "angular": value_and_gradient(loss_of["angular"], *on_sphere),
            "smooth_ap": value_and_gradient(loss_of["smooth_ap"], x[three], y[three]),
            "n_pairs": value_and_gradient(loss_of["n_pairs"], x, y, pairs),
        },
        "angular_on_sphere": sorted(map(list, zip(*(t.tolist() for t in wide)))),
        "mined_on_sphere": value_and_gradient(mean_triplets, x, y, wide),
        "dynamic_soft_margin": [value_and_gradient(dynamic, *batch) for batch in ((x, y), (x[:9], y[:9]))],
        "wide_soft_margin": value_and_gradient(wide_margin, x, y),
        "regularizers": {name: value_and_gradient(penalty, x) for name, penalty in regularizer_of.items()},
        "lp_distances": {str(p): distances.LpDistance(p=p, **plain)(x).tolist() for p in (1, 3, float("inf"))},
        "outliers": class_loss_of["sub_center_arcface"].get_outliers(x.detach(), y, threshold=60)[0].tolist(),
        "smooth_easy": value_and_gradient(
            losses.TripletMarginLoss(margin=0.3, smooth_loss=True), x, y, triplets["easy"]
        ),
        "proxy_of": chosen.tolist(),
        "manifold": value_and_gradient(manifold, x, None, chosen),
        "weights": weights.tolist(),
        "class_losses": {name: value_and_gradient(loss, x, y) for name, loss in class_loss_of.items()},
        "with_references": {
            name: value_and_gradient(loss_of[name], x, y, None, *memory)
            for name in ("contrastive", "multi_similarity", "ntxent", "supcon", "triplet_margin", "circle")
        },
        "pair_masks": found,
        "triplets": {
            name: sorted(map(list, zip(t[0].tolist(), t[1].tolist(), t[-1].tolist()))) for name, t in triplets.items()
        },
        "mined_triplet_margin": mined_loss,
        "distances": l2(x).tolist(),
        "cosines": cosine(x).tolist(),
        "vicreg": {"value": losses.VICRegLoss()(x, ref_emb=x.detach().flip(0) + 0.3).item()},
    }
    print(json.dumps(rounded(result)))


def rounded(tree):
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [rounded(value) for value in tree]
    return round(tree, 9) if isinstance(tree, float) else tree


if __name__ == "__main__":
    main()
