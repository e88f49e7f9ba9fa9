"""Packages that only a part of the library needs: imported when used, and named with the command that installs them."""

import importlib
from typing import Any


def require(package: str, extra: str) -> Any:
    """Return the imported package, or say how to install it.

    Args:
      package: name to import, such as "flax.linen".
      extra: extra of `minibatch_jax` that holds it.

    Returns:
      The module.

    Raises:
      ImportError: if the package is missing, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        top = package.split(".")[0]
        raise ImportError(f"{top} is missing, wanted it here: pip install 'minibatch_jax[{extra}]'") from error
