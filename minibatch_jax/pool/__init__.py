"""Choose from a pool on disk that no memory holds: chunk by chunk, resumable, over one process or several."""

from minibatch_jax.pool._select import PoolSelection, select_from_pool

__all__ = ["PoolSelection", "select_from_pool"]
