"""Rows of a pool on disk that exceeds memory: chosen, clustered, assigned to centers; in one or several processes."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._clusters import PoolClusters, cluster_rows
from minibatch_jax.pool._open import Pool, open_pool
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = [
    "Pool",
    "PoolAssignment",
    "PoolClusters",
    "PoolReport",
    "PoolSelection",
    "assign_rows",
    "cluster_rows",
    "open_pool",
    "select_from_pool",
]
