"""Examples made of several examples of the batch: mixup averages two of them, Mosaic pastes parts of four.

The label of a mixed example is the mean of the labels of its parts with the same shares. Cross-entropy is linear in the
label, so its loss is the mean of the losses with each of the labels: weights `[B, C]` over the losses -log p.

References:
  Zhang et al., mixup: beyond empirical risk minimization, 2018 (arXiv 1710.09412).
  Bochkovskiy et al., YOLOv4: optimal speed and accuracy of object detection, 2020 (arXiv 2004.10934): Mosaic.

Method: mixup, Mosaic
Paper: 1710.09412, 2004.10934
Experiment: pseudo_labels
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_floating, check_number, check_shape
from minibatch_jax.devices import replicate, shard_like
from minibatch_jax.sampling._sampler import random_order


class MixedExamples(NamedTuple):
    """A batch of mixed examples, each made of m examples of the batch.

    Attributes:
      inputs: tree of `[B, ...]`, in the dtype of what was given.
      targets: tree of `[B, ...]`, means of the targets of the parts; None if none were given.
      partners: `[B, m]` int32, rows of the batch that each is made of, the first of them itself.
      shares: `[B, m]` float32 with the sum 1, how much of each is in it.
    """

    inputs: Any
    targets: Any
    partners: jax.Array
    shares: jax.Array


def mixup(
    key: jax.Array | int,
    inputs: Any,
    targets: Any = None,
    *,
    alpha: float | jax.Array = 1.0,
    per_row: bool = False,
    weights: jax.Array | None = None,
) -> MixedExamples:
    """Mix each example with another one: `s x + (1 - s) x'` with a share s from Beta(alpha, alpha).

    The other one is that of a random permutation of the batch, so each example is once the first and once the second of
    a pair, and may be both. Examples of weight 0 are padding: they stay as they are, and no other is mixed with them.

    Inside `shard_map` the rows of a device are mixed among themselves; give each device its own key.

    Args:
      key: int seed or key.
      inputs: tree of `[B, ...]`, floating point.
      targets: tree of `[B, ...]`, floating point, such as one-hot or soft labels `[B, C]`; by default none. With labels
        that are integers, weigh the losses of both by `shares` instead.
      alpha: > 0 and finite, may be traced: 1 draws all shares alike, less prefers pure examples. A traced one that is
        neither mixes nothing: all shares are 1 and 0.
      per_row: False draws one share for the batch, as published; True draws one for each row, static.
      weights: `[B]`, those of the sampler, 0 on padding; by default no row is padding.

    Returns:
      `MixedExamples` of two parts each.

    Raises:
      TypeError: if an array is not floating point or `per_row` is no bool.
      ValueError: if there is no array, numbers of rows differ, or alpha is not positive and finite, or has a shape.

    References:
      Zhang et al., mixup: beyond empirical risk minimization, 2018 (arXiv 1710.09412).

    Examples:
      >>> x, y = jnp.array([[1.0], [3.0]]), jnp.eye(2)
      >>> mixed = mixup(1, x, y)
      >>> bool(jnp.allclose(mixed.targets @ x, mixed.inputs)), mixed.shares.sum(axis=1).tolist()
      (True, [1.0, 1.0])
    """
    number = _num_rows({"inputs": inputs, "targets": targets})
    check_number("alpha", alpha, 0, math.inf, open_low=True, open_high=True)
    _check_bool("per_row", per_row)
    for name, tree in (("inputs", inputs), ("targets", targets)):
        for leaf in jax.tree.leaves(tree):
            check_floating(name, leaf)
    order_key, share_key = jax.random.split(as_key(key))
    partners = _partners(order_key, number, weights, 2)
    alpha = jnp.asarray(alpha, jnp.float32)
    check_shape("alpha", alpha, ())
    shape = (number,) if per_row else ()
    own = jnp.broadcast_to(jax.random.beta(share_key, alpha, alpha, shape, jnp.float32), (number,))
    own = jnp.where((alpha > 0) & jnp.isfinite(own), own, 1)
    shares = jnp.stack([own, 1 - own], axis=1)
    return MixedExamples(_mean(inputs, partners, shares), _mean(targets, partners, shares), partners, shares)


def mosaic(
    key: jax.Array | int,
    images: Any,
    targets: Any = None,
    *,
    min_fraction: float = 0.2,
    per_row: bool = True,
    weights: jax.Array | None = None,
) -> MixedExamples:
    """Make each image of parts of four images of the batch, which meet in a random point.

    A part keeps its place in the image: the top left part is that of the image itself, the others are those of the
    images in three random permutations of the batch. Shares are areas, and targets their means, as the classifiers of
    the published code have it. Boxes of a detector are not cut.

    Inside `shard_map` the rows of a device are mixed among themselves; give each device its own key.

    Args:
      key: int seed or key.
      images: tree of `[B, H, W, ...]` of any dtype, all of one height and width, such as images and masks of segments.
      targets: tree of `[B, ...]`, floating point, such as one-hot labels `[B, C]`; by default none.
      min_fraction: of the height and of the width that each part has at least, in [0, 0.5], static.
      per_row: True draws a point for each image, as published; False draws one for the batch, static.
      weights: `[B]`, those of the sampler, 0 on padding, which stays as it is; by default no row is padding.

    Returns:
      `MixedExamples` of four parts each: top left, top right, bottom left and bottom right.

    Raises:
      TypeError: if a target is not floating point or `per_row` is no bool.
      ValueError: if there is no image, numbers of rows, heights or widths differ, or `min_fraction` is out of range.

    References:
      Bochkovskiy et al., YOLOv4, 2020 (arXiv 2004.10934).

    Examples:
      >>> images, labels = jnp.arange(8)[:, None, None] * jnp.ones((1, 4, 4), jnp.int32), jnp.eye(8)
      >>> mixed = mosaic(0, images, labels)
      >>> bool(jnp.allclose(mixed.targets @ jnp.arange(8.0), mixed.inputs.mean(axis=(1, 2))))
      True
    """
    number = _num_rows({"images": images, "targets": targets})
    check_number("min_fraction", min_fraction, 0, 0.5)
    _check_bool("per_row", per_row)
    leaves = jax.tree.leaves(images)
    for leaf in leaves:
        if jnp.ndim(leaf) < 3:
            raise ValueError(f"images has shape {list(jnp.shape(leaf))}, wanted [B, H, W, ...].")
        check_shape("images", leaf, (number, *leaves[0].shape[1:3], *[None] * (leaf.ndim - 3)))
    for leaf in jax.tree.leaves(targets):
        check_floating("targets", leaf)
    height, width = leaves[0].shape[1:3]
    order_key, *point_keys = jax.random.split(as_key(key), 3)
    partners = _partners(order_key, number, weights, 4)
    y, x = (_cuts(k, number if per_row else 1, side, min_fraction) for k, side in zip(point_keys, (height, width)))
    up, left = y / height, x / width
    shares = jnp.stack([up * left, up * (1 - left), (1 - up) * left, (1 - up) * (1 - left)], axis=1)
    shares = jnp.broadcast_to(shares, (number, 4)).astype(jnp.float32)
    below = jnp.arange(height, dtype=jnp.int32)[None, :, None] >= y[:, None, None]
    right = jnp.arange(width, dtype=jnp.int32)[None, None] >= x[:, None, None]
    part = 2 * below.astype(jnp.int32) + right.astype(jnp.int32)

    def paste(leaf):
        whole, own_part = replicate(jnp.asarray(leaf)), part.reshape(*part.shape, *[1] * (leaf.ndim - 3))
        parts = [jnp.where(own_part == i, whole[partners[:, i]], 0) for i in range(1, 4)]
        return shard_like(leaf, jnp.where(own_part == 0, whole, sum(parts[1:], parts[0])).astype(leaf.dtype))

    return MixedExamples(jax.tree.map(paste, images), _mean(targets, partners, shares), partners, shares)


def _partners(key: jax.Array, number: int, weights: jax.Array | None, parts: int) -> jax.Array:
    """Return each row and those of random permutations of the rows that are no padding, `[B, parts]`."""
    own = jnp.arange(number, dtype=jnp.int32)
    if weights is None:
        exists = jnp.ones(number, bool)
    else:
        check_shape("weights", weights, (number,))
        check_floating("weights", weights)
        exists = replicate(weights) > 0
    first = jnp.argsort(~exists, stable=True)

    def permutation(key):
        return own.at[first].set(random_order(key, exists))

    others = jax.vmap(permutation)(jax.random.split(key, parts - 1))
    return jnp.concatenate([own[None], others]).T


def _mean(tree: Any, partners: jax.Array, shares: jax.Array) -> Any:
    """Return means of the rows of each leaf by their shares, in the dtype of the leaf."""

    def mean(leaf):
        whole = replicate(jnp.asarray(leaf))
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        total = jnp.zeros(leaf.shape, wide)
        for i in range(partners.shape[1]):
            share = shares[:, i].astype(wide).reshape(-1, *[1] * (leaf.ndim - 1))
            total = total + share * (whole if i == 0 else whole[partners[:, i]]).astype(wide)
        return shard_like(leaf, total.astype(leaf.dtype))

    return jax.tree.map(mean, tree)


def _cuts(key: jax.Array, number: int, side: int, min_fraction: float) -> jax.Array:
    """Return whole numbers `[number]` that leave at least the fraction of the side on both sides."""
    least = min(-int(-side * min_fraction // 1), side // 2)
    return jax.random.randint(key, (number,), least, side - least + 1, jnp.int32)


def _num_rows(trees: dict[str, Any]) -> int:
    """Return B, the rows of every leaf; the first tree must have a leaf."""
    name, first = next(iter(trees.items()))
    if not jax.tree.leaves(first):
        raise ValueError(f"{name} has no array, wanted at least one [B, ...].")
    number = jnp.shape(jax.tree.leaves(first)[0])[:1]
    for name, tree in trees.items():
        for leaf in jax.tree.leaves(tree):
            check_shape(name, leaf, (*(number or (None,)), *jnp.shape(leaf)[1:]))
    return number[0]


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, wanted a bool.")
