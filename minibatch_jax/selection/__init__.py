"""Which examples of a batch count: weights `[B]`."""

from minibatch_jax.selection._facility_location import (
    facility_location,
    facility_location_from_features,
    facility_location_value,
    medoid_weights,
    select_medoids,
)
from minibatch_jax.selection._greedy import Medoids
from minibatch_jax.selection._hard_batches import hard_batch_mask, select_hard_batches
from minibatch_jax.selection._jest import jest_indices, select_by_jest, softmax_jest_indices
from minibatch_jax.selection._jest_embeddings import PairEmbeddings, jest_indices_from_embeddings, sigmoid_pair_losses
from minibatch_jax.selection._reducible import reducible_loss, select_by_reducible_loss
from minibatch_jax.selection._similarity import similarity_matrix
from minibatch_jax.selection._threshold import keep_below, running_threshold, select_by_adaptive_k, weighted_mean_loss
from minibatch_jax.selection._topk import keep_bottomk, keep_topk, topk_mask

__all__ = [
    "Medoids",
    "PairEmbeddings",
    "facility_location",
    "facility_location_from_features",
    "facility_location_value",
    "hard_batch_mask",
    "jest_indices",
    "jest_indices_from_embeddings",
    "keep_below",
    "keep_bottomk",
    "keep_topk",
    "medoid_weights",
    "reducible_loss",
    "running_threshold",
    "select_by_adaptive_k",
    "select_by_jest",
    "select_by_reducible_loss",
    "select_hard_batches",
    "select_medoids",
    "sigmoid_pair_losses",
    "similarity_matrix",
    "softmax_jest_indices",
    "topk_mask",
    "weighted_mean_loss",
]
