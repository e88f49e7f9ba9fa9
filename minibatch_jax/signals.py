"""The names of what weight transformations may read, and the shape, dtype and layout that each name promises.

A name means one thing wherever it appears. A transformation asks for a signal by naming it as a keyword-only argument
of its `update`, so this table is also the list of names that `weight_transformation` accepts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_integer, check_shape


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
    "advantages": Signal(("B",), _FLOAT, "how much better than expected each action was"),
    "log_ratios": Signal(("B",), _FLOAT, "log-probability of each action less that when it was drawn"),
    "logits": Signal(("B", "C"), _FLOAT, "class scores of the current model"),
    "committee_logits": Signal(("B", "M", "C"), _FLOAT, "class scores of each member of a committee"),
    "teacher_logits": Signal(("B", "C"), _FLOAT, "class scores of a teacher"),
    "features": Signal(("B", "D"), _FLOAT, "one vector per example"),
    "cost": Signal(("B0", "B1"), _FLOAT, "price of pairing a source with a target", pairwise=True),
    "distances": Signal(("A", "M"), _FLOAT, "distance of each anchor to each reference", pairwise=True),
    "labels": Signal(("B",), _INT, "class of each example"),
    "reference_labels": Signal(("M",), _INT, "class of each reference", replicated=True),
    "reference_logits": Signal(("M", "C"), _FLOAT, "class scores of each reference", replicated=True),
    "reference_features": Signal(("M", "D"), _FLOAT, "one vector per reference", replicated=True),
    "positives": Signal(("A", "M"), _BOOL, "True where anchor and reference belong together", pairwise=True),
    "negatives": Signal(("A", "M"), _BOOL, "True where anchor and reference do not belong together", pairwise=True),
    "concepts": Signal(("B", "L"), _INT, "concepts of each example, -1 for none"),
    "tokens": Signal(("B", "T"), _INT, "tokens of each example, negative for none"),
    "domains": Signal(("B",), _INT, "domain of each example"),
    "moments": Signal(("D",), _FLOAT, "Adam's moments: (mean [D], variance [D], count [])", replicated=True),
    "example_ids": Signal(("B",), _INT, "index of each example in its data set"),
    "mask": Signal(("B",), _BOOL, "False on padding"),
    "noise_levels": Signal(("B",), _FLOAT, "standard deviation of all noise in the model's input, of each example"),
    "corruption": Signal(("B",), _FLOAT, "standard deviation of the noise that each example came with"),
    "domain_losses": Signal(("K",), _FLOAT, "mean loss of each domain", replicated=True),
    "domain_counts": Signal(("K",), _INT, "examples seen of each domain", replicated=True),
    "domain_alignments": Signal(
        ("K",), _FLOAT, "how far the gradient of each domain points along that of the target", replicated=True
    ),
    "target_losses": Signal(("M",), _FLOAT, "mean loss of each target of evaluation", replicated=True),
}


def pair_signals(given: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Return `positives` and `negatives` of pairs of anchors and references, from themselves or from labels.

    Without `reference_labels` the references are the anchors, and then no anchor is its own positive.

    Args:
      given: signals, with both `positives` and `negatives` `[A, M]` bool, or `labels` `[A]` int and, unless the
        references are the anchors, `reference_labels` `[M]` int. The masks count before the labels.
      shape: (A, M).

    Returns:
      The masks under their names, `[A, M]` bool each.

    Raises:
      TypeError: if a mask is not bool or a label not an integer, or neither both masks nor labels are given.
      ValueError: if a shape does not match, or that of the pairs is no matrix.

    Examples:
      >>> masks = pair_signals({"labels": jnp.array([7, 7, 3])}, (3, 3))
      >>> masks["positives"].astype(int).tolist()
      [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    if len(shape) != 2:
        raise ValueError(f"weights has shape {list(shape)}, wanted [A, M], one weight for each anchor and reference.")
    positives, negatives = given.get("positives"), given.get("negatives")
    if positives is not None and negatives is not None:
        masks = {"positives": positives, "negatives": negatives}
        for name, mask in masks.items():
            check_shape(name, mask, shape)
            check_bool(name, mask)
        return masks
    if (positives is None) != (negatives is None):
        raise TypeError("one of 'positives' and 'negatives' is given, wanted both, or 'labels'.")
    labels, reference_labels = given.get("labels"), given.get("reference_labels")
    if labels is None:
        names = sorted(name for name, value in given.items() if value is not None)
        raise TypeError(f"the signals of pairs are {names}, wanted 'labels', or both 'positives' and 'negatives'.")
    check_shape("labels", labels, shape[:1])
    if reference_labels is None and shape[0] != shape[1]:
        raise ValueError(
            f"the pairs have shape {list(shape)} and come without reference_labels, wanted reference_labels "
            f"[{shape[1]}], or 'positives' and 'negatives'."
        )
    if reference_labels is not None:
        check_shape("reference_labels", reference_labels, shape[1:])
    positives, negatives = label_masks(labels, reference_labels)
    return {"positives": positives, "negatives": negatives}


def label_masks(labels: jax.Array, reference_labels: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Return the masks of the pairs of one class and of those of different classes.

    Args:
      labels: `[A]` int, class of each anchor.
      reference_labels: `[M]` int, class of each reference. By default the references are the anchors, and an anchor is
        not its own positive.

    Returns:
      Both masks, `[A, M]` bool.

    Raises:
      TypeError: if labels are not integers.
      ValueError: if labels are empty or not of rank 1.

    Examples:
      >>> [mask.astype(int).tolist() for mask in label_masks(jnp.array([7, 3]), jnp.array([7, 7]))]
      [[[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    """
    for name, value in (("labels", labels), ("reference_labels", reference_labels)):
        if value is not None:
            check_shape(name, value, (None,))
            check_integer(name, value)
    same = labels[:, None] == (labels if reference_labels is None else reference_labels)[None, :]
    itself = jnp.eye(labels.shape[0], dtype=bool) if reference_labels is None else jnp.zeros((), bool)
    return same & ~itself, ~same
