"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""

from . import budgets as budgets
from . import phases as phases
from . import scheduled as scheduled
from .budgets import blend_from_epochs as blend_from_epochs
from .budgets import downsample_for_horizon as downsample_for_horizon
from .budgets import epochs_of as epochs_of
from .budgets import length_mixture as length_mixture
from .budgets import schedule_budget as schedule_budget
from .phases import annealed_mixture as annealed_mixture
from .phases import mixture_schedule as mixture_schedule
from .phases import two_phase as two_phase
from .phases import two_phase_mixture as two_phase_mixture
from .scheduled import mix_by_schedule as mix_by_schedule
