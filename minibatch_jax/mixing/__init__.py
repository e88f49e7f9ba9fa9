"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""

from . import ambient as ambient
from . import decisions as decisions
from . import merging as merging
from .ambient import ambient_inputs as ambient_inputs
from .ambient import ambient_noise_levels as ambient_noise_levels
from .ambient import ambient_predictions as ambient_predictions
from .ambient import ambient_targets as ambient_targets
from .ambient import ambient_weights as ambient_weights
from .ambient import reweigh_by_noise_level as reweigh_by_noise_level
from .decisions import choice_scores as choice_scores
from .decisions import compute_fraction as compute_fraction
from .decisions import decision_accuracy as decision_accuracy
from .decisions import decision_accuracy_draws as decision_accuracy_draws
from .decisions import pair_decisions as pair_decisions
from .merging import merge_parameters as merge_parameters
