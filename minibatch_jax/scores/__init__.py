"""Scores of examples that feed the signals of a transformation: gradient norms of linen modules and of any network."""

from . import linen_norms as linen_norms
from . import norms as norms
from .linen_norms import linen_gradient_norms as linen_gradient_norms
from .norms import ghost_gradient_norms as ghost_gradient_norms
from .norms import gradient_norms as gradient_norms
from .norms import tap_dense as tap_dense
from .norms import tap_embedding as tap_embedding
from .norms import tap_layer as tap_layer
