"""Which pairs of anchor and reference are of one class, and which of different classes: bool masks `[A, M]`."""

import jax

from minibatch_jax.signals import label_masks


def positive_mask(labels: jax.Array, reference_labels: jax.Array | None = None) -> jax.Array:
    """Return the mask of the pairs of one class.

    Args:
      labels: `[A]` int, class of each anchor.
      reference_labels: `[M]` int, class of each reference. By default the references are the anchors, and an anchor is
        not its own positive.

    Returns:
      `[A, M]` bool.

    Raises:
      TypeError: if labels are not integers.
      ValueError: if labels are empty or not of rank 1.

    Examples:
      >>> positive_mask(jnp.array([7, 7, 3])).astype(int).tolist()
      [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    return label_masks(labels, reference_labels)[0]


def negative_mask(labels: jax.Array, reference_labels: jax.Array | None = None) -> jax.Array:
    """Return the mask of the pairs of different classes.

    Args:
      labels: `[A]` int, class of each anchor.
      reference_labels: `[M]` int, class of each reference. By default the references are the anchors.

    Returns:
      `[A, M]` bool.

    Raises:
      TypeError: if labels are not integers.
      ValueError: if labels are empty or not of rank 1.

    Examples:
      >>> negative_mask(jnp.array([7, 7, 3])).astype(int).tolist()
      [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """
    return label_masks(labels, reference_labels)[1]
