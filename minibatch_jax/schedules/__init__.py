"""How large the batch is, and how the learning rate follows: schedules, scaling rules, and what they are fitted to."""

from . import batch_sizes as batch_sizes
from . import decays as decays
from . import momentum as momentum
from . import scaling_rules as scaling_rules
from . import tokens as tokens
from . import trust_ratios as trust_ratios
from .batch_sizes import BatchStages as BatchStages
from .batch_sizes import ScheduledState as ScheduledState
from .batch_sizes import batch_size_schedule as batch_size_schedule
from .batch_sizes import batch_stages as batch_stages
from .batch_sizes import keep_scheduled as keep_scheduled
from .decays import decay_from as decay_from
from .decays import remaining_fraction as remaining_fraction
from .decays import warmup_stable_decay as warmup_stable_decay
from .momentum import MomentumCorrectionState as MomentumCorrectionState
from .momentum import momentum_correction as momentum_correction
from .scaling_rules import goyal_schedule as goyal_schedule
from .scaling_rules import gradual_warmup as gradual_warmup
from .scaling_rules import linear_scaling as linear_scaling
from .scaling_rules import sqrt_scaling as sqrt_scaling
from .tokens import by_tokens as by_tokens
from .tokens import minicpm_batch_tokens as minicpm_batch_tokens
from .tokens import power_schedule as power_schedule
from .tokens import tokens_of_stages as tokens_of_stages
from .trust_ratios import scale_by_layer_trust_ratio as scale_by_layer_trust_ratio
