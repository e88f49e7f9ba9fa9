"""Boundaries between weights and training: gradients of selected batches, gathered rows, aggregated gradients."""

from minibatch_jax.training._aggregate import weighted_aggregate
from minibatch_jax.training._gather import take
from minibatch_jax.training._vjp import MinibatchAux, value_and_grad

__all__ = ["MinibatchAux", "take", "value_and_grad", "weighted_aggregate"]
