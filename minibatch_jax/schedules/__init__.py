"""How large the batch is, and how the learning rate follows: schedules, scaling rules, and what they are fitted to."""

from . import critical_batch as critical_batch
from . import training_steps as training_steps
from .critical_batch import PowerLaw as PowerLaw
from .critical_batch import StepsFit as StepsFit
from .critical_batch import critical_batch_size as critical_batch_size
from .critical_batch import ewa_decay_for_batch as ewa_decay_for_batch
from .critical_batch import fit_critical_batch as fit_critical_batch
from .critical_batch import fit_power_law as fit_power_law
from .critical_batch import learning_rate_for_batch as learning_rate_for_batch
from .training_steps import ScalingRegimes as ScalingRegimes
from .training_steps import best_over_trials as best_over_trials
from .training_steps import edge_of_search_space as edge_of_search_space
from .training_steps import halton_points as halton_points
from .training_steps import perfect_scaling_line as perfect_scaling_line
from .training_steps import scaling_regimes as scaling_regimes
from .training_steps import steps_to_result as steps_to_result
