"""Embed some rows of a batch cheaply, so that a learner stays good at the resolution that scores (Flexi-JEST).

Score the super-batch with a cheap pass, such as larger patches. Choose rows by `jest_indices_from_embeddings`. Train on
the chosen rows, a random part of them at the cheap resolution.

References:
  Evans et al., Data curation via joint example selection further accelerates multimodal learning, NeurIPS 2024
    (arXiv 2406.17711).
  Beyer et al., FlexiViT: one model for all patch sizes, 2022 (arXiv 2212.08013).

Method: Flexi-JEST
Paper: 2406.17711
Experiment: jest_race
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count


def embed_at_two_resolutions(
    key: jax.Array | int,
    batch: Any,
    cheap: Callable[[Any], Any],
    full: Callable[[Any], Any],
    *,
    num_cheap: int,
) -> Any:
    """Embed `num_cheap` random rows of B by `cheap` and the others by `full`, for one loss over all rows.

    JEST returns rows in order of choice, and early rows differ from late ones; so the cheap rows are drawn at random
    instead of taken from one end. Each function sees its own rows only: the cost is that of `num_cheap` cheap rows and
    `B - num_cheap` full rows. Gradients flow through both functions.

    Args:
      key: typed PRNG key or int seed.
      batch: pytree of arrays `[B, ...]`.
      cheap: function of a batch of `num_cheap` rows that returns a pytree of arrays `[num_cheap, ...]`.
      full: function of a batch of the other rows that returns a pytree of arrays `[B - num_cheap, ...]`, with the
        trailing shapes and dtypes of `cheap`.
      num_cheap: how many rows are cheap, 1 <= num_cheap < B, static; B / 2 in the paper.

    Returns:
      The pytree of `cheap` and `full` with arrays `[B, ...]`, in the order of the rows of the batch.

    Raises:
      TypeError: if `num_cheap` is not a static int.
      ValueError: if `num_cheap` is not in [1, B), leading axes differ, or the two functions return different shapes.

    References:
      Evans et al., NeurIPS 2024 (arXiv 2406.17711).

    Examples:
      >>> x = jnp.arange(4.0)
      >>> z = embed_at_two_resolutions(jax.random.key(0), x, lambda x: -x - 1, lambda x: x, num_cheap=2)
      >>> sorted(jnp.abs(z + 0.5).tolist()), int(jnp.sum(z < 0))
      ([0.5, 1.5, 2.5, 3.5], 2)
    """
    batch = jax.tree.map(jnp.asarray, batch)
    leaves = jax.tree.leaves(batch)
    if not leaves or any(x.ndim == 0 or x.shape[0] != leaves[0].shape[0] for x in leaves):
        raise ValueError(f"batch has the shapes {jax.tree.map(jnp.shape, batch)}, wanted arrays with the same rows.")
    rows = leaves[0].shape[0]
    check_count("num_cheap", num_cheap, rows - 1, "one below the number of rows")
    order = jax.random.permutation(as_key(key), rows)
    parts = order[:num_cheap], order[num_cheap:]
    coarse, fine = (f(jax.tree.map(lambda x, i=i: x[i], batch)) for f, i in zip((cheap, full), parts))
    _check_alike(coarse, fine, num_cheap, rows - num_cheap)
    back = jnp.argsort(order)
    return jax.tree.map(lambda c, f: jnp.concatenate([c, f])[back], coarse, fine)


def _check_alike(coarse: Any, fine: Any, num_cheap: int, num_full: int) -> None:
    def describe(tree, rows):
        return jax.tree.map(lambda x: (x.shape[0] == rows, x.shape[1:], str(x.dtype)), tree)

    if describe(coarse, num_cheap) != describe(fine, num_full):
        shapes = [jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree) for tree in (coarse, fine)]
        raise ValueError(f"cheap and full gave {shapes[0]} and {shapes[1]}, wanted the same but for the rows.")
