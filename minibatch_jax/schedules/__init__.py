"""How large the batch is, and how the learning rate follows: schedules, scaling rules, and what they are fitted to."""

from . import decays as decays
from . import tokens as tokens
from .decays import decay_from as decay_from
from .decays import remaining_fraction as remaining_fraction
from .decays import warmup_stable_decay as warmup_stable_decay
from .tokens import by_tokens as by_tokens
from .tokens import minicpm_batch_tokens as minicpm_batch_tokens
from .tokens import power_schedule as power_schedule
from .tokens import tokens_of_stages as tokens_of_stages
