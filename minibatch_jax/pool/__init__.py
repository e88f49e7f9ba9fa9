"""Rows of a pool on disk that exceeds memory: chosen, or assigned to centers; rows labeled in rounds."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._labeling import PoolLabels, label_in_rounds
from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = ["PoolAssignment", "PoolLabels", "PoolSelection", "assign_rows", "label_in_rounds", "select_from_pool"]
