"""Every distance, pair loss and reducer of `minibatch_jax.mining`, for tests of their combinations."""

import functools

import jax.numpy as jnp

from minibatch_jax import mining


def from_similarity(compare):
    return lambda x, r=None: 1 - compare(x, r)


DISTANCES = {
    "cosine": from_similarity(mining.cosine_similarity),
    "dot_product": from_similarity(mining.dot_product_similarity),
    "euclidean": mining.euclidean_distances,
    "noise_ratio": mining.noise_ratio_distances,
    "squared_euclidean": mining.squared_euclidean_distances,
}

ON_DISTANCES = (
    mining.contrastive_loss,
    mining.fast_ap_loss,
    mining.generalized_lifted_structure_loss,
    mining.lifted_structure_loss,
    mining.margin_loss,
    mining.ranked_list_loss,
)
ON_SIMILARITIES = (
    mining.angular_loss,
    mining.binomial_deviance_loss,
    mining.circle_loss,
    mining.hard_negative_loss,
    mining.info_nce_loss,
    mining.intra_pair_variance_loss,
    mining.multi_similarity_loss,
    mining.ntxent_loss,
    mining.orthogonal_pair_loss,
    mining.pnp_loss,
    mining.sigmoid_loss,
    mining.similarity_regression_loss,
    mining.smooth_ap_loss,
    mining.supcon_loss,
    mining.threshold_consistent_loss,
    mining.tuplet_margin_loss,
)
WITHOUT_REDUCTION = (mining.histogram_loss, mining.orthogonal_projection_loss, mining.proxy_anchor_loss)
NO_SUM_OVER_ANCHORS = ("intra_pair_variance_loss", "lifted_structure_loss", "angular_loss")


def on_distances(loss):
    return lambda d, p, n, **options: loss(1 - d, p, n, **options)


LOSSES = {
    **{loss.__name__: loss for loss in ON_DISTANCES},
    **{loss.__name__: on_distances(loss) for loss in ON_SIMILARITIES},
}
SCALAR_LOSSES = {loss.__name__: on_distances(loss) for loss in WITHOUT_REDUCTION}
TRIPLET_LOSSES = {
    f"triplet_loss_{mined}": functools.partial(mining.triplet_loss, mining=mined)
    for mined in ("all", "semihard", "nearest_semihard", "hard", "easy_positive")
}
REDUCTIONS = ("mean", "active_mean", "anchor_mean", "sum", "anchors", "none")
TRIPLET_REDUCTIONS = ("mean", "active_mean", "anchor_mean", "sum", "anchors")


def all_pairs(labels):
    labels = jnp.asarray(labels)
    return mining.positive_mask(labels), mining.negative_mask(labels)
