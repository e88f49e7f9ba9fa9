"""Networks and objectives in which the examples of a batch see each other; needs flax."""

from minibatch_jax.modules._batch_former import BatchFormer
from minibatch_jax.modules._correlation import (
    Projections,
    Whitening,
    canonical_correlation,
    init_whitening,
    linear_cca,
    orthogonal_iteration_loss,
)
from minibatch_jax.modules._redundancy import vicreg_loss
from minibatch_jax.modules._views import (
    Projector,
    Targets,
    byol_losses,
    init_targets,
    tri_byol_losses,
    update_targets,
)

__all__ = [
    "BatchFormer",
    "Projections",
    "Projector",
    "Targets",
    "Whitening",
    "byol_losses",
    "canonical_correlation",
    "init_targets",
    "init_whitening",
    "linear_cca",
    "orthogonal_iteration_loss",
    "tri_byol_losses",
    "update_targets",
    "vicreg_loss",
]
