"""Better mini-batches in JAX: select, couple, mine and mix the items of a batch as one weight array."""

import importlib
from types import ModuleType

from . import boundaries as boundaries
from . import coupling as coupling
from . import geometry as geometry
from . import metrics as metrics
from . import mining as mining
from . import mixing as mixing
from . import sampling as sampling
from . import schedules as schedules
from . import scores as scores
from . import selection as selection
from ._version import __version__ as __version__
from .boundaries.accumulation import accumulate as accumulate
from .boundaries.aggregation import weighted_aggregate as weighted_aggregate
from .boundaries.chosen_rows import take as take
from .boundaries.gradients import value_and_grad as value_and_grad
from .boundaries.sampled_pairs import sample_pairs as sample_pairs
from .compose import among_rows as among_rows
from .compose import effective_sample_size as effective_sample_size
from .compose import mask_rows as mask_rows
from .compose import normalize as normalize
from .compose import record as record
from .compose import weights_of as weights_of
from .devices import across as across
from .devices import replicate as replicate
from .processes import check_same_arguments as check_same_arguments
from .signals import SIGNALS as SIGNALS
from .weights import uniform_like as uniform_like
from .weights import weight_transformation as weight_transformation


def __getattr__(name: str) -> ModuleType:
    """Import `interop`, `modules`, `plot`, `pool` and `testing` when they are first used; most programs use none."""
    if name in ("interop", "modules", "plot", "pool", "testing"):
        return importlib.import_module(f"minibatch_jax.{name}")
    raise AttributeError(f"minibatch_jax has no attribute {name!r}.")
