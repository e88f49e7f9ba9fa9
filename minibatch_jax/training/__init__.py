"""Boundaries between weights and training: gradients of selected batches, their norms, gathered rows, aggregation."""

from minibatch_jax.training._aggregate import weighted_aggregate
from minibatch_jax.training._gather import take
from minibatch_jax.training._gradient_norms import (
    ghost_gradient_norms,
    gradient_norms,
    tap_dense,
    tap_embedding,
    tap_layer,
)
from minibatch_jax.training._linen import linen_gradient_norms
from minibatch_jax.training._vjp import MinibatchAux, value_and_grad

__all__ = [
    "MinibatchAux",
    "ghost_gradient_norms",
    "gradient_norms",
    "linen_gradient_norms",
    "take",
    "tap_dense",
    "tap_embedding",
    "tap_layer",
    "value_and_grad",
    "weighted_aggregate",
]
