"""How large the batch is, and how the learning rate follows: schedules, scaling rules, and what they are fitted to.

- Schedules of the rate: `warmup_stable_decay`, `decay_from`, `power_schedule`, `by_tokens`.
- Another batch size: `linear_scaling`, `sqrt_scaling`, `gradual_warmup`, `goyal_schedule`, `momentum_correction`,
  `scale_by_layer_trust_ratio`.
- A batch that grows: `batch_stages`, `batch_size_schedule`, `keep_scheduled`.
- Which size pays off: `steps_to_result`, `fit_critical_batch`, `critical_batch_size`, and `scores.noise_scale`.
- What fits into memory: `largest_micro_batch`, `plan`.

The guide is docs/schedules.md.
"""

from . import batch_sizes as batch_sizes
from . import critical_batch as critical_batch
from . import decays as decays
from . import micro_batch_planner as micro_batch_planner
from . import momentum as momentum
from . import scaling_rules as scaling_rules
from . import step_costs as step_costs
from . import tokens as tokens
from . import training_steps as training_steps
from . import trust_ratios as trust_ratios
from .batch_sizes import BatchStages as BatchStages
from .batch_sizes import ScheduledState as ScheduledState
from .batch_sizes import batch_size_schedule as batch_size_schedule
from .batch_sizes import batch_stages as batch_stages
from .batch_sizes import keep_scheduled as keep_scheduled
from .critical_batch import PowerLaw as PowerLaw
from .critical_batch import StepsFit as StepsFit
from .critical_batch import critical_batch_size as critical_batch_size
from .critical_batch import ewa_decay_for_batch as ewa_decay_for_batch
from .critical_batch import fit_critical_batch as fit_critical_batch
from .critical_batch import fit_power_law as fit_power_law
from .critical_batch import learning_rate_for_batch as learning_rate_for_batch
from .decays import decay_from as decay_from
from .decays import remaining_fraction as remaining_fraction
from .decays import warmup_stable_decay as warmup_stable_decay
from .micro_batch_planner import Layout as Layout
from .micro_batch_planner import MicroBatch as MicroBatch
from .micro_batch_planner import largest_micro_batch as largest_micro_batch
from .micro_batch_planner import pipeline_bubble as pipeline_bubble
from .micro_batch_planner import plan as plan
from .momentum import MomentumCorrectionState as MomentumCorrectionState
from .momentum import momentum_correction as momentum_correction
from .scaling_rules import goyal_schedule as goyal_schedule
from .scaling_rules import gradual_warmup as gradual_warmup
from .scaling_rules import linear_scaling as linear_scaling
from .scaling_rules import sqrt_scaling as sqrt_scaling
from .step_costs import activation_bytes as activation_bytes
from .step_costs import flops_per_token as flops_per_token
from .step_costs import model_flops_utilization as model_flops_utilization
from .step_costs import state_bytes as state_bytes
from .tokens import by_tokens as by_tokens
from .tokens import minicpm_batch_tokens as minicpm_batch_tokens
from .tokens import power_schedule as power_schedule
from .tokens import tokens_of_stages as tokens_of_stages
from .training_steps import ScalingRegimes as ScalingRegimes
from .training_steps import best_over_trials as best_over_trials
from .training_steps import edge_of_search_space as edge_of_search_space
from .training_steps import halton_points as halton_points
from .training_steps import perfect_scaling_line as perfect_scaling_line
from .training_steps import scaling_regimes as scaling_regimes
from .training_steps import steps_to_result as steps_to_result
from .trust_ratios import scale_by_layer_trust_ratio as scale_by_layer_trust_ratio
