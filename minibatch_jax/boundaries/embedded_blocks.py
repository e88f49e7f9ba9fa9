"""Contrastive batches beyond memory: embed in blocks, compare all embeddings, go back through one block at a time.

A contrastive loss needs the embeddings of all rows at once, but not all activations of the encoder. So the encoder runs
twice: first over the batch without gradient, then, once the gradient of each embedding is known, over blocks with
gradient. Only rows with such a gradient matter in the second pass: those that a selection or a miner left. This is
`value_and_grad(items_fn, transformation, encode=encode, block_size=b)`. The gradient is that of the whole batch, the
memory that of one block, and the cost one more forward pass, at most a third of a step.

References:
  Gao et al., Scaling deep contrastive learning batch size under memory limited setup, RepL4NLP 2021 (arXiv 2101.06983).

Method: contrastive batches beyond memory (GradCache)
Paper: 2101.06983
Experiment: speed grad_cache
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count
from minibatch_jax.boundaries._cached_gradients import Encoder
from minibatch_jax.boundaries._models import fixed_model


def embed_in_blocks(encode: Callable[[Any, Any], Any], params: Any, batch: Any, block_size: int) -> Any:
    """Return the embeddings of a batch, computed a block of rows at a time and without a gradient.

    This is the first half of a step of `value_and_grad(encode=encode, block_size=b)`. By itself it embeds with a
    reference model, or embeds a super-batch from which rows are chosen before the step.

    Args:
      encode: `encode(params, block) -> embeddings`, floating-point `[b, ...]` or a tree of them (two towers).
      params: parameters; an nnx module must not change its state.
      batch: pytree with leaves `[B, ...]`. Of m blocks, block j has the rows j, j + m, j + 2m, ...
      block_size: rows of a block, static; it divides B, or is larger.

    Returns:
      Embeddings `[B, ...]` in the order of the rows.

    Raises:
      TypeError: if `block_size` is not a static int or embeddings are not floating point.
      ValueError: if leading axes differ, `block_size` does not divide B, or a module changes its state.

    References:
      Gao et al., RepL4NLP 2021 (arXiv 2101.06983).

    Examples:
      >>> embed_in_blocks(lambda w, x: {"doubled": w * x}, 2.0, jnp.arange(6.0), block_size=3)["doubled"].tolist()
      [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    check_count("block_size", block_size)
    return Encoder(encode, block_size).embed(fixed_model(params), jax.tree.map(jnp.asarray, batch))
