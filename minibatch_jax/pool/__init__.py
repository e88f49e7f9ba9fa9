"""Rows of a pool on disk that exceeds memory: chosen, or assigned to centers; in one or several processes."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = ["PoolAssignment", "PoolSelection", "assign_rows", "select_from_pool"]
