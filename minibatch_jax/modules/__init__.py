"""Networks and objectives in which the examples of a batch see each other; `batch_former` and `views` need flax."""

from importlib.util import find_spec

from minibatch_jax._extras import require

from . import correlation as correlation
from . import kernel_correlation as kernel_correlation
from . import mixed_examples as mixed_examples
from . import paired_autoencoders as paired_autoencoders
from . import pseudo_labels as pseudo_labels
from . import redundancy as redundancy
from .correlation import canonical_correlation as canonical_correlation
from .correlation import init_whitening as init_whitening
from .correlation import linear_cca as linear_cca
from .correlation import orthogonal_iteration_loss as orthogonal_iteration_loss
from .kernel_correlation import fourier_features as fourier_features
from .kernel_correlation import gaussian_kernel as gaussian_kernel
from .kernel_correlation import init_fourier_features as init_fourier_features
from .kernel_correlation import kernel_cca as kernel_cca
from .mixed_examples import mixup as mixup
from .mixed_examples import mosaic as mosaic
from .paired_autoencoders import matched_correlation as matched_correlation
from .paired_autoencoders import relative_distances as relative_distances
from .pseudo_labels import class_balance as class_balance
from .pseudo_labels import init_soft_labels as init_soft_labels
from .pseudo_labels import mean_entropy as mean_entropy
from .pseudo_labels import publish_soft_labels as publish_soft_labels
from .pseudo_labels import write_soft_labels as write_soft_labels
from .redundancy import vicreg_loss as vicreg_loss

if find_spec("flax"):
    from . import batch_former as batch_former
    from . import views as views
    from .batch_former import BatchFormer as BatchFormer
    from .views import byol_losses as byol_losses
    from .views import init_targets as init_targets
    from .views import tri_byol_losses as tri_byol_losses
    from .views import update_targets as update_targets
else:

    def __getattr__(name: str):
        """Name the missing extra to whoever asks for what needs it."""
        if name.startswith("__"):
            raise AttributeError(f"minibatch_jax.modules has no attribute {name!r}.")
        return getattr(require("flax.nnx", "modules"), name)
