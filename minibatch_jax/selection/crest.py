"""CREST: a weighted coreset of each class of a batch, when to choose a new one, and which examples are learned.

References:
  Yang, Kang & Mirzasoleiman, Towards sustainable learning: coresets for data-efficient deep learning, ICML 2023
  (arXiv 2306.01244).
  Yao et al., AdaHessian, AAAI 2021 (arXiv 2006.00719), for the curvature.

Method: CREST
Paper: 2306.01244
Experiment: crest
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_integer, check_number, check_shape
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._similarities import METRICS, nearness_matrix, usable_features
from minibatch_jax.weights import weight_dtype, weight_transformation

DECAYS = (0.9, 0.999)
DAMPING = 1e-4


class QuadraticModel(NamedTuple):
    """Quadratic model of the loss around the parameters at which the coreset was chosen.

    Attributes:
      params: pytree of arrays, the parameters at which the coreset was chosen.
      loss: `[]`, the loss at `params`.
      gradient: pytree like the parameters, float32 at least, moving average of the gradients, started at 0.
      curvature: pytree like the gradient, moving average of the squared probes of the diagonal, started at 0.
      num_updates: `[]` int32, how many gradients and probes were averaged.
    """

    params: Any
    loss: jax.Array
    gradient: Any
    curvature: Any
    num_updates: jax.Array


class LearnedState(NamedTuple):
    """How long each example of the data set has had a low loss.

    Attributes:
      streaks: `[N]` int32, number of consecutive low losses of each example, up to its last visit.
    """

    streaks: jax.Array


def keep_class_medoids(k: int, num_classes: int, *, metric: str = "euclidean") -> optax.GradientTransformationExtraArgs:
    """Keep about k weighted medoids, equally many of each class (CREST). Signals: `features` [B, D], `labels` [B].

    Each medoid takes over the weights of the examples of its class that it represents, so the mass of every class is
    kept. Examples with a feature that is not finite, with a squared norm that overflows (except for "cosine") or with a
    label outside [0, num_classes) get weight 0. As features use the last-layer gradients
    `softmax(logits) - onehot(labels)` at the current parameters. The published setting keeps 128 of a random hundredth
    of the data.

    Args:
      k: how many to keep of all classes, static: `ceil(k / num_classes)` of each class, or all of a smaller class.
      num_classes: number of classes, static.
      metric: similarity of two examples, "sqeuclidean", "euclidean", "l1" or "cosine", defined by `similarity_matrix`.

    Returns:
      A transformation over `[B]` weights. O(k / num_classes * B^2) time and O(B^2) memory.

    Raises:
      TypeError: if a count is not a static int or, in `update`, the labels are not integer.
      ValueError: if a count is below 1, the metric is unknown or, in `update`, shapes do not match or
        `ceil(k / num_classes)` is more than B.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> tx = keep_class_medoids(k=2, num_classes=2)
      >>> features = jnp.array([[0.0], [0.2], [0.3], [0.0], [9.0], [8.9]])
      >>> labels = jnp.array([0, 0, 0, 1, 1, 1])
      >>> tx.update(jnp.ones(6), tx.init(jnp.ones(6)), features=features, labels=labels)[0].tolist()
      [0.0, 3.0, 0.0, 0.0, 0.0, 3.0]
    """
    check_count("k", k)
    check_count("num_classes", num_classes)
    check_choice("metric", metric, METRICS)
    each = -(-k // num_classes)

    def update(weights, state, params=None, *, features, labels, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        check_shape("labels", labels, weights.shape)
        check_integer("labels", labels)
        check_count("k", each, weights.shape[0], "the number of weights, for one class")
        labeled = (weights != 0) & (labels >= 0) & (labels < num_classes)
        features, exists = usable_features(features, labeled, metric=metric)
        classes = jnp.where(exists, labels, 0)
        nearness = nearness_matrix(features, exists, metric).astype(weights.dtype)
        represented = jnp.where(exists, weights, 0)
        owners = _greedy.of_each_group(nearness, represented, exists, classes, num_classes, each)
        return jnp.zeros_like(weights).at[owners].add(represented), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def keep_unlearned(
    num_examples: int, threshold: float | jax.Array = 0.1, patience: int | jax.Array = 5
) -> optax.GradientTransformationExtraArgs:
    """Drop examples whose last `patience` losses were all at most `threshold`. Signals: `losses`, `example_ids` [B].

    A dropped example returns as soon as it comes with a loss above the threshold. An example with a non-finite loss
    gets weight 0 and keeps its state.

    Args:
      num_examples: N, size of the data set, static; ids lie in [0, N).
      threshold: largest loss that counts as learned.
      patience: number of consecutive learned losses after which an example is dropped, at least 1.

    Returns:
      A transformation over `[B]` weights, with an `[N]` counter in its state.

    Raises:
      TypeError: if a count is not a static int, the threshold is not a number or, in `update`, the ids are not integer.
      ValueError: if a count is below 1, the threshold is NaN or, in `update`, shapes do not match.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> tx = keep_unlearned(num_examples=9, patience=1)
      >>> signals = dict(losses=jnp.array([0.01, 2.0]), example_ids=jnp.array([7, 3]))
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **signals)[0].tolist()
      [0.0, 1.0]
    """
    check_count("num_examples", num_examples)
    check_number("threshold", threshold)
    check_count("patience", patience, traced=True)

    def update(weights, state, params=None, *, losses, example_ids, **extra_args):
        check_shape("losses", losses, weights.shape)
        check_shape("example_ids", example_ids, weights.shape)
        check_integer("example_ids", example_ids)
        usable = (weights != 0) & jnp.isfinite(losses)
        streaks = jnp.where(losses <= threshold, state.streaks[example_ids] + 1, 0)
        ids = jnp.where(usable, example_ids, num_examples)
        kept = jnp.where(usable & (streaks < patience), weights, 0)
        return kept, LearnedState(state.streaks.at[ids].set(streaks, mode="drop"))

    return weight_transformation(lambda weights: LearnedState(jnp.zeros(num_examples, jnp.int32)), update)


def hutchinson_diagonal(
    key: jax.Array | int, loss_fn: Callable[[Any], jax.Array], params: Any
) -> tuple[jax.Array, Any, Any]:
    """Return loss, gradient and one unbiased probe of the Hessian's diagonal, `v * (H v)` with random signs v.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      loss_fn: `loss_fn(params) -> []`, twice differentiable.
      params: pytree of floating-point arrays.

    Returns:
      The loss `[]`, and the gradient and the probe as pytrees like the parameters.

    References:
      Yao et al., AdaHessian, AAAI 2021 (arXiv 2006.00719).

    Examples:
      >>> loss, gradient, diagonal = hutchinson_diagonal(jax.random.key(0), lambda x: jnp.sum(x**2), jnp.ones(2))
      >>> float(loss), gradient.tolist(), diagonal.tolist()
      (2.0, [2.0, 2.0], [2.0, 2.0])
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(as_key(key), len(leaves))
    signs = structure.unflatten(jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves))
    (loss, gradient), (_, product) = jax.jvp(jax.value_and_grad(loss_fn), (params,), (signs,))
    return loss, gradient, jax.tree.map(jnp.multiply, signs, product)


def quadratic_model(params: Any, loss: jax.Array) -> QuadraticModel:
    """Return a quadratic model of the loss around `params` that has not averaged any gradient yet.

    Args:
      params: pytree of floating-point arrays.
      loss: `[]`, floating point, the loss at `params`.

    Returns:
      A model with gradient and curvature 0.

    Examples:
      >>> model = quadratic_model(jnp.ones(2), jnp.array(3.0))
      >>> model.gradient.tolist(), int(model.num_updates)
      ([0.0, 0.0], 0)
    """
    loss = jnp.asarray(loss)
    gradient, curvature = (
        jax.tree.map(lambda x: jnp.zeros_like(x, dtype=weight_dtype(x.dtype)), params) for _ in range(2)
    )
    return QuadraticModel(params, loss.astype(weight_dtype(loss.dtype)), gradient, curvature, jnp.zeros((), jnp.int32))


def update_quadratic_model(model: QuadraticModel, gradient: Any, diagonal: Any) -> QuadraticModel:
    """Return the model with a gradient and a probe added to its moving averages, with decays 0.9 and 0.999.

    Args:
      model: the quadratic model to update.
      gradient: pytree like the parameters, gradient of the loss at the current parameters.
      diagonal: pytree like the parameters, probe of the Hessian's diagonal, such as `hutchinson_diagonal` returns.

    Returns:
      The updated model, around the same parameters.

    Examples:
      >>> model = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(3.0)), jnp.ones(1), jnp.ones(1))
      >>> round(float(model.gradient[0]), 3), int(model.num_updates)
      (0.1, 1)
    """
    b1, b2 = DECAYS
    return model._replace(
        gradient=jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g.astype(m.dtype), model.gradient, gradient),
        curvature=jax.tree.map(lambda v, h: b2 * v + (1 - b2) * h.astype(v.dtype) ** 2, model.curvature, diagonal),
        num_updates=model.num_updates + 1,
    )


def curvature_of(model: QuadraticModel) -> Any:
    """Return the bias-corrected root mean square of the probes, plus a damping of 1e-4.

    It is never negative: a direction of negative curvature counts as one of positive curvature.

    Args:
      model: quadratic model of the loss.

    Returns:
      A pytree like the parameters, each entry at least 1e-4.

    Examples:
      >>> model = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(3.0)), jnp.ones(1), jnp.array([-2.0]))
      >>> round(float(curvature_of(model)[0]), 3)
      2.0
    """
    correction = 1 - DECAYS[1] ** jnp.maximum(model.num_updates, 1).astype(jnp.float32)
    return jax.tree.map(lambda v: jnp.sqrt(v / correction.astype(v.dtype)) + DAMPING, model.curvature)


def predicted_loss(model: QuadraticModel, params: Any) -> jax.Array:
    """Return the loss that the model predicts at these parameters.

    It is `loss + <g, d> + <h d, d> / 2`, where g is the bias-corrected gradient, h the curvature and d the move from
    the parameters of the model.

    Args:
      model: quadratic model of the loss.
      params: pytree like `model.params`, the current parameters.

    Returns:
      `[]`, the predicted loss.

    Examples:
      >>> model = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(3.0)), jnp.ones(1), jnp.ones(1))
      >>> round(float(predicted_loss(model, jnp.ones(1))), 3)
      4.5
    """
    correction = 1 - DECAYS[0] ** jnp.maximum(model.num_updates, 1).astype(jnp.float32)
    moves = jax.tree.map(lambda g, x, y: x.astype(g.dtype) - y.astype(g.dtype), model.gradient, params, model.params)
    terms = jax.tree.map(
        lambda g, h, d: jnp.sum(g / correction.astype(g.dtype) * d + 0.5 * h * d**2),
        model.gradient,
        curvature_of(model),
        moves,
    )
    return model.loss + sum(jax.tree.leaves(terms))


def needs_reselection(
    model: QuadraticModel, params: Any, loss: jax.Array, threshold: float | jax.Array = 0.1
) -> jax.Array:
    """Return whether the model's prediction is off by more than `threshold * |loss|`: then choose a new coreset.

    Args:
      model: quadratic model of the loss.
      params: pytree like `model.params`, the current parameters.
      loss: `[]`, floating point, the measured loss at `params`.
      threshold: largest relative error for which the coreset is kept, at least 0.

    Returns:
      `[]` bool; False if the loss or the prediction is NaN.

    Raises:
      TypeError: if the threshold is not a number.
      ValueError: if the threshold is negative.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> model = quadratic_model(jnp.zeros(1), jnp.array(2.0))
      >>> [bool(needs_reselection(model, jnp.zeros(1), jnp.array(loss))) for loss in (1.9, 1.5)]
      [False, True]
    """
    check_number("threshold", threshold, 0)
    predicted = predicted_loss(model, params)
    loss = jnp.asarray(loss, predicted.dtype)
    return jnp.abs(loss - predicted) > threshold * jnp.abs(loss)


def reselection_interval(first: QuadraticModel, now: QuadraticModel, multiplier: float | jax.Array = 1.0) -> jax.Array:
    """Return the number of steps until the next check: more steps as the curvature falls below that of `first`.

    Args:
      first: quadratic model from the start of training.
      now: current quadratic model.
      multiplier: factor on the ratio of the norms of both curvatures, positive.

    Returns:
      `[]` int32, `max(1, ceil(multiplier * |curvature of first| / |curvature of now|))`.

    Raises:
      TypeError: if the multiplier is not a number.
      ValueError: if the multiplier is not positive.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> first = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(1.0)), jnp.ones(1), jnp.array([6.0]))
      >>> now = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(1.0)), jnp.ones(1), jnp.array([2.0]))
      >>> int(reselection_interval(first, now, multiplier=1.5))
      5
    """
    return interval_of(curvature_norm(first), curvature_norm(now), multiplier)


def curvature_norm(model: QuadraticModel) -> jax.Array:
    """Return the norm of the curvature over all parameters, above 0 because of the damping.

    Args:
      model: quadratic model of the loss.

    Returns:
      `[]` float32.

    Examples:
      >>> model = quadratic_model(jnp.zeros(2), jnp.array(1.0))
      >>> model = update_quadratic_model(model, jnp.ones(2), jnp.array([3.0, 4.0]))
      >>> round(float(curvature_norm(model)), 3)
      5.0
    """
    return optax.tree.norm(jax.tree.map(lambda h: h.astype(jnp.float32), curvature_of(model)))


def interval_of(first: jax.Array, now: jax.Array, multiplier: float | jax.Array = 1.0) -> jax.Array:
    """Return the number of steps until the next check, given the norms of two curvatures.

    Args:
      first: `[]`, norm of the curvature at the start of training.
      now: `[]`, norm of the curvature now.
      multiplier: factor on the ratio of the norms, positive.

    Returns:
      `[]` int32, `ceil(multiplier * first / now)` in [1, 2^30]; 1 if a norm is not finite.

    Raises:
      TypeError: if the multiplier is not a number.
      ValueError: if the multiplier is not positive.

    Examples:
      >>> int(interval_of(jnp.array(6.0), jnp.array(2.0), multiplier=1.5))
      5
    """
    check_number("multiplier", multiplier, 0, open_low=True)
    steps = jnp.ceil(multiplier * first / now)
    return jnp.where(jnp.isfinite(steps), jnp.clip(steps, 1, 2**30), 1).astype(jnp.int32)
