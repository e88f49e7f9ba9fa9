"""Which rows come next: samplers, whose state lives in a tree of arrays and is fed what the training saw.

A sampler is three pure functions, for use in `jit`, `scan` and a host loop alike:

  state = sampler.init(key, **arrays)            with what it must know of the data set, such as `labels`
  rows, state = sampler.sample(state)            indices and weights of the next batch
  state = sampler.update(state, rows, **signals) after the step, for samplers that learn from it
"""

from minibatch_jax._checks import as_key as as_key

from . import classes as classes
from . import coresets as coresets
from . import epochs as epochs
from . import fed_back as fed_back
from . import hierarchies as hierarchies
from . import labeled_rows as labeled_rows
from . import mixtures as mixtures
from . import near_classes as near_classes
from . import rounds as rounds
from . import triplets as triplets
from ._sampler import Rows as Rows
from ._sampler import Sampler as Sampler
from .classes import by_class as by_class
from .coresets import crest as crest
from .epochs import epoch_rows as epoch_rows
from .epochs import shuffled as shuffled
from .fed_back import weighted as weighted
from .hierarchies import by_hierarchy as by_hierarchy
from .labeled_rows import labelled_quota as labelled_quota
from .mixtures import mixture as mixture
from .near_classes import by_proxies as by_proxies
from .rounds import hard_batches as hard_batches
from .triplets import fixed_triplets as fixed_triplets
