"""Samplers inside the data loaders of others; each module needs its own extra and names it where it is missing.

`minibatch_jax.interop.grain` needs `pip install 'minibatch_jax[grain]'`.
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used, so that the package of one does not ask for that of another."""
    if name == "grain":
        return importlib.import_module("minibatch_jax.interop.grain")
    raise AttributeError(f"minibatch_jax.interop has no attribute {name!r}.")
