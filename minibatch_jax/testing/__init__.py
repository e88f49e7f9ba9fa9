"""Check that a weight transformation or a sampler of your own keeps the laws that all of this library keep.

`check_transformation` and `check_sampler` run all checks on one of them. `CHECKS` and `SAMPLER_CHECKS` hold the checks
by name, so that a test runner can show each as a test of its own.
"""

from . import samplers as samplers
from . import transformations as transformations
from ._laws import ROWS as ROWS
from .samplers import SAMPLER_CHECKS as SAMPLER_CHECKS
from .samplers import SamplerCase as SamplerCase
from .samplers import check_sampler as check_sampler
from .transformations import CHECKS as CHECKS
from .transformations import Case as Case
from .transformations import check_transformation as check_transformation
from .transformations import draw as draw
from .transformations import run as run
