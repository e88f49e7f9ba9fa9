"""Contrastive losses of pairs: differentiable functions of similarities or distances `[A, M]` and two masks.

The derivative with respect to the similarities is the weight of each pair (general pair weighting), so
`jax.value_and_grad(loss)` gives the loss and these weights. Hyper-parameters are differentiable too.

Method: contrastive, InfoNCE, NT-Xent, SupCon, hard-negative and debiased contrastive
Paper: 2004.11362, 2010.04592
Experiment: zero_shot_retrieval
"""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax._loops import bind
from minibatch_jax.mining._pairs import check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining._row_losses import reduce_row_blocks
from minibatch_jax.mining.losses._exponentials import log1p_sum_exp, log_sum_exp, softplus_where
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def contrastive_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    positive_margin: float | jax.Array = 0.0,
    negative_margin: float | jax.Array = 1.0,
    reduction: str = "active_mean",
) -> jax.Array:
    """Return the contrastive loss: pull positives within one margin, push negatives beyond another.

    A positive loses [d - positive_margin]_+ and a negative [negative_margin - d]_+. The two kinds are reduced
    separately and added. Distances 1 - s of cosines s give the cosine form.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      positive_margin: distance up to which a positive loses nothing; differentiable.
      negative_margin: distance from which a negative loses nothing; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of pairs, defined at
        `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the distances.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Hadsell et al., Dimensionality reduction by learning an invariant mapping, CVPR 2006.

    Examples:
      >>> distances = jnp.array([[0.5, 0.75]])
      >>> positives = jnp.array([[True, False]])
      >>> float(contrastive_loss(distances, positives, ~positives))
      0.75
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    pull = jax.nn.relu(distances - positive_margin)
    push = jax.nn.relu(negative_margin - distances)
    return reduce_losses(pull, positives, reduction) + reduce_losses(push, negatives, reduction)


@keeps_dtype
def multi_similarity_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    alpha: float | jax.Array = 2.0,
    beta: float | jax.Array = 50.0,
    base: float | jax.Array = 0.5,
    reduction: str = "mean",
) -> jax.Array:
    """Return the multi-similarity loss: a soft maximum over the positives of an anchor plus one over its negatives.

    An anchor loses log(1 + sum_p exp(-alpha (s_p - base))) / alpha + log(1 + sum_n exp(beta (s_n - base))) / beta.

    Args:
      similarities: `[A, M]`, floating point, usually cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together, usually those that `multi_similarity_pair_masks` keeps.
      negatives: `[A, M]` bool, the pairs to push apart.
      alpha: > 0, sharpness of the soft maximum over positives; differentiable.
      beta: > 0, sharpness of the soft maximum over negatives; differentiable.
      base: similarity that separates positives from negatives; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        pair, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a sharpness is not positive, or the reduction is unknown.

    References:
      Wang et al., Multi-similarity loss with general pair weighting for deep metric learning, 2019 (arXiv 1904.06627).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> loss = multi_similarity_loss(jnp.array([[0.5, 0.5]]), positives, ~positives)
      >>> round(float(loss), 4)  # log(2) / 2 + log(2) / 50
      0.3604
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(alpha=alpha, beta=beta)
    shifted = similarities - base
    pull = log1p_sum_exp(-alpha * shifted, positives) / alpha
    push = log1p_sum_exp(beta * shifted, negatives) / beta
    return reduce_losses(pull + push, jnp.any(positives | negatives, axis=1), reduction)


@keeps_dtype
def info_nce_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    targets: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Return InfoNCE: minus the log of the softmax mass that an anchor gives to its positives.

    An anchor loses -log(sum_p exp(s_p / t) / (sum_p exp(s_p / t) + sum_n exp(s_n / t))), t the temperature. With
    several positives this is MIL-NCE; with minus squared distances and temperature 1 it is neighborhood component
    analysis. With `targets` q, an anchor loses the cross-entropy -sum_j q_j log softmax_j(s / t) over the pairs of
    either mask: for graded labels, mixed examples, or the similarities of a teacher.

    Args:
      similarities: `[A, M]`, floating point; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      temperature: > 0; differentiable.
      targets: `[A, M]`, floating point, at least 0: what each pair of an anchor should get of the softmax. Rows sum to
        1, or to 0 for an anchor that is left out; what lies on a pair in neither mask is ignored. Gradients stop here.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        positive (with a target, where they are given), defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the temperature is not positive, the reduction is unknown, or a row of
        concrete targets sums neither to 1 nor to 0.

    References:
      van den Oord et al., Representation learning with contrastive predictive coding, 2018 (arXiv 1807.03748).
      Miech et al., End-to-end learning of visual representations from uncurated instructional videos, 2020 (arXiv
        1912.06430).

    Examples:
      >>> positives = jnp.array([[True, False, False]])
      >>> round(float(info_nce_loss(jnp.zeros((1, 3)), positives, ~positives)), 4)  # log(3)
      1.0986
      >>> graded = jnp.array([[0.75, 0.25, 0.0]])
      >>> round(float(info_nce_loss(jnp.zeros((1, 3)), positives, ~positives, targets=graded)), 4)
      1.0986
    """
    logits, positives, negatives = _logits(similarities, positives, negatives, temperature)
    if targets is not None:
        targets = jnp.where(positives | negatives, _checked_targets(targets, logits), 0)
        losses = jnp.sum(targets * (log_sum_exp(logits, positives | negatives)[:, None] - logits), axis=1)
        return reduce_losses(losses, jnp.any(targets > 0, axis=1), reduction)
    others = negatives & ~positives
    contested = jnp.any(positives, axis=1) & jnp.any(others, axis=1)
    losses = softplus_where(contested, log_sum_exp(logits, others) - log_sum_exp(logits, positives))
    return reduce_losses(losses, jnp.any(positives, axis=1), reduction)


@keeps_dtype
def ntxent_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    reduction: str = "mean",
) -> jax.Array:
    """Return NT-Xent: InfoNCE of each positive pair on its own.

    A positive pair loses -log(exp(s_p / t) / (exp(s_p / t) + sum_n exp(s_n / t))), t the temperature: the other
    positives of the anchor are not in the denominator. Without a negative the loss is 0.

    Args:
      similarities: `[A, M]`, floating point; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      temperature: > 0; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of positive pairs,
        defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the temperature is not positive, or the reduction is unknown.

    References:
      Chen et al., A simple framework for contrastive learning of visual representations, 2020 (arXiv 2002.05709).

    Examples:
      >>> positives = jnp.array([[True, True, False]])
      >>> round(float(ntxent_loss(jnp.zeros((1, 3)), positives, ~positives)), 4)  # log(2)
      0.6931
    """
    logits, positives, negatives = _logits(similarities, positives, negatives, temperature)
    contested = positives & jnp.any(negatives, axis=1, keepdims=True)
    excess = log_sum_exp(logits, negatives)[:, None] - logits
    return reduce_losses(softplus_where(contested, excess), positives, reduction)


@keeps_dtype
def supcon_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    reduction: str = "mean",
) -> jax.Array:
    """Return the supervised contrastive loss: the mean over the positives of an anchor of -log softmax.

    The softmax of the similarities over the temperature runs over all pairs of the anchor, positives and negatives.

    Args:
      similarities: `[A, M]`, floating point; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      temperature: > 0; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        positive, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the temperature is not positive, or the reduction is unknown.

    References:
      Khosla et al., Supervised contrastive learning, 2020 (arXiv 2004.11362).

    Examples:
      >>> positives = jnp.array([[True, True, False]])
      >>> round(float(supcon_loss(jnp.zeros((1, 3)), positives, ~positives)), 4)  # log(3)
      1.0986
    """
    logits, positives, negatives = _logits(similarities, positives, negatives, temperature)
    losses = log_sum_exp(logits, positives | negatives) - reduce_losses(logits, positives, "anchors")
    return reduce_losses(losses, jnp.any(positives, axis=1), reduction)


@keeps_dtype
def hard_negative_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    concentration: float | jax.Array = 1.0,
    prior: float | jax.Array = 0.1,
    constant_importance: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """Return NT-Xent with negatives that are weighed by hardness and cleared of false negatives.

    It is `ntxent_loss` with another sum over the N negatives of the anchor. Let m be the mean of exp(s_n / t), weighed
    by exp(concentration * s_n / t), t the temperature. The sum becomes N (m - prior * exp(s_p / t)) / (1 - prior), but
    at least N exp(-1 / t). Concentration 0 gives the debiased contrastive loss; prior 0 as well gives `ntxent_loss`.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      temperature: > 0; differentiable.
      concentration: >= 0; the larger, the more the hardest negatives count.
      prior: in [0, 0.999], the fraction of the negatives that are positives in truth.
      constant_importance: static bool, whether to stop the gradient through the weights of the negatives; the paper's
        code does not.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of positive pairs,
        defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a number is out of range, or the reduction is unknown.

    References:
      Chuang et al., Debiased contrastive learning, 2020 (arXiv 2007.00224).
      Robinson et al., Contrastive learning with hard negative samples, 2021 (arXiv 2010.04592).

    Examples:
      >>> positives = jnp.array([[True, False, False]])
      >>> round(float(hard_negative_loss(jnp.zeros((1, 3)), positives, ~positives)), 4)  # log(3)
      1.0986
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(temperature=temperature)
    check_number("concentration", concentration, 0)
    check_number("prior", prior, 0, 0.999)
    of_rows = bind(_hard_negative, temperature, concentration, prior, constant_importance=constant_importance)
    return reduce_row_blocks(of_rows, (similarities, positives, negatives), reduction)


def _hard_negative(temperature, concentration, prior, similarities, positives, negatives, *, constant_importance):
    logits = similarities / temperature
    importance = concentration * (jax.lax.stop_gradient(logits) if constant_importance else logits)
    count = jnp.sum(negatives.astype(logits.dtype), axis=1)
    log_mean = log_sum_exp(logits + importance, negatives) - log_sum_exp(importance, negatives)
    contested = positives & (count > 0)[:, None]
    log_positive = jnp.where(contested, logits, 0)
    log_rest = _log_cleared(log_mean[:, None], log_positive, prior, -1 / temperature)
    log_rest += jnp.log(jnp.maximum(count, 1))[:, None]
    return [(softplus_where(contested, log_rest - log_positive), positives)]


def _log_cleared(log_mean, log_positive, prior, lowest):
    """Return log((exp(log_mean) - prior * exp(log_positive)) / (1 - prior)), but at least `lowest`."""
    gap = jnp.minimum(log_positive - log_mean, 80)  # exp stays finite, and prior * exp(80) is above 1 or prior is 0
    taken = prior * jnp.exp(gap)
    cleared = log_mean + jnp.log1p(-jnp.where(taken < 1, taken, 0)) - jnp.log1p(-prior)
    return jnp.where((taken < 1) & (cleared > lowest), cleared, lowest)


def _logits(similarities, positives, negatives, temperature):
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(temperature=temperature)
    return similarities / temperature, positives, negatives


def _checked_targets(targets, logits):
    """Return the targets in the dtype of the logits; raises where rows of concrete ones do not sum to 1 or 0."""
    check_shape("targets", targets, logits.shape)
    check_floating("targets", targets)
    targets = jax.lax.stop_gradient(jnp.asarray(targets)).astype(logits.dtype)
    if not isinstance(targets, jax.core.Tracer):
        sums = np.sum(np.asarray(targets, np.float64), axis=1)
        wrong = np.flatnonzero(~(np.isclose(sums, 1, atol=1e-2) | (sums == 0)))
        if len(wrong):
            raise ValueError(
                f"targets has the sum {sums[wrong[0]]:.4g} in row {wrong[0]}, wanted 1, or 0 to leave it out."
            )
    return targets
