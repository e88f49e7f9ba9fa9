"""Which pairs and triplets of a batch count: masks, weights and losses on distances or similarities `[A, M]`."""

from minibatch_jax.mining._distances import (
    cosine_similarity,
    euclidean_distances,
    normalize_embeddings,
    squared_euclidean_distances,
)
from minibatch_jax.mining._losses import (
    contrastive_loss,
    info_nce_loss,
    multi_similarity_loss,
    ntxent_loss,
    supcon_loss,
    weigh_pairs,
)
from minibatch_jax.mining._mine import mine_all, mine_easy_positive, mine_hard, mine_semihard, weighted_pair_loss
from minibatch_jax.mining._pairs import (
    margin_pair_masks,
    mine_multi_similarity,
    mine_pair_margin,
    multi_similarity_pair_masks,
    negative_mask,
    positive_mask,
)
from minibatch_jax.mining._reductions import reduce_losses
from minibatch_jax.mining._retrieval import nearest_positive_ranks, recall_at_k
from minibatch_jax.mining._triplet_loss import triplet_loss, triplet_pair_weights
from minibatch_jax.mining._triplets import Triplets, select_triplets

__all__ = [
    "Triplets",
    "contrastive_loss",
    "cosine_similarity",
    "euclidean_distances",
    "info_nce_loss",
    "margin_pair_masks",
    "mine_all",
    "mine_easy_positive",
    "mine_hard",
    "mine_multi_similarity",
    "mine_pair_margin",
    "mine_semihard",
    "multi_similarity_loss",
    "multi_similarity_pair_masks",
    "nearest_positive_ranks",
    "negative_mask",
    "normalize_embeddings",
    "ntxent_loss",
    "positive_mask",
    "recall_at_k",
    "reduce_losses",
    "select_triplets",
    "squared_euclidean_distances",
    "supcon_loss",
    "triplet_loss",
    "triplet_pair_weights",
    "weigh_pairs",
    "weighted_pair_loss",
]
