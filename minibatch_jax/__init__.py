"""Better mini-batches in JAX: select, couple, mine and mix the items of a batch as one weight array."""

from minibatch_jax import coupling, mining, selection, training
from minibatch_jax.base import SIGNALS, across, replicate, uniform_like, weight_transformation
from minibatch_jax.compose import effective_sample_size, mask_rows, normalize, record
from minibatch_jax.coupling import sample_pairs
from minibatch_jax.training import take, value_and_grad, weighted_aggregate

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
