"""Choose the pairs and triplets of a batch that count: masks, weights and losses of distances or similarities `[A, M]`.

Rows are anchors and columns are references, often the same items. Five kinds of functions compose freely:

  distances   `euclidean_distances`, `cosine_similarity`, ...: from embeddings to `[A, M]`
  pairs       `positive_mask`, `negative_mask`: from labels to bool `[A, M]`; `memory_pairs` adds past batches
  miners      `..._pair_masks`: from distances and masks to fewer pairs; `select_triplets`: to one triplet for each
              anchor; `..._weights`: to how much each pair counts; `mine_...`: transformations of weights that do so
  losses      `..._loss`: from distances or similarities and masks to a number; `weigh_pairs` makes a transformation
              of a loss
  reductions  the argument `reduction` of a loss: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none";
              `reduce_losses` defines them

`blockwise_losses`, `mined_triplet_loss` and the retrieval scores take embeddings instead: they work in blocks of rows
and over devices. `docs/pytorch_metric_learning.md` in the repository translates the names of pytorch-metric-learning.
"""

from minibatch_jax.mining._angular import angular_triplet_weights, mine_angular
from minibatch_jax.mining._blocks import blockwise_losses
from minibatch_jax.mining._class_losses import margin_softmax_loss, proxy_anchor_loss, soften_centers
from minibatch_jax.mining._distances import (
    cosine_similarity,
    dot_product_similarity,
    euclidean_distances,
    noise_ratio_distances,
    normalize_embeddings,
    squared_euclidean_distances,
)
from minibatch_jax.mining._dynamic_margin import DynamicMargin, dynamic_margin_loss, init_dynamic_margin
from minibatch_jax.mining._hardest import (
    hardest_pair_masks,
    mine_hardest_pairs,
    mine_ranks,
    mine_uniform_distances,
    rank_pair_masks,
    uniform_distance_weights,
)
from minibatch_jax.mining._losses import (
    contrastive_loss,
    info_nce_loss,
    multi_similarity_loss,
    ntxent_loss,
    supcon_loss,
    weigh_pairs,
)
from minibatch_jax.mining._manifold import manifold_loss, random_walk_similarity
from minibatch_jax.mining._margin_losses import (
    intra_pair_variance_loss,
    margin_loss,
    ranked_list_loss,
    threshold_consistent_loss,
)
from minibatch_jax.mining._memory import Memory, MemoryPairs, init_memory, memory_pairs, remember
from minibatch_jax.mining._mine import (
    mine_all,
    mine_easy_hard,
    mine_hard,
    mine_semihard,
    weighted_pair_loss,
)
from minibatch_jax.mining._mined_triplets import mined_triplet_loss
from minibatch_jax.mining._pairs import (
    margin_pair_masks,
    mine_multi_similarity,
    mine_pair_margin,
    mine_ranges,
    multi_similarity_pair_masks,
    negative_mask,
    positive_mask,
    range_pair_masks,
)
from minibatch_jax.mining._proxies import Proxies, init_proxies, partition_by_proxies, update_proxies
from minibatch_jax.mining._random import MineRandomState, mine_random, random_triplet_weights
from minibatch_jax.mining._rank_losses import fast_ap_loss, histogram_loss, pnp_loss, smooth_ap_loss, soft_ranks
from minibatch_jax.mining._reductions import reduce_losses
from minibatch_jax.mining._retrieval import RetrievalScores, nearest_positive_ranks, recall_at_k, retrieval_scores
from minibatch_jax.mining._sampled import (
    DistanceWeightedState,
    distance_weighted_logits,
    mine_distance_weighted,
    sample_negative_counts,
)
from minibatch_jax.mining._sampler import ClassIndex, index_classes, sample_classes
from minibatch_jax.mining._soft_losses import (
    binomial_deviance_loss,
    circle_loss,
    generalized_lifted_structure_loss,
    lifted_structure_loss,
    tuplet_margin_loss,
)
from minibatch_jax.mining._structured_losses import (
    angular_loss,
    hard_negative_loss,
    orthogonal_pair_loss,
    orthogonal_projection_loss,
)
from minibatch_jax.mining._triplet_loss import triplet_loss, triplet_pair_weights
from minibatch_jax.mining._triplets import Triplets, select_triplets

__all__ = [
    "ClassIndex",
    "DistanceWeightedState",
    "DynamicMargin",
    "Memory",
    "MemoryPairs",
    "MineRandomState",
    "Proxies",
    "RetrievalScores",
    "Triplets",
    "angular_loss",
    "angular_triplet_weights",
    "binomial_deviance_loss",
    "blockwise_losses",
    "circle_loss",
    "contrastive_loss",
    "cosine_similarity",
    "distance_weighted_logits",
    "dot_product_similarity",
    "dynamic_margin_loss",
    "euclidean_distances",
    "fast_ap_loss",
    "generalized_lifted_structure_loss",
    "hard_negative_loss",
    "hardest_pair_masks",
    "histogram_loss",
    "index_classes",
    "info_nce_loss",
    "init_dynamic_margin",
    "init_memory",
    "init_proxies",
    "intra_pair_variance_loss",
    "lifted_structure_loss",
    "manifold_loss",
    "margin_loss",
    "margin_pair_masks",
    "margin_softmax_loss",
    "memory_pairs",
    "mine_all",
    "mine_angular",
    "mine_distance_weighted",
    "mine_easy_hard",
    "mine_hard",
    "mine_hardest_pairs",
    "mine_multi_similarity",
    "mine_pair_margin",
    "mine_random",
    "mine_ranges",
    "mine_ranks",
    "mine_semihard",
    "mine_uniform_distances",
    "mined_triplet_loss",
    "multi_similarity_loss",
    "multi_similarity_pair_masks",
    "nearest_positive_ranks",
    "negative_mask",
    "noise_ratio_distances",
    "normalize_embeddings",
    "ntxent_loss",
    "orthogonal_pair_loss",
    "orthogonal_projection_loss",
    "partition_by_proxies",
    "pnp_loss",
    "positive_mask",
    "proxy_anchor_loss",
    "random_triplet_weights",
    "random_walk_similarity",
    "range_pair_masks",
    "rank_pair_masks",
    "ranked_list_loss",
    "recall_at_k",
    "reduce_losses",
    "remember",
    "retrieval_scores",
    "sample_classes",
    "sample_negative_counts",
    "select_triplets",
    "smooth_ap_loss",
    "soft_ranks",
    "soften_centers",
    "squared_euclidean_distances",
    "supcon_loss",
    "threshold_consistent_loss",
    "triplet_loss",
    "triplet_pair_weights",
    "tuplet_margin_loss",
    "uniform_distance_weights",
    "update_proxies",
    "weigh_pairs",
    "weighted_pair_loss",
]
