"""Choose the pairs and triplets of a batch that count: masks, weights and losses of distances or similarities `[A, M]`.

Rows are anchors and columns are references, often the same items. Five kinds of functions compose freely:

  distances   `euclidean_distances`, `cosine_similarity`, ...: from embeddings to `[A, M]`
  pairs       `positive_mask`, `negative_mask`: from labels to bool `[A, M]`; `memory_pairs` adds past batches
  miners      `..._pair_masks`: from distances and masks to fewer pairs; `triplet_choice`: to one triplet for each
              anchor; `..._weights`: to how much each pair counts; `mine_...`: transformations of weights that do so.
              They read `distances` and `labels` (with `reference_labels` if the references are not the anchors), or
              masks of your own as `positives` and `negatives`, as for several labels an example
  losses      `..._loss`: from distances or similarities and masks to a number; `value_and_grad(...,
              items="distances", loss=...)` differentiates it on the pairs that a miner keeps
  reductions  the argument `reduction` of a loss: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none";
              `reduce_losses` defines them

`blockwise_losses`, `mined_triplet_loss` and the retrieval scores take embeddings instead: they work in blocks of rows
and over devices. Like `memory_pairs` they take labels or, for several labels an example, the masks `positives` and
`negatives`. `docs/pytorch_metric_learning.md` in the repository translates the names of pytorch-metric-learning.
"""

from . import blocks as blocks
from . import choices as choices
from . import class_batches as class_batches
from . import cross_batch as cross_batch
from . import distances as distances
from . import losses as losses
from . import masks as masks
from . import miners as miners
from . import outliers as outliers
from . import proxies as proxies
from . import reductions as reductions
from . import regularizers as regularizers
from .blocks import blockwise_losses as blockwise_losses
from .choices import triplet_choice as triplet_choice
from .class_batches import index_classes as index_classes
from .class_batches import sample_classes as sample_classes
from .cross_batch import init_memory as init_memory
from .cross_batch import memory_pairs as memory_pairs
from .cross_batch import remember as remember
from .distances import cosine_similarity as cosine_similarity
from .distances import dot_product_similarity as dot_product_similarity
from .distances import euclidean_distances as euclidean_distances
from .distances import lp_distances as lp_distances
from .distances import noise_ratio_distances as noise_ratio_distances
from .distances import normalize_embeddings as normalize_embeddings
from .distances import squared_euclidean_distances as squared_euclidean_distances
from .losses.angles import angular_loss as angular_loss
from .losses.angles import orthogonal_pair_loss as orthogonal_pair_loss
from .losses.angles import orthogonal_projection_loss as orthogonal_projection_loss
from .losses.classification import margin_softmax_loss as margin_softmax_loss
from .losses.classification import proxy_anchor_loss as proxy_anchor_loss
from .losses.classification import soften_centers as soften_centers
from .losses.contrastive import contrastive_loss as contrastive_loss
from .losses.contrastive import hard_negative_loss as hard_negative_loss
from .losses.contrastive import info_nce_loss as info_nce_loss
from .losses.contrastive import multi_similarity_loss as multi_similarity_loss
from .losses.contrastive import ntxent_loss as ntxent_loss
from .losses.contrastive import supcon_loss as supcon_loss
from .losses.dynamic_margins import dynamic_margin_loss as dynamic_margin_loss
from .losses.dynamic_margins import init_dynamic_margin as init_dynamic_margin
from .losses.manifolds import manifold_loss as manifold_loss
from .losses.manifolds import random_walk_similarity as random_walk_similarity
from .losses.margins import binomial_deviance_loss as binomial_deviance_loss
from .losses.margins import intra_pair_variance_loss as intra_pair_variance_loss
from .losses.margins import margin_loss as margin_loss
from .losses.margins import ranked_list_loss as ranked_list_loss
from .losses.margins import sigmoid_loss as sigmoid_loss
from .losses.margins import threshold_consistent_loss as threshold_consistent_loss
from .losses.mined_triplets import mined_triplet_loss as mined_triplet_loss
from .losses.ranking import fast_ap_loss as fast_ap_loss
from .losses.ranking import histogram_loss as histogram_loss
from .losses.ranking import pnp_loss as pnp_loss
from .losses.ranking import smooth_ap_loss as smooth_ap_loss
from .losses.regression import similarity_regression_loss as similarity_regression_loss
from .losses.soft_maxima import circle_loss as circle_loss
from .losses.soft_maxima import generalized_lifted_structure_loss as generalized_lifted_structure_loss
from .losses.soft_maxima import lifted_structure_loss as lifted_structure_loss
from .losses.soft_maxima import tuplet_margin_loss as tuplet_margin_loss
from .losses.triplets import triplet_loss as triplet_loss
from .masks import negative_mask as negative_mask
from .masks import positive_mask as positive_mask
from .miners.angular import angular_triplet_weights as angular_triplet_weights
from .miners.angular import mine_angular as mine_angular
from .miners.distance_weighted import distance_weighted_logits as distance_weighted_logits
from .miners.distance_weighted import mine_distance_weighted as mine_distance_weighted
from .miners.distance_weighted import sample_negative_counts as sample_negative_counts
from .miners.hardest import hardest_pair_masks as hardest_pair_masks
from .miners.hardest import mine_hardest_pairs as mine_hardest_pairs
from .miners.hardest import mine_ranks as mine_ranks
from .miners.hardest import mine_uniform_distances as mine_uniform_distances
from .miners.hardest import rank_pair_masks as rank_pair_masks
from .miners.hardest import uniform_distance_weights as uniform_distance_weights
from .miners.pairs import margin_pair_masks as margin_pair_masks
from .miners.pairs import mine_multi_similarity as mine_multi_similarity
from .miners.pairs import mine_pair_margin as mine_pair_margin
from .miners.pairs import mine_ranges as mine_ranges
from .miners.pairs import multi_similarity_pair_masks as multi_similarity_pair_masks
from .miners.pairs import range_pair_masks as range_pair_masks
from .miners.random_triplets import mine_random as mine_random
from .miners.random_triplets import random_triplet_weights as random_triplet_weights
from .miners.triplets import mine_all as mine_all
from .miners.triplets import mine_easy as mine_easy
from .miners.triplets import mine_easy_hard as mine_easy_hard
from .miners.triplets import mine_hard as mine_hard
from .miners.triplets import mine_semihard as mine_semihard
from .miners.triplets import mine_violating as mine_violating
from .outliers import sub_center_outliers as sub_center_outliers
from .reductions import reduce_losses as reduce_losses
from .regularizers import equal_length_penalty as equal_length_penalty
from .regularizers import length_penalty as length_penalty
from .regularizers import merge_penalty as merge_penalty
from .regularizers import nearest_center_penalty as nearest_center_penalty
from .regularizers import zero_sum_penalty as zero_sum_penalty
