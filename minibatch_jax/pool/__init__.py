"""Choose rows from a pool on disk that exceeds memory: chunk by chunk, resumable, in one or several processes."""

from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = ["PoolSelection", "select_from_pool"]
