"""The names of what weight transformations may read, and the shape, dtype and layout that each name promises.

A name means one thing wherever it appears. A transformation asks for a signal by naming it as a keyword-only argument
of its `update`, so this table is also the list of names that `weight_transformation` accepts.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp


class Signal(NamedTuple):
    """What one signal holds.

    Attributes:
      shape: names of the axes, such as `("B", "C")` for B examples and C classes.
      dtype: kind of the numbers: `jnp.floating`, `jnp.integer` or `jnp.bool_`.
      meaning: what the numbers say.
      pairwise: True if rows and columns are both items of a batch. Padding then covers rows and columns.
      replicated: True if every device holds the whole signal. Other signals are sharded along their first axis, like
        the weights, and `across` gathers them.
    """

    shape: tuple[str, ...]
    dtype: Any
    meaning: str
    pairwise: bool = False
    replicated: bool = False

    def __str__(self) -> str:
        return f"[{', '.join(self.shape)}] {self.dtype.__name__.rstrip('_')}, {self.meaning}"


_FLOAT, _INT, _BOOL = jnp.floating, jnp.integer, jnp.bool_

SIGNALS = {
    "losses": Signal(("B",), _FLOAT, "loss of each example under the current model"),
    "reference_losses": Signal(("B",), _FLOAT, "loss of each example under a reference model"),
    "pair_losses": Signal(("B", "B"), _FLOAT, "loss of each pair under the current model", pairwise=True),
    "reference_pair_losses": Signal(("B", "B"), _FLOAT, "loss of each pair under a reference model", pairwise=True),
    "gradient_norms": Signal(("B",), _FLOAT, "norm of the gradient of each example's loss"),
    "logits": Signal(("B", "C"), _FLOAT, "class scores of the current model"),
    "teacher_logits": Signal(("B", "C"), _FLOAT, "class scores of a teacher"),
    "features": Signal(("B", "D"), _FLOAT, "one vector per example"),
    "cost": Signal(("B0", "B1"), _FLOAT, "price of pairing a source with a target", pairwise=True),
    "distances": Signal(("A", "M"), _FLOAT, "distance of each anchor to each reference", pairwise=True),
    "labels": Signal(("B",), _INT, "class of each example"),
    "concepts": Signal(("B", "L"), _INT, "concepts of each example, -1 for none"),
    "domains": Signal(("B",), _INT, "domain of each example"),
    "example_ids": Signal(("B",), _INT, "index of each example in its data set"),
    "mask": Signal(("B",), _BOOL, "False on padding"),
    "domain_losses": Signal(("K",), _FLOAT, "mean loss of each domain", replicated=True),
    "domain_counts": Signal(("K",), _INT, "examples seen of each domain", replicated=True),
}
