"""Which of R recipes of data is better at a large scale, decided by small runs, and how often that is right.

A recipe is a mixture or a data set. For each pair of recipes, the prediction says which one is better, and so does the
target, the result of large runs. The decision accuracy is the fraction of pairs where both say the same; a prediction
that knows nothing has 0.5. Small runs of a single scale are the baseline that extrapolations have to beat, such as
those of `minibatch_jax.mixing.loss_laws`, at the same compute. Small runs must not share seeds with the target.

The accuracy of a small model on a task with few choices is close to chance and says little; the probability of the
right answer, which it is made of, orders recipes earlier: `choice_scores`.

References:
  Magnusson et al., DataDecide: how to predict best pretraining data with small experiments, ICML 2025
  (arXiv 2504.11393).

Method: Decisions from small runs (DataDecide)
Paper: 2504.11393
Experiment: small_run_decisions
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.weights import weight_dtype

VOTES = ("majority", "unanimous")


class ChoiceScores(NamedTuple):
    """Scores of items with several choices, higher is better; NaN for an item whose answer is not among its choices.

    Attributes:
      accuracy: `[N]`, 1 if the answer is the most probable choice and no other choice ties with it, else 0.
      correct_prob: `[N]`, probability of the answer.
      norm_correct_prob: `[N]`, probability of the answer, divided by that of all choices.
      margin: `[N]`, probability of the answer less that of the most probable wrong choice; 0 without a wrong choice.
      total_prob: `[N]`, probability of all choices together.
    """

    accuracy: jax.Array
    correct_prob: jax.Array
    norm_correct_prob: jax.Array
    margin: jax.Array
    total_prob: jax.Array


def pair_decisions(predictions: jax.Array, *, vote: str = "majority") -> jax.Array:
    """Return for each pair of recipes which one the predictions place higher.

    With several seeds, each seed votes on each pair. A seed that ties, or has a prediction that is not finite, abstains
    on the pair.

    Args:
      predictions: `[R]` or `[R, seeds]`, floating point, R > 1.
      vote: "majority" of the votes, or "unanimous": no decision unless every seed that voted says the same.

    Returns:
      `[R, R]` int32, antisymmetric: 1 where the first recipe is higher, -1 where it is lower, 0 without a decision.

    Raises:
      TypeError: if the predictions are not floating point.
      ValueError: if they are neither `[R]` nor `[R, seeds]` with R > 1, or the vote is another.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> pair_decisions(jnp.array([0.1, 0.3, 0.3])).tolist()
      [[0, -1, -1], [1, 0, 0], [1, 0, 0]]
    """
    check_choice("vote", vote, VOTES)
    predictions = _runs("predictions", predictions)
    signs = _signs(predictions[:, None], predictions[None])
    if vote == "majority":
        return jnp.sign(jnp.sum(signs, axis=-1))
    return jnp.sign(jnp.min(signs, axis=-1) + jnp.max(signs, axis=-1))


def decision_accuracy(
    predictions: jax.Array, target: jax.Array, *, opposite: bool = False, vote: str = "majority"
) -> jax.Array:
    """Return the fraction of pairs of recipes that predictions order as the target does.

    A pair without a decision, such as a tie of the predictions, counts as wrong. Pairs that tie in the target, or have
    a target that is not finite, are left out: there is nothing to decide. Without ties it is (tau + 1) / 2 for
    Kendall's tau. For a bound on its error draw recipes, not pairs, which depend on each other:
    `decision_accuracy_draws`.

    Args:
      predictions: `[R]` or `[R, seeds]`, floating point, R > 1, from small runs.
      target: `[R]` or `[R, seeds]`, floating point, whose mean over finite seeds counts, from large runs.
      opposite: True if a low prediction means a high target, such as a loss that predicts an accuracy.
      vote: of the seeds of the predictions, "majority" or "unanimous", as in `pair_decisions`.

    Returns:
      `[]`, in [0, 1], float32 (float64 if the target is); NaN if the target orders no pair.

    Raises:
      TypeError: if predictions or target are not floating point.
      ValueError: if shapes do not match, R < 2 or the vote is another.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> target = jnp.array([1.0, 2.0, 3.0])
      >>> round(float(decision_accuracy(jnp.array([0.1, 0.3, 0.3]), target)), 3)
      0.667
      >>> float(decision_accuracy(jnp.array([3.0, 2.0, 1.0]), target, opposite=True))
      1.0
    """
    right, decided = _right_pairs(predictions, target, opposite, vote)
    return jnp.sum(right) / jnp.sum(decided)


def decision_accuracy_draws(
    key: jax.Array | int,
    predictions: jax.Array,
    target: jax.Array,
    num_draws: int = 1000,
    *,
    opposite: bool = False,
    vote: str = "majority",
) -> jax.Array:
    """Return the decision accuracy of recipes drawn with replacement: the bootstrap over recipes.

    Copies of one recipe are no pair. The standard deviation of the draws estimates the standard error of
    `decision_accuracy` over the choice of recipes.

    Args:
      key: typed or legacy PRNG key, or int seed.
      predictions: `[R]` or `[R, seeds]`, floating point, R > 1.
      target: `[R]` or `[R, seeds]`, floating point.
      num_draws: how many times to draw R recipes, static.
      opposite: True if a low prediction means a high target.
      vote: of the seeds of the predictions, "majority" or "unanimous".

    Returns:
      `[num_draws]`, float32 (float64 if the target is); NaN for a draw whose target orders no pair.

    Raises:
      TypeError: if predictions or target are not floating point or `num_draws` is not a static int.
      ValueError: if shapes do not match, R < 2, `num_draws` < 1 or the vote is another.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> draws = decision_accuracy_draws(0, jnp.array([1.0, 2.0, 4.0, 3.0]), jnp.arange(4.0), 500)
      >>> bool(0.7 < jnp.nanmean(draws) < 0.95)
      True
    """
    check_count("num_draws", num_draws)
    right, decided = _right_pairs(predictions, target, opposite, vote)
    size = right.shape[0]
    drawn = jax.random.randint(as_key(key), (num_draws, size), 0, size)
    copies = jax.vmap(lambda rows: jnp.bincount(rows, length=size))(drawn).astype(right.dtype)
    return jnp.sum((copies @ right) * copies, axis=1) / jnp.sum((copies @ decided) * copies, axis=1)


def compute_fraction(
    parameters: jax.Array | float,
    tokens: jax.Array | float,
    target_parameters: jax.Array | float,
    target_tokens: jax.Array | float,
) -> jax.Array:
    """Return the compute of a run as a fraction of that of the target: parameters times tokens, both without factors.

    The usual estimate of the operations of a run, 6 for each parameter and token, has the same ratio.

    Args:
      parameters: of the small model.
      tokens: that it is trained on.
      target_parameters: of the large model, positive.
      target_tokens: that it is trained on, positive.

    Returns:
      The fraction, of the shape of the arguments, float32 (float64 if JAX runs with x64).

    Raises:
      ValueError: if a number that is known is negative, or 0 for the target.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> round(float(compute_fraction(150e6, 15e9, 1e9, 100e9)), 4)
      0.0225
    """
    check_number("parameters", parameters, 0)
    check_number("tokens", tokens, 0)
    check_number("target_parameters", target_parameters, 0, open_low=True)
    check_number("target_tokens", target_tokens, 0, open_low=True)
    sizes, targets = (parameters, tokens), (target_parameters, target_tokens)
    small, large = (tuple(jnp.asarray(x, jnp.result_type(float)) for x in pair) for pair in (sizes, targets))
    return (small[0] / large[0]) * (small[1] / large[1])  # products of the sizes may leave the range of float32


def choice_scores(
    log_probs: jax.Array, answers: jax.Array, *, lengths: jax.Array | None = None, where: jax.Array | None = None
) -> ChoiceScores:
    """Return the accuracy of items with several choices, and the probabilities that predict it at small scale.

    Args:
      log_probs: `[N, A]`, floating point, logarithm of the probability of each choice.
      answers: `[N]` int, the right choice.
      lengths: `[N, A]`, floating point, positive, by which to divide `log_probs`: tokens or characters of each choice;
        the probabilities are then those of a mean token or character. By default they are not divided.
      where: `[N, A]` bool, which choices there are; all by default. A choice whose number is NaN is none.

    Returns:
      The scores of each item, `[N]`, float32 (float64 if `log_probs` are); take their means.

    Raises:
      TypeError: if `log_probs` or `lengths` are not floating point, or answers not integers.
      ValueError: if shapes do not match.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> scores = choice_scores(jnp.log(jnp.array([[0.2, 0.1, 0.1], [0.3, 0.1, 0.4]])), jnp.array([0, 0]))
      >>> scores.accuracy.tolist(), [round(p, 3) for p in scores.norm_correct_prob.tolist()]
      ([1.0, 0.0], [0.5, 0.375])
    """
    check_shape("log_probs", log_probs, (None, None))
    check_floating("log_probs", log_probs)
    check_shape("answers", answers, log_probs.shape[:1])
    check_integer("answers", answers)
    there = mask_or_all("where", where, log_probs.shape)
    logs = log_probs.astype(weight_dtype(log_probs.dtype))
    if lengths is not None:
        check_shape("lengths", lengths, log_probs.shape)
        check_floating("lengths", lengths)
        there &= lengths > 0
        logs = logs / jnp.where(lengths > 0, lengths, 1).astype(logs.dtype)
    logs = jnp.where(there & ~jnp.isnan(logs), logs, -jnp.inf)
    choices = logs.shape[1]
    is_answer = jnp.arange(choices, dtype=jnp.int32)[None] == class_numbers(jnp.asarray(answers), choices)[:, None]
    known = jnp.any(is_answer & there & ~jnp.isnan(log_probs), axis=1)
    answer = jnp.max(logs, axis=1, where=is_answer, initial=-jnp.inf)
    wrong = jnp.max(logs, axis=1, where=~is_answer, initial=-jnp.inf)
    has_wrong = jnp.any(~is_answer & there, axis=1)
    total = jax.nn.logsumexp(logs, axis=1)
    normed = jnp.where(total > -jnp.inf, jnp.exp(answer - jnp.where(total > -jnp.inf, total, 0)), 0)
    scores = ChoiceScores(
        (answer > wrong).astype(logs.dtype),
        jnp.exp(answer),
        normed,
        jnp.where(has_wrong, jnp.exp(answer) - jnp.exp(wrong), 0),
        jnp.exp(total),
    )
    return jax.tree.map(lambda score: jnp.where(known, score, jnp.nan), scores)


def _runs(name: str, values: jax.Array) -> jax.Array:
    """Return `[R, seeds]` in the dtype to compute in."""
    check_shape(name, values, (None, None) if jnp.ndim(values) == 2 else (None,))
    check_floating(name, values)
    if values.shape[0] < 2:
        raise ValueError(f"{name} has 1 recipe, wanted at least 2: there is nothing to decide.")
    return values.reshape(values.shape[0], -1).astype(weight_dtype(values.dtype))


def _signs(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return int32 signs of the differences, 0 where a value is not finite."""
    finite = jnp.isfinite(first) & jnp.isfinite(second)
    return jnp.where(finite, (first > second).astype(jnp.int32) - (first < second).astype(jnp.int32), 0)


def _right_pairs(predictions, target, opposite, vote):
    """Return masks `[R, R]` of the pairs with a right decision and of those that the target orders, as floats."""
    decisions = pair_decisions(predictions, vote=vote)
    target = _runs("target", target)
    if target.shape[0] != decisions.shape[0]:
        raise ValueError(f"target has {target.shape[0]} recipes, wanted {decisions.shape[0]}, as the predictions.")
    finite = jnp.isfinite(target)
    known = jnp.sum(finite, axis=1).astype(target.dtype)
    means = jnp.where(known > 0, jnp.sum(jnp.where(finite, target, 0), axis=1) / nonzero(known), jnp.nan)
    truth = _signs(means[:, None], means[None])
    right = (decisions == (-truth if opposite else truth)) & (truth != 0)
    return right.astype(target.dtype), (truth != 0).astype(target.dtype)
