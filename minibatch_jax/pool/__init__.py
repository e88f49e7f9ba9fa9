"""Rows of a pool on disk that exceeds memory: chosen, clustered, assigned, searched; and labeled in rounds."""

from minibatch_jax.pool._assign import PoolAssignment, assign_rows
from minibatch_jax.pool._clusters import PoolClusters, cluster_rows
from minibatch_jax.pool._labeling import PoolLabels, label_in_rounds
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
    "PoolLabels",
    "PoolNeighbors",
    "PoolReport",
    "PoolSelection",
    "PoolTurns",
    "assign_rows",
    "cluster_rows",
    "compress_rows",
    "label_in_rounds",
    "nearest_in_turn",
    "nearest_rows",
    "open_pool",
    "select_from_pool",
]
