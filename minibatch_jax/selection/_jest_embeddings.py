"""JEST from embeddings under the sigmoid contrastive loss: a few rows of pair losses at a time, never `[B, B]`.

References:
  Evans et al., Data curation via joint example selection further accelerates multimodal learning, NeurIPS 2024
  (arXiv 2406.17711).
  Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023 (arXiv 2303.15343).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape, mask_or_all
from minibatch_jax.base import weight_dtype
from minibatch_jax.selection._chunked_draw import chunked_draw


class PairEmbeddings(NamedTuple):
    """One model's view of B pairs; the logit of a pair is `scale * <first_i, second_j> + bias`.

    Attributes:
      first: `[B, D]`, floating point, such as image embeddings.
      second: `[B, D]`, floating point, such as text embeddings.
      scale: number or `[]`, the inverse temperature of this model.
      bias: number or `[]`.
    """

    first: jax.Array
    second: jax.Array
    scale: float | jax.Array = 10.0
    bias: float | jax.Array = -10.0


def sigmoid_pair_losses(embeddings: PairEmbeddings) -> jax.Array:
    """Loss of each pair under the sigmoid contrastive loss: the diagonal should match, all else should not.

    Args:
      embeddings: of B pairs.

    Returns:
      `[B, B]`, `softplus(-y_ij * logit_ij)` with y = 1 on the diagonal and -1 off it.

    References:
      Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023 (arXiv 2303.15343).

    Examples:
      >>> eye = jnp.eye(2)
      >>> losses = sigmoid_pair_losses(PairEmbeddings(eye, eye, scale=2.0, bias=-1.0))
      >>> [[round(loss, 3) for loss in row] for row in losses.tolist()]
      [[0.313, 0.313], [0.313, 0.313]]
    """
    first, second, scale, bias = _cast("embeddings", embeddings)
    logits = scale * (first @ second.T) + bias
    return _softplus(jnp.where(jnp.eye(first.shape[0], dtype=bool), -logits, logits))


def jest_indices_from_embeddings(
    key: jax.Array | int,
    learner: PairEmbeddings,
    reference: PairEmbeddings,
    k: int,
    num_chunks: int,
    *,
    first_chunk: str = "learnability",
    temperature: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Draw what `jest_indices` draws under the sigmoid loss, holding `[k / num_chunks, B]` scores, not `[B, B]`.

    Args:
      key: typed PRNG key or int seed.
      learner: embeddings of the current model. An item with a row that is not finite is never chosen.
      reference: embeddings of the reference model, which may have another width.
      k: how many to draw, a multiple of `num_chunks`, static.
      num_chunks: draws in sequence, static.
      first_chunk: "learnability" or "uniform".
      temperature: divides the logits, positive.
      where: `[B]` bool, which items may be chosen; all by default.

    Returns:
      `[k]` int32 as `jest_indices` does.

    Raises:
      TypeError: if embeddings are not floating point, a count is not a static int or the key is a raw array.
      ValueError: if shapes do not match, k is not in [1, B] or not a multiple of `num_chunks`.

    Examples:
      >>> eye = jnp.eye(4)
      >>> learner, reference = PairEmbeddings(eye, eye[::-1]), PairEmbeddings(eye, eye)
      >>> jest_indices_from_embeddings(jax.random.key(0), learner, reference, k=4, num_chunks=2).sort().tolist()
      [0, 1, 2, 3]
    """
    models = [_cast("learner", learner), _cast("reference", reference)]
    check_shape("reference.first", models[1].first, (models[0].first.shape[0], None))
    finite = [jnp.isfinite(x).all(1) for m in models for x in (m.first, m.second)]
    finite.append(mask_or_all("where", where, learner.first.shape[:1]))
    allowed = jnp.stack(finite).all(0)
    models = [
        m._replace(first=jnp.where(allowed[:, None], m.first, 0), second=jnp.where(allowed[:, None], m.second, 0))
        for m in models
    ]

    def diagonal_loss(m):
        return _softplus(-(m.scale * jnp.sum(m.first * m.second, 1) + m.bias))

    def negatives(chosen, others, m):
        return _summand_softplus((m.scale * chosen) @ others.T + m.bias)

    def absorb(total, chosen, valid):
        rows, columns = (
            negatives(a[chosen], b, models[0]) - negatives(c[chosen], d, models[1])
            for (a, b), (c, d) in zip(_both_ways(models[0]), _both_ways(models[1]))
        )
        return total + jnp.sum(jnp.where(valid[:, None], rows + columns, 0), 0)

    diagonal = diagonal_loss(models[0]) - diagonal_loss(models[1])
    return chunked_draw(
        key,
        allowed,
        jnp.zeros_like(diagonal),
        lambda total: diagonal + total,
        absorb,
        k=k,
        num_chunks=num_chunks,
        first_chunk=first_chunk,
        temperature=temperature,
    )


def _cast(name: str, embeddings: PairEmbeddings) -> PairEmbeddings:
    first, second, scale, bias = embeddings
    check_shape(f"{name}.first", first, (None, None))
    check_shape(f"{name}.second", second, first.shape)
    check_floating(f"{name}.first", first)
    check_floating(f"{name}.second", second)
    dtype = weight_dtype(jnp.promote_types(first.dtype, second.dtype))
    return PairEmbeddings(
        first.astype(dtype), second.astype(dtype), jnp.asarray(scale, dtype), jnp.asarray(bias, dtype)
    )


def _both_ways(m: PairEmbeddings) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    return (m.first, m.second), (m.second, m.first)


def _softplus(x: jax.Array) -> jax.Array:
    """Softplus with a short series for small exponentials: log(1 + exp(-17)) would be 0, and log1p is slower."""
    power = jnp.exp(-jnp.abs(x))
    series = power * (1 - power * (1 / 2 - power / 3))
    small = power < jnp.finfo(x.dtype).eps ** 0.25
    return jnp.maximum(x, 0) + jnp.where(small, series, jnp.log(1 + power))


def _summand_softplus(x: jax.Array) -> jax.Array:
    """Softplus to within 6e-8, not relative to its value: a sixth of the whole draw faster than log1p on CPU."""
    return jnp.maximum(x, 0) + jnp.log(1 + jnp.exp(-jnp.abs(x)))
