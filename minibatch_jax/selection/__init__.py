"""Which examples of a batch count: weights `[B]`."""

from minibatch_jax.selection._colm import (
    adam_features,
    largest_features_by_source,
    select_by_colm,
    source_budgets,
    zeroth_order_scale,
)
from minibatch_jax.selection._concept import (
    concept_balanced_indices,
    concept_targets,
    select_by_concept_balance,
    select_by_concept_count,
)
from minibatch_jax.selection._crest import (
    QuadraticModel,
    curvature_of,
    drop_learned,
    hutchinson_diagonal,
    needs_reselection,
    predicted_loss,
    quadratic_model,
    reselection_interval,
    select_class_medoids,
    update_quadratic_model,
)
from minibatch_jax.selection._diverse import (
    dpp_map_indices,
    feature_kernel,
    kdpp_inclusion,
    kdpp_indices,
    log_symmetric_sums,
    select_diverse,
)
from minibatch_jax.selection._facility_location import (
    facility_location,
    facility_location_from_features,
    facility_location_value,
    medoid_weights,
    select_medoids,
)
from minibatch_jax.selection._flexi import embed_at_two_resolutions
from minibatch_jax.selection._greedy import Medoids
from minibatch_jax.selection._hard_batches import hard_batch_mask, select_hard_batches
from minibatch_jax.selection._importance import (
    gradient_norm_bound,
    importance_counts,
    importance_probabilities,
    select_by_gradient_norm,
    select_by_importance,
    variance_reduction,
)
from minibatch_jax.selection._information_gain import Sift, sift_indices
from minibatch_jax.selection._jest import jest_indices, select_by_jest, softmax_jest_indices
from minibatch_jax.selection._jest_embeddings import PairEmbeddings, jest_indices_from_embeddings, sigmoid_pair_losses
from minibatch_jax.selection._k_center import Centers, k_center, select_centers
from minibatch_jax.selection._list_decodable import (
    RegressionList,
    batch_gradients,
    best_of_list,
    list_regressions,
    soft_filter,
    top_direction,
)
from minibatch_jax.selection._optimal_transport import calibrated_gradient, transport_scores
from minibatch_jax.selection._partitioned import partitioned_medoids
from minibatch_jax.selection._power import power_inclusion, select_by_power, surrogate_uncertainty
from minibatch_jax.selection._random import keep_random
from minibatch_jax.selection._reducible import reducible_loss, select_by_reducible_loss
from minibatch_jax.selection._similarity import similarity_matrix
from minibatch_jax.selection._threshold import keep_below, running_threshold, select_by_adaptive_k, weighted_mean_loss
from minibatch_jax.selection._topk import keep_bottomk, keep_topk, topk_mask

__all__ = [
    "Centers",
    "Medoids",
    "PairEmbeddings",
    "QuadraticModel",
    "RegressionList",
    "Sift",
    "adam_features",
    "batch_gradients",
    "best_of_list",
    "calibrated_gradient",
    "concept_balanced_indices",
    "concept_targets",
    "curvature_of",
    "dpp_map_indices",
    "drop_learned",
    "embed_at_two_resolutions",
    "facility_location",
    "facility_location_from_features",
    "facility_location_value",
    "feature_kernel",
    "gradient_norm_bound",
    "hard_batch_mask",
    "hutchinson_diagonal",
    "importance_counts",
    "importance_probabilities",
    "jest_indices",
    "jest_indices_from_embeddings",
    "k_center",
    "kdpp_inclusion",
    "kdpp_indices",
    "keep_below",
    "keep_bottomk",
    "keep_random",
    "keep_topk",
    "largest_features_by_source",
    "list_regressions",
    "log_symmetric_sums",
    "medoid_weights",
    "needs_reselection",
    "partitioned_medoids",
    "power_inclusion",
    "predicted_loss",
    "quadratic_model",
    "reducible_loss",
    "reselection_interval",
    "running_threshold",
    "select_by_adaptive_k",
    "select_by_colm",
    "select_by_concept_balance",
    "select_by_concept_count",
    "select_by_gradient_norm",
    "select_by_importance",
    "select_by_jest",
    "select_by_power",
    "select_by_reducible_loss",
    "select_centers",
    "select_class_medoids",
    "select_diverse",
    "select_hard_batches",
    "select_medoids",
    "sift_indices",
    "sigmoid_pair_losses",
    "similarity_matrix",
    "soft_filter",
    "softmax_jest_indices",
    "source_budgets",
    "surrogate_uncertainty",
    "top_direction",
    "topk_mask",
    "transport_scores",
    "update_quadratic_model",
    "variance_reduction",
    "weighted_mean_loss",
    "zeroth_order_scale",
]
