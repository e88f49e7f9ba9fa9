"""Rows of a pool on disk that exceeds memory: chosen, clustered, assigned to centers; in one or several processes."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._clusters import PoolClusters, cluster_rows
from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = ["PoolAssignment", "PoolClusters", "PoolSelection", "assign_rows", "cluster_rows", "select_from_pool"]
