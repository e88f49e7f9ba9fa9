"""Where experiments keep what they can make or fetch again: archives, prepared data sets, compiled programs."""

import os
from pathlib import Path


def root() -> Path:
    """The folder MINIBATCH_JAX_DATA, else ~/.cache/minibatch_jax."""
    return Path(os.environ.get("MINIBATCH_JAX_DATA") or "~/.cache/minibatch_jax").expanduser()
