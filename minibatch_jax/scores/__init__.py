"""Scores of examples that feed the signals of a transformation.

Norms of gradients, their noise, gradients in the logits, estimates of gradients from forward passes, alignments with a
direction, the spread of directions, advantages of actions, influences of training rows on predictions.
"""

from . import advantages as advantages
from . import datamodels as datamodels
from . import directions as directions
from . import gradient_directions as gradient_directions
from . import gradient_noise as gradient_noise
from . import grouped_gradients as grouped_gradients
from . import last_layer as last_layer
from . import linen_norms as linen_norms
from . import norms as norms
from . import zeroth_order as zeroth_order
from .advantages import Advantages as Advantages
from .advantages import generalized_advantages as generalized_advantages
from .advantages import normalized_advantages as normalized_advantages
from .datamodels import Datamodels as Datamodels
from .datamodels import fit_datamodels as fit_datamodels
from .datamodels import label_margins as label_margins
from .datamodels import predict_outcomes as predict_outcomes
from .datamodels import removal_effects as removal_effects
from .datamodels import smallest_flips as smallest_flips
from .datamodels import subset_masks as subset_masks
from .datamodels import subset_outcomes as subset_outcomes
from .datamodels import top_influences as top_influences
from .directions import alignment as alignment
from .directions import last_layer_alignment as last_layer_alignment
from .gradient_directions import gradient_direction_error as gradient_direction_error
from .gradient_directions import gradient_direction_variance as gradient_direction_variance
from .gradient_noise import GroupSums as GroupSums
from .gradient_noise import NoiseEstimate as NoiseEstimate
from .gradient_noise import NoiseScaleState as NoiseScaleState
from .gradient_noise import group_sums as group_sums
from .gradient_noise import noise_scale as noise_scale
from .gradient_noise import noise_scale_from_groups as noise_scale_from_groups
from .grouped_gradients import grouped_value_and_grad as grouped_value_and_grad
from .last_layer import last_layer_gradients as last_layer_gradients
from .linen_norms import linen_gradient_norms as linen_gradient_norms
from .norms import ghost_gradient_norms as ghost_gradient_norms
from .norms import gradient_norms as gradient_norms
from .norms import tap_dense as tap_dense
from .norms import tap_embedding as tap_embedding
from .norms import tap_layer as tap_layer
from .zeroth_order import zeroth_order_features as zeroth_order_features
from .zeroth_order import zeroth_order_scale as zeroth_order_scale
