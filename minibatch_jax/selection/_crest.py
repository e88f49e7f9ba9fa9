"""CREST: a weighted coreset of each batch per class, when to choose anew, and which examples are learned.

References:
  Yang, Kang & Mirzasoleiman, Towards sustainable learning: coresets for data-efficient deep learning, ICML 2023
  (arXiv 2306.01244).
  Yao et al., AdaHessian, AAAI 2021 (arXiv 2006.00719), for the curvature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_integer, check_number, check_shape
from minibatch_jax.base import weight_transformation
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._similarity import METRICS, similarity_matrix

DECAYS = (0.9, 0.999)
DAMPING = 1e-4


class QuadraticModel(NamedTuple):
    """Loss around the parameters where the coreset was chosen.

    Attributes:
      params: the parameters then.
      loss: `[]`, the loss there.
      gradient: moving average of gradients, like the parameters, started at 0.
      curvature: moving average of squared diagonal curvatures, started at 0.
      num_updates: `[]` int32, how many were averaged.
    """

    params: Any
    loss: jax.Array
    gradient: Any
    curvature: Any
    num_updates: jax.Array


class LearnedState(NamedTuple):
    """Low losses in a row of each example of the data set, `[N]` int32."""

    streaks: jax.Array


def select_class_medoids(
    k: int, num_classes: int, *, metric: str = "euclidean"
) -> optax.GradientTransformationExtraArgs:
    """Keep about k weighted medoids, equally many of each class (CREST). Signals: `features` [B, D], `labels` [B].

    Within each class the medoids take over the weights of the examples they represent, so the mass is kept. As features
    take the last-layer gradients `softmax(logits) - onehot(labels)` at the same parameters. The published setting keeps
    128 of a random hundredth of the data.

    Args:
      k: `ceil(k / num_classes)` are kept of each class, or all if it has fewer; static.
      num_classes: labels lie in [0, num_classes), static; others get weight 0.
      metric: "sqeuclidean", "euclidean", "l1" or "cosine", as `similarity_matrix` has them.

    Returns:
      A transformation over `[B]` weights. O(k / num_classes B^2) time and O(B^2) memory.

    Raises:
      TypeError: if a count is not a static int or the labels are not integer.
      ValueError: if a count is below 1, the metric is unknown or, in `update`, a class needs more than B.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> tx = select_class_medoids(k=2, num_classes=2)
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
        exists = (weights != 0) & jnp.isfinite(features).all(1) & (labels >= 0) & (labels < num_classes)
        classes = jnp.where(exists, labels, 0)
        similarities = similarity_matrix(features, metric, where=exists).astype(weights.dtype)
        similarities = jnp.where(classes[:, None] == classes[None], similarities, 0)
        represented = jnp.where(exists, weights, 0)
        owners = _greedy.of_each_group(similarities, represented, exists, classes, num_classes, each)
        return jnp.zeros_like(weights).at[owners].add(represented), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def drop_learned(num_examples: int, threshold: float = 0.1, patience: int = 5) -> optax.GradientTransformationExtraArgs:
    """Drop examples whose last `patience` losses were all at most `threshold`. Signals: `losses`, `example_ids` [B].

    A dropped example that comes with a higher loss is back at once. The state is `[N]`, by example id.

    Args:
      num_examples: N, size of the data set, static.
      threshold: a loss of at most this counts as learned.
      patience: so many in a row, static.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if a count is not a static int or the ids are not integer.
      ValueError: if a count is below 1.

    References:
      Yang, Kang & Mirzasoleiman, ICML 2023 (arXiv 2306.01244).

    Examples:
      >>> tx = drop_learned(num_examples=9, patience=1)
      >>> signals = dict(losses=jnp.array([0.01, 2.0]), example_ids=jnp.array([7, 3]))
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **signals)[0].tolist()
      [0.0, 1.0]
    """
    check_count("num_examples", num_examples)
    check_number("threshold", threshold)
    check_count("patience", patience)

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


def hutchinson_diagonal(key: jax.Array, loss_fn: Callable[[Any], jax.Array], params: Any) -> tuple[jax.Array, Any, Any]:
    """Loss, gradient and one unbiased probe of the Hessian's diagonal, `v * (H v)` with random signs v.

    Args:
      key: PRNG key.
      loss_fn: `loss_fn(params) -> []`.
      params: pytree of arrays.

    Returns:
      The loss `[]`, and gradient and probe like the parameters.

    Examples:
      >>> loss, gradient, diagonal = hutchinson_diagonal(jax.random.key(0), lambda x: jnp.sum(x**2), jnp.ones(2))
      >>> float(loss), gradient.tolist(), diagonal.tolist()
      (2.0, [2.0, 2.0], [2.0, 2.0])
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    signs = structure.unflatten(jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves))
    (loss, gradient), (_, product) = jax.jvp(jax.value_and_grad(loss_fn), (params,), (signs,))
    return loss, gradient, jax.tree.map(jnp.multiply, signs, product)


def quadratic_model(params: Any, loss: jax.Array) -> QuadraticModel:
    """A model around these parameters that has seen no gradient yet."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return QuadraticModel(params, loss, zeros, zeros, jnp.zeros((), jnp.int32))


def update_quadratic_model(model: QuadraticModel, gradient: Any, diagonal: Any) -> QuadraticModel:
    """Average in a gradient and a probe of the diagonal, with decays 0.9 and 0.999."""
    b1, b2 = DECAYS
    return model._replace(
        gradient=jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, model.gradient, gradient),
        curvature=jax.tree.map(lambda v, h: b2 * v + (1 - b2) * h**2, model.curvature, diagonal),
        num_updates=model.num_updates + 1,
    )


def curvature_of(model: QuadraticModel) -> Any:
    """Root mean square of the probes, bias-corrected: never negative, so hills look like valleys."""
    correction = 1 - DECAYS[1] ** jnp.maximum(model.num_updates, 1).astype(jnp.float32)
    return jax.tree.map(lambda v: jnp.sqrt(v / correction.astype(v.dtype)) + DAMPING, model.curvature)


def predicted_loss(model: QuadraticModel, params: Any) -> jax.Array:
    """Loss the model expects at these parameters: `loss + <g, d> + <h d, d> / 2` with d the way since its own.

    Examples:
      >>> model = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(3.0)), jnp.ones(1), jnp.ones(1))
      >>> round(float(predicted_loss(model, jnp.ones(1))), 3)
      4.5
    """
    correction = 1 - DECAYS[0] ** jnp.maximum(model.num_updates, 1).astype(jnp.float32)
    moves = jax.tree.map(jnp.subtract, params, model.params)
    terms = jax.tree.map(
        lambda g, h, d: jnp.sum(g / correction.astype(g.dtype) * d + 0.5 * h * d**2),
        model.gradient,
        curvature_of(model),
        moves,
    )
    return model.loss + sum(jax.tree.leaves(terms))


def needs_reselection(model: QuadraticModel, params: Any, loss: jax.Array, threshold: float = 0.1) -> jax.Array:
    """Whether the loss is off the model's by more than this share of it, `[]` bool: then choose a new coreset.

    Examples:
      >>> model = quadratic_model(jnp.zeros(1), jnp.array(2.0))
      >>> [bool(needs_reselection(model, jnp.zeros(1), jnp.array(loss))) for loss in (1.9, 1.5)]
      [False, True]
    """
    check_number("threshold", threshold, 0)
    return jnp.abs(loss - predicted_loss(model, params)) > threshold * jnp.abs(loss)


def reselection_interval(first: QuadraticModel, now: QuadraticModel, multiplier: float = 1.0) -> jax.Array:
    """Steps until the next check, `[]` int32: longer as the curvature falls below that of the first model.

    Examples:
      >>> first = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(1.0)), jnp.ones(1), jnp.array([6.0]))
      >>> now = update_quadratic_model(quadratic_model(jnp.zeros(1), jnp.array(1.0)), jnp.ones(1), jnp.array([2.0]))
      >>> int(reselection_interval(first, now, multiplier=1.5))
      5
    """
    check_number("multiplier", multiplier, 0, open_low=True)
    ratio = optax.tree.norm(curvature_of(first)) / optax.tree.norm(curvature_of(now))
    return jnp.maximum(jnp.ceil(multiplier * ratio), 1).astype(jnp.int32)
