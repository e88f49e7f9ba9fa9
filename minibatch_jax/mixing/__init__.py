"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""

from . import acquisitions as acquisitions
from . import bayesian_search as bayesian_search
from . import gaussian_process as gaussian_process
from .bayesian_search import recommend_mixture as recommend_mixture
from .bayesian_search import suggest_mixture as suggest_mixture
from .gaussian_process import fit_gaussian_process as fit_gaussian_process
