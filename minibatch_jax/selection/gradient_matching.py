"""Few examples with weights whose gradients add up to that of the whole batch: GradMatch.

The choice is orthogonal matching pursuit with weights that are not negative: take the example whose gradient points
most along what is still missing, then fit the weights of all that are taken anew.

References:
  Killamsetty et al., GRAD-MATCH: gradient matching based data subset selection for efficient deep model training, ICML
  2021 (arXiv 2103.00123).
  Lawson & Hanson, Solving least squares problems, 1974, for the weights.

Method: GradMatch
Paper: 2103.00123
Experiment: quarter_of_a_batch
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, while_loop
from minibatch_jax._vector import first_max
from minibatch_jax.geometry import product
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.weights import weight_transformation

TOLERANCE = 1e-5
"""What a gradient must have in common with what is missing, as a fraction of both lengths, to be taken."""


class GradientMatch(NamedTuple):
    """Examples whose weighted gradients approach a target.

    Attributes:
      indices: `[k]` int32, distinct, in order of choice; N, one past the end, where no example would help.
      weights: `[k]`, at least 0; some may be 0, of examples that others made superfluous.
      residual: `[]`, length of what is still missing, as a fraction of the length of the target.
    """

    indices: jax.Array
    weights: jax.Array
    residual: jax.Array


def gradient_match(
    features: jax.Array,
    k: int,
    *,
    regularization: float | jax.Array = 0.0,
    target: jax.Array | None = None,
    where: jax.Array | None = None,
) -> GradientMatch:
    """Choose k gradients and weights for them, at least 0, whose sum is near the target.

    Each step takes the gradient with the largest inner product with the residual, ties by the lowest index, and then
    finds the weights that minimize `|sum of weight x gradient - target|^2 + regularization x |weights|^2` over all that
    are taken. Steps end early when no gradient has a positive product with the residual: so with gradients of rank r at
    most r are taken without regularization, as a target of all gradients is met exactly then. The regularization
    spreads the weights over more examples; it counts in squared units of the gradients.

    Args:
      features: `[N, D]`, floating point, gradient of each example, such as the last-layer gradients `softmax(logits) -
        onehot(labels)`. A row that is not finite, or whose squared length overflows, is never chosen.
      k: how many to choose, 1 <= k <= N, static.
      regularization: at least 0, may be traced.
      target: `[D]`, floating point; the sum of all gradients by default.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `GradientMatch(indices, weights, residual)`. O(k N D + k^4) time.

    Raises:
      TypeError: if the features are not floating point or k is not a static int.
      ValueError: if shapes do not match, k is not in [1, N] or the regularization is negative.

    References:
      Killamsetty et al., ICML 2021 (arXiv 2103.00123).

    Examples:
      >>> match = gradient_match(jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), 1)
      >>> match.indices.tolist(), match.weights.tolist(), round(float(match.residual), 5)
      ([2], [1.5], 0.0)
    """
    features, exists = usable_features(features, where)
    size, width = features.shape
    check_count("k", k, size, "the number of rows")
    check_number("regularization", regularization, 0)
    if target is None:
        target = jnp.sum(features, axis=0)
    check_shape("target", target, (width,))
    check_floating("target", target)
    lengths = jnp.sqrt(jnp.sum(features * features, axis=1))
    longest = jnp.max(lengths)
    unit = jnp.where(longest > 0, longest, 1)
    problem = _Problem(features / unit, lengths / unit, target.astype(features.dtype) / unit, exists)
    return _match(problem, k, jnp.asarray(regularization, features.dtype) / unit**2)


def keep_by_gradient_match(k: int, *, regularization: float | jax.Array = 0.0) -> optax.GradientTransformationExtraArgs:
    """Keep k examples, with the weights that make their gradients the batch's (GradMatch). Signal: `features` [B, D].

    The target is the sum of the gradients, each times its incoming weight, so the new weights replace the old ones; the
    sum of the weights may change. Examples with a feature that is not finite get weight 0. As features use the
    last-layer gradients `softmax(logits) - onehot(labels)`.

    Args:
      k: how many to keep, 1 <= k <= B, static; fewer are kept if fewer do.
      regularization: at least 0, in squared units of the gradients, may be traced.

    Returns:
      A transformation over `[B]` weights. If no gradient is of use, all being 0, the weights stay as they are.

    Raises:
      TypeError: if k is not a static int or, in `update`, the features are not floating point.
      ValueError: if k is below 1, the regularization is negative or, in `update`, k > B or the features are not
        `[B, D]`.

    References:
      Killamsetty et al., ICML 2021 (arXiv 2103.00123).

    Examples:
      >>> tx = keep_by_gradient_match(1)
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), features=features)[0].tolist()
      [0.0, 0.0, 1.5]
    """
    check_count("k", k)
    check_number("regularization", regularization, 0)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        rows, exists = usable_features(features, weights != 0)
        target = product(weights.astype(rows.dtype), rows)
        match = gradient_match(rows, k, regularization=regularization, target=target, where=exists)
        kept = jnp.zeros_like(weights).at[match.indices].set(match.weights.astype(weights.dtype), mode="drop")
        return jnp.where(jnp.any(kept > 0), kept, jnp.where(exists, weights, 0)), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


class _Problem(NamedTuple):
    """Gradients `[N, D]` of length at most 1, their lengths, the target in their unit, and which rows exist."""

    rows: jax.Array
    lengths: jax.Array
    target: jax.Array
    exists: jax.Array


class _Fit(NamedTuple):
    """Weights `[k]` of the gradients taken so far.

    Attributes:
      gram: `[k, k]`, inner products of the gradients taken, plus the regularization on the diagonal.
      wanted: `[k]`, inner products with the target.
      taken: `[k]` bool, places that are filled.
      positive: `[k]` bool, places whose weight is not held at 0.
      weights: `[k]`.
      least: `[k]`, slope of the objective from which a weight at 0 is let go.
      steps: `[]` int32, systems that were solved.
      done: `[]` bool.
    """

    gram: jax.Array
    wanted: jax.Array
    taken: jax.Array
    positive: jax.Array
    weights: jax.Array
    least: jax.Array
    steps: jax.Array
    done: jax.Array


def _match(problem: _Problem, k: int, regularization: jax.Array) -> GradientMatch:
    size, width = problem.rows.shape
    dtype = problem.rows.dtype
    zeros, no = jnp.zeros(k, dtype), jnp.zeros(k, bool)
    gram = regularization * jnp.eye(k, dtype=dtype)
    fit = _Fit(gram, zeros, no, no, zeros, zeros, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    chosen = jnp.full(k, size, jnp.int32), jnp.zeros((k, width), dtype)
    _, fit, (indices, rows) = fori_loop(0, k, bind(_take_one, problem), (problem.exists, fit, chosen))
    missing = problem.target - product(fit.weights, rows)
    length = jnp.sqrt(jnp.sum(problem.target**2))
    residual = jnp.where(length > 0, jnp.sqrt(jnp.sum(missing**2)) / jnp.where(length > 0, length, 1), 0)
    return GradientMatch(indices, fit.weights, residual)


def _take_one(problem, t, state):
    """Take the gradient that points most along the residual, and fit all weights anew."""
    free, fit, (indices, rows) = state
    along = product(problem.rows, problem.target - product(fit.weights, rows))
    length = jnp.sqrt(jnp.sum(problem.target**2))
    helps = free & (along > TOLERANCE * length * problem.lengths)
    gain, j = first_max(jnp.where(helps, along, -jnp.inf))
    found = gain > -jnp.inf
    row = jnp.where(found, problem.rows[j], 0)
    rows = rows.at[t].set(row)
    products = product(rows, row)
    diagonal = fit.gram[t, t] + products[t]
    gram = fit.gram.at[t].set(products).at[:, t].set(products).at[t, t].set(diagonal)
    fit = fit._replace(
        gram=gram,
        wanted=fit.wanted.at[t].set(jnp.sum(row * problem.target)),
        taken=fit.taken.at[t].set(found),
        positive=fit.positive.at[t].set(found),
        least=fit.least.at[t].set(TOLERANCE * length * problem.lengths[j]),
        steps=jnp.zeros((), jnp.int32),
        done=~found,
    )
    fit = while_loop(_not_done, _fit_step, fit)
    return free.at[j].set(free[j] & ~found), fit, (indices.at[t].set(jnp.where(found, j, indices[t])), rows)


def _not_done(fit: _Fit) -> jax.Array:
    return ~fit.done & (fit.steps < 3 * fit.taken.shape[0])


def _fit_step(fit: _Fit) -> _Fit:
    """Solve for the positive weights. Hold at 0 those that would turn negative, or let go one that should grow."""
    both = fit.positive[:, None] & fit.positive[None]
    matrix = jnp.where(both, fit.gram, 0) + jnp.diag(jnp.where(fit.positive, 0, 1).astype(fit.gram.dtype))
    solved = jnp.linalg.solve(matrix, jnp.where(fit.positive, fit.wanted, 0))
    negative = fit.positive & ~(solved > 0)
    span = jnp.where(negative, fit.weights / jnp.where(negative, fit.weights - solved, 1), jnp.inf)
    first = span == jnp.min(span)
    moved = fit.weights + jnp.min(jnp.where(negative, span, 1)) * (solved - fit.weights)
    blocked = jnp.any(negative)
    held = fit.positive & ~(negative & first)
    slope = fit.wanted - product(fit.gram, solved)
    best, j = first_max(jnp.where(fit.taken & ~fit.positive & (slope > fit.least), slope, -jnp.inf))
    return fit._replace(
        positive=jnp.where(blocked, held, fit.positive.at[j].set(fit.positive[j] | (best > -jnp.inf))),
        weights=jnp.where(blocked, jnp.where(held, moved, 0), solved),
        steps=fit.steps + 1,
        done=~blocked & (best == -jnp.inf),
    )
