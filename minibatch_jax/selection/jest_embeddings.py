"""JEST from embeddings under the sigmoid contrastive loss, with a few rows of pair losses in memory at a time.

References:
  Evans et al., Data curation via joint example selection further accelerates multimodal learning, NeurIPS 2024
  (arXiv 2406.17711).
  Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023 (arXiv 2303.15343).

Method: JEST from embeddings
Paper: 2406.17711, 2303.15343
Experiment: jest_race, speed jest
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind
from minibatch_jax.geometry import product
from minibatch_jax.selection._chunked_draw import chunked_draw
from minibatch_jax.weights import weight_dtype


class PairEmbeddings(NamedTuple):
    """Embeddings of B pairs by one model; the logit of a pair is `scale * <first_i, second_j> + bias`.

    Attributes:
      first: `[B, D]`, floating point, such as image embeddings.
      second: `[B, D]`, floating point, such as text embeddings.
      scale: number or `[]`, the inverse temperature of this model.
      bias: number or `[]`, the bias of this model.
    """

    first: jax.Array
    second: jax.Array
    scale: float | jax.Array = 10.0
    bias: float | jax.Array = -10.0


def sigmoid_pair_losses(embeddings: PairEmbeddings) -> jax.Array:
    """Return the sigmoid contrastive loss of each pair: diagonal pairs are positives, all others negatives.

    The sum of a row is what an anchor loses by `mining.sigmoid_loss`, which `mining.blockwise_losses` computes forward
    and backward without a matrix `[B, B]`.

    Args:
      embeddings: embeddings of B pairs by one model, `[B, D]` each, floating point.

    Returns:
      `[B, B]`, `softplus(-y_ij * logit_ij)` with y = 1 on the diagonal and -1 off it; float32 (float64 if the
      embeddings are).

    Raises:
      TypeError: if the embeddings are not floating point.
      ValueError: if shapes do not match.

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
    """Draw k of B items jointly under the sigmoid loss, from embeddings instead of a `[B, B]` matrix of losses.

    The draw is that of `jest_indices` on the difference of the pair losses of both models. It holds
    `[k / num_chunks, B]` scores at a time.

    Args:
      key: typed PRNG key or int seed.
      learner: `[B, D]` embeddings of the current model. An item with a row that is not finite is never chosen.
      reference: `[B, E]` embeddings of the reference model, where E may differ from D. An item with a row that is not
        finite is never chosen.
      k: how many to draw, 1 <= k <= B, a multiple of `num_chunks`, static.
      num_chunks: number of draws in sequence, 1 for a draw without interaction, static.
      first_chunk: logits of the first chunk, "learnability" for the learnability of each item alone or "uniform" for
        zeros.
      temperature: divides the logits of the draw, positive.
      where: `[B]` bool, which items may be chosen; all by default.

    Returns:
      `[k]` int32, distinct, in order of the draws. If fewer than k items may be chosen, the other entries are B.

    Raises:
      TypeError: if embeddings are not floating point, a count is not a static int or the key is a raw array.
      ValueError: if shapes do not match, k is not in [1, B] or not a multiple of `num_chunks`, or an option is unknown.

    References:
      Evans et al., NeurIPS 2024 (arXiv 2406.17711).

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

    diagonal = diagonal_loss(models[0]) - diagonal_loss(models[1])
    return chunked_draw(
        key,
        allowed,
        jnp.zeros_like(diagonal),
        bind(jnp.add, diagonal),
        bind(_add_learnability, models),
        k=k,
        num_chunks=num_chunks,
        first_chunk=first_chunk,
        temperature=temperature,
    )


def _add_learnability(models, total, chosen, valid):
    """Add to each item what its pairs with the chosen items add to the loss, in the roles of negatives.

    A softplus is `max(x, 0) + log(1 + exp(-abs(x)))`. The four logarithms of a pair, in both roles for both models, are
    the logarithm of one ratio, which is between 1/4 and 4: one in place of four makes the draw a fifth faster.
    """

    def negatives(m):
        for chosen_side, other_side in ((m.first, m.second), (m.second, m.first)):
            yield (m.scale * chosen_side[chosen]) @ other_side.T + m.bias

    def parts(m):
        one, other = negatives(m)
        factors = [1 + jnp.exp(-jnp.abs(x)) for x in (one, other)]
        return jnp.maximum(one, 0) + jnp.maximum(other, 0), factors[0] * factors[1]

    (learner, learner_factor), (reference, reference_factor) = map(parts, models)
    added = (learner - reference) + jnp.log(learner_factor / reference_factor)
    return total + product(valid.astype(total.dtype), added)


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


def _softplus(x: jax.Array) -> jax.Array:
    """Return the softplus of x, by a short series where the exponential is small.

    In float32 `log(1 + exp(-17))` is 0, and `log1p` is slower than the series on a CPU; on a TPU both cost the same.
    """
    power = jnp.exp(-jnp.abs(x))
    series = power * (1 - power * (1 / 2 - power / 3))
    small = power < jnp.finfo(x.dtype).eps ** 0.25
    return jnp.maximum(x, 0) + jnp.where(small, series, jnp.log(1 + power))
