"""Plans that solve transport with an entropic penalty: balanced, unbalanced, partial, sharded."""

from . import balanced as balanced
from . import divergences as divergences
from . import kernels as kernels
from . import partial as partial
from . import sharded as sharded
from . import unbalanced as unbalanced
