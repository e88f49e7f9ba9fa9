"""Which pairs and triplets of a batch count, as masks, weights and transformations."""

from . import angular as angular
from . import distance_weighted as distance_weighted
from . import hardest as hardest
from . import pairs as pairs
from . import random_triplets as random_triplets
from . import triplets as triplets
