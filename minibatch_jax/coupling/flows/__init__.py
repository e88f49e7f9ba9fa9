"""What flow matching and diffusion make of pairs: paths, velocities, bridges, noise assignments."""

from . import bridges as bridges
from . import conditions as conditions
from . import hierarchical as hierarchical
from . import immiscible as immiscible
from . import matching as matching
from . import paths as paths
