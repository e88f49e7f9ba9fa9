"""Attention across the examples of a batch during training, and none at test time.

References:
  Hou et al., BatchFormer: learning to explore sample relationships for robust representation learning, 2022
    (arXiv 2203.01522).
  Hou et al., BatchFormerV2: exploring sample relationships for dense representation learning, 2022 (arXiv 2204.01254).

Method: BatchFormer
Paper: 2203.01522, 2204.01254
Experiment: batch_former, batch_former_domains, batch_former_contrastive
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._extras import require

require("flax.nnx", "modules")

from flax import nnx


class BatchFormer(nnx.Module):
    """One transformer encoder layer over the batch.

    During training the module returns the features followed by the features that attended to each other: `[2 B, D]`.
    One classifier and one loss serve both halves: repeat the labels, and repeat and halve the example weights. After
    `module.eval()` the module returns the features unchanged, so that a prediction does not depend on other examples.

    Features `[B, N, D]` are those of N places, such as the tokens of an image (BatchFormerV2). The examples then attend
    to each other at each place by itself, with the same weights at all places, and the module returns `[2 B, N, D]`.

    Args:
      features: D, the width of the features, static.
      num_heads: number of attention heads, static; it divides D.
      hidden: width of the feed-forward block, static; D by default.
      dropout: rate of the dropout, in [0, 1].
      rngs: random numbers for the parameters and the dropout.

    Raises:
      TypeError: if a size is not a static int.
      ValueError: if a size or rate is out of range.

    Examples:
      >>> from flax import nnx
      >>> module = BatchFormer(8, rngs=nnx.Rngs(0))
      >>> module(jnp.ones((3, 8))).shape
      (6, 8)
      >>> module(jnp.ones((3, 5, 8))).shape
      (6, 5, 8)
      >>> module.eval()
      >>> module(jnp.ones((3, 8))).shape
      (3, 8)
    """

    def __init__(
        self, features: int, *, num_heads: int = 4, hidden: int | None = None, dropout: float = 0.5, rngs: nnx.Rngs
    ):
        check_count("features", features)
        check_count("num_heads", num_heads, features, "the number of features")
        if features % num_heads:
            raise ValueError(f"num_heads is {num_heads}, wanted a divisor of the number of features ({features}).")
        check_number("dropout", dropout, 0, 1)
        width = features if hidden is None else hidden
        self.features, self.deterministic = features, False
        self.attention = nnx.MultiHeadAttention(num_heads, features, dropout_rate=dropout, decode=False, rngs=rngs)
        self.first_norm, self.second_norm = nnx.LayerNorm(features, rngs=rngs), nnx.LayerNorm(features, rngs=rngs)
        self.expand, self.contract = nnx.Linear(features, width, rngs=rngs), nnx.Linear(width, features, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Map features `[B, D]` to `[2 B, D]` during training, and to themselves after `eval()`.

        Args:
          x: `[B, D]`, features, floating point; or `[B, N, D]`, those of N places.
          mask: `[B]` bool, False on padding; no example attends to padding. All True by default.

        Returns:
          `[2 B, D]` or `[2 B, N, D]` during training, the features themselves after `eval()`.

        Raises:
          TypeError: if the features are not floating point.
          ValueError: if shapes do not match.
        """
        check_shape("x", x, (None, None, self.features) if jnp.ndim(x) == 3 else (None, self.features))
        check_floating("x", x)
        if mask is not None:
            check_shape("mask", mask, x.shape[:1])
        if self.deterministic:
            return x
        return jnp.concatenate([x, self.encode(x, mask)])

    def encode(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Return the features `[B, D]` or `[B, N, D]` after the encoder layer, post-norm as in the paper."""
        places = (x if x.ndim == 3 else x[:, None]).swapaxes(0, 1)  # [N, B, D]: attention is over the examples
        keys = None if mask is None else jnp.broadcast_to(mask[None, None, None, :], (1, 1, x.shape[0], x.shape[0]))
        safe = places if mask is None else jnp.where(mask[None, :, None], places, jnp.zeros_like(places))
        attended = self.attention(safe, mask=keys, deterministic=self.deterministic)
        y = self.first_norm(safe + self.dropout(attended))
        y = self.second_norm(y + self.dropout(self.contract(self.dropout(nnx.relu(self.expand(y))))))
        return y.swapaxes(0, 1) if x.ndim == 3 else y[0]
