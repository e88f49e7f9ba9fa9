"""The library inside the loops of others; each module needs its own extra and names it where it is missing.

`minibatch_jax.interop.grain` needs `pip install 'minibatch_jax[grain]'`, `minibatch_jax.interop.torch` needs
`pip install 'minibatch_jax[torch]'`.
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used, so that the package of one does not ask for that of another."""
    if name in ("grain", "torch"):
        return importlib.import_module(f"minibatch_jax.interop.{name}")
    raise AttributeError(f"minibatch_jax.interop has no attribute {name!r}.")
