"""From weights to training: gradients of weighted items, chosen rows, drawn pairs, aggregated updates."""

from . import accumulation as accumulation
from . import aggregation as aggregation
from . import gradients as gradients
from . import pairs as pairs
from . import rows as rows
from .accumulation import accumulate as accumulate
from .aggregation import weighted_aggregate as weighted_aggregate
from .gradients import value_and_grad as value_and_grad
from .pairs import sample_pairs as sample_pairs
from .rows import take as take
