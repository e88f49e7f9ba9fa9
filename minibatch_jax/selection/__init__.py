"""Which examples of a batch count: weights `[B]`."""

from minibatch_jax.selection._topk import keep_bottomk, keep_topk, topk_mask

__all__ = ["keep_bottomk", "keep_topk", "topk_mask"]
