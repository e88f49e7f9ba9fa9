"""Losses of distances or similarities `[A, M]` and masks of positives and negatives."""

from . import angles as angles
from . import classification as classification
from . import contrastive as contrastive
from . import dynamic_margins as dynamic_margins
from . import manifolds as manifolds
from . import margins as margins
from . import mined_triplets as mined_triplets
from . import ranking as ranking
from . import regression as regression
from . import soft_maxima as soft_maxima
from . import triplets as triplets
