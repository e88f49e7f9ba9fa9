"""From weights to training: gradients of weighted items, chosen rows, drawn pairs, aggregated updates."""

from . import accumulation as accumulation
from . import aggregation as aggregation
from . import chosen_rows as chosen_rows
from . import embedded_blocks as embedded_blocks
from . import gradients as gradients
from . import sampled_pairs as sampled_pairs
from . import subnets as subnets
from .accumulation import accumulate as accumulate
from .aggregation import weighted_aggregate as weighted_aggregate
from .chosen_rows import take as take
from .embedded_blocks import embed_in_blocks as embed_in_blocks
from .gradients import value_and_grad as value_and_grad
from .sampled_pairs import sample_pairs as sample_pairs
from .subnets import subnet_aggregate as subnet_aggregate
from .subnets import subnet_mask as subnet_mask
