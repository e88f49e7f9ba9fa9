"""Better mini-batches in JAX: select, couple, mine and mix the items of a batch as one weight array."""

import importlib
from types import ModuleType

from minibatch_jax import coupling, mining, selection, training
from minibatch_jax.base import SIGNALS, across, replicate, uniform_like, weight_transformation
from minibatch_jax.compose import effective_sample_size, mask_rows, normalize, record
from minibatch_jax.coupling import sample_pairs
from minibatch_jax.training import take, value_and_grad, weighted_aggregate

__version__ = "0.2.0.dev0"

__all__ = [
    "SIGNALS",
    "across",
    "coupling",
    "effective_sample_size",
    "mask_rows",
    "mining",
    "normalize",
    "record",
    "replicate",
    "sample_pairs",
    "selection",
    "take",
    "training",
    "uniform_like",
    "value_and_grad",
    "weight_transformation",
    "weighted_aggregate",
]


def __getattr__(name: str) -> ModuleType:
    """Import a part of the library that needs an extra when somebody asks for it."""
    if name in ("modules", "pool"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
