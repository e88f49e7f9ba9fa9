"""Rows of a pool on disk that exceeds memory: chosen, clustered, assigned to centers; in one or several processes."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._clusters import PoolClusters, cluster_rows
from minibatch_jax.pool._nearest import PoolCode, PoolNeighbors, compress_rows, nearest_rows
from minibatch_jax.pool._open import Pool, open_pool
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._select import PoolSelection, select_from_pool
from minibatch_jax.pool._turns import PoolTurns, nearest_in_turn

__all__ = [
    "Pool",
    "PoolAssignment",
    "PoolClusters",
    "PoolCode",
    "PoolNeighbors",
    "PoolReport",
    "PoolSelection",
    "PoolTurns",
    "assign_rows",
    "cluster_rows",
    "compress_rows",
    "nearest_in_turn",
    "nearest_rows",
    "open_pool",
    "select_from_pool",
]
