"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""

from . import best_mixtures as best_mixtures
from . import bimix as bimix
from . import entropies as entropies
from . import mixing_laws as mixing_laws
from . import regmix as regmix
from . import size_laws as size_laws
from .best_mixtures import best_mixture as best_mixture
from .best_mixtures import project_capped_simplex as project_capped_simplex
from .bimix import bimix_mixture as bimix_mixture
from .bimix import fit_bimix as fit_bimix
from .bimix import predict_bimix as predict_bimix
from .entropies import conditional_entropy as conditional_entropy
from .entropies import entropy_mixture as entropy_mixture
from .entropies import joint_entropy as joint_entropy
from .entropies import shannon_entropy as shannon_entropy
from .entropies import von_neumann_entropy as von_neumann_entropy
from .mixing_laws import fit_mixing_law as fit_mixing_law
from .mixing_laws import predict_losses as predict_losses
from .regmix import average_of_top as average_of_top
from .regmix import fit_regression as fit_regression
from .regmix import predict_regression as predict_regression
from .regmix import sample_mixtures as sample_mixtures
from .size_laws import fit_size_law as fit_size_law
from .size_laws import predict_at_size as predict_at_size
