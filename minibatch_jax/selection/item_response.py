"""How able a model is and how hard an item, from which models solve which items: item response theory.

The probability that a model solves an item is `sigmoid(discrimination @ ability - difficulty)`, with a vector of
abilities for each model. Fitted to a record of many models, its items describe themselves to `anchor_items`, and the
answers of a new model to some items give its ability and so a guess of all others.

References:
  Polo et al., tinyBenchmarks: evaluating LLMs with fewer examples, ICML 2024 (arXiv 2402.14992).
  Huang et al., MiniLongBench, ACL 2025 (arXiv 2505.19959).

Method: item response theory
Paper: 2402.14992
Experiment: anchor_items
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_dtype

LENGTHS = 1.0, 0.3, 0.1, 0.01  # of Newton steps


class ItemResponse(NamedTuple):
    """Parameters of N items and M models in D dimensions.

    Attributes:
      discrimination: `[N, D]`.
      difficulty: `[N]`.
      ability: `[M, D]`, of the models of the record.
    """

    discrimination: jax.Array
    difficulty: jax.Array
    ability: jax.Array


def fit_item_response(
    key: jax.Array | int,
    records: jax.Array,
    *,
    num_dimensions: int = 5,
    prior: float | jax.Array = 1.0,
    num_rounds: int = 30,
) -> ItemResponse:
    """Fit abilities, discriminations and difficulties to a record: the largest posterior, under normal priors.

    Each round takes a Newton step of all abilities, then one of all items; none lowers the posterior, which may have
    several maxima. In the end abilities and discriminations are turned and scaled, which changes no probability, so
    that the abilities of the record are uncorrelated, with a mean square of 1, in the order of what they explain.

    Args:
      key: int seed or key, of the start.
      records: `[M, N]`, floating point in [0, 1], what each model scored on each item; what is not finite is left out.
      num_dimensions: D, static.
      prior: variance of abilities and discriminations; that of difficulties is 10 times as large.
      num_rounds: static.

    Returns:
      The parameters, float32 (float64 if the records are). O(M N D^2) time a round.

    Raises:
      TypeError: if the records are not floating point, a count is not a static int or the key is no key.
      ValueError: if the records are not `[M, N]` or a number is out of range.

    References:
      Polo et al., ICML 2024 (arXiv 2402.14992).

    Examples:
      >>> records = jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
      >>> fitted = fit_item_response(0, records, num_dimensions=1)
      >>> jnp.argsort(-fitted.difficulty).tolist()
      [0, 1, 2]
    """
    check_shape("records", records, (None, None))
    check_floating("records", records)
    check_count("num_dimensions", num_dimensions)
    check_number("prior", prior, 0, open_low=True)
    check_count("num_rounds", num_rounds)
    records, known = _known_scores(records)
    dtype, (models, items) = records.dtype, records.shape
    solved = (jnp.sum(records, axis=0) + 0.5) / (jnp.sum(known.astype(dtype), axis=0) + 1)
    slopes = 0.3 * jax.random.normal(as_key(key), (items, num_dimensions), dtype)
    slopes = slopes.at[:, 0].add(1)  # most items are solved by the abler models
    start = jnp.concatenate([slopes, (jnp.log(solved) - jnp.log1p(-solved))[:, None]], axis=1)
    state = start, jnp.zeros((models, num_dimensions), dtype)
    step = bind(_round, records, known, jnp.asarray(prior, dtype))
    parameters, ability = fori_loop(0, num_rounds, step, state)
    # the priors leave large records with small slopes and large abilities: a new model has the same prior as these
    moments, axes = jnp.linalg.eigh(product(ability.T, ability) / models)
    scale = jnp.sqrt(jnp.maximum(moments, jnp.finfo(dtype).eps * moments[-1]))
    ability, slopes = product(ability, axes) / nonzero(scale)[None], product(parameters[:, :-1], axes) * scale[None]
    return ItemResponse(slopes[:, ::-1], -parameters[:, -1], ability[:, ::-1])


def solve_probabilities(items: ItemResponse, ability: jax.Array) -> jax.Array:
    """Return the probability that models solve items.

    Args:
      items: N items of D dimensions.
      ability: `[..., D]`, floating point.

    Returns:
      `[..., N]`.

    Raises:
      TypeError: if the ability is not floating point.
      ValueError: if the number of dimensions does not fit.

    Examples:
      >>> items = ItemResponse(jnp.ones((2, 1)), jnp.array([0.0, 2.0]), jnp.zeros((0, 1)))
      >>> [round(chance, 3) for chance in solve_probabilities(items, jnp.array([2.0])).tolist()]
      [0.881, 0.5]
    """
    check_floating("ability", ability)
    number = items.discrimination.shape[1]
    if ability.ndim < 1 or ability.shape[-1] != number:
        raise ValueError(
            f"ability has shape {list(ability.shape)}, wanted [..., {number}], the dimensions of the items."
        )
    found = product(ability.astype(items.discrimination.dtype), items.discrimination.T)
    return jax.nn.sigmoid(found - jnp.broadcast_to(items.difficulty, found.shape))


def fit_ability(
    items: ItemResponse, scores: jax.Array, *, prior: float | jax.Array = 1.0, num_steps: int = 10
) -> jax.Array:
    """Return the ability of a model that explains its scores best, by Newton steps on the posterior, which is concave.

    Args:
      items: N items of D dimensions.
      scores: `[N]`, floating point in [0, 1]; NaN for items that were not run.
      prior: variance of abilities, as in `fit_item_response`.
      num_steps: static.

    Returns:
      `[D]`; 0 without scores.

    Raises:
      TypeError: if the scores are not floating point or `num_steps` is not a static int.
      ValueError: if shapes do not match or a number is out of range.

    Examples:
      >>> items = ItemResponse(jnp.ones((2, 1)), jnp.array([0.0, 2.0]), jnp.zeros((0, 1)))
      >>> able, unable = (fit_ability(items, jnp.array([score, jnp.nan])) for score in (1.0, 0.0))
      >>> bool(able[0] == -unable[0]), bool(able[0] > 0)
      (True, True)
    """
    check_shape("scores", scores, items.difficulty.shape)
    check_floating("scores", scores)
    check_number("prior", prior, 0, open_low=True)
    check_count("num_steps", num_steps)
    scores, known = _known_scores(scores)
    dtype = items.discrimination.dtype
    start = jnp.zeros_like(items.discrimination[0])
    precision = jnp.full_like(start, 1 / jnp.asarray(prior, dtype))
    problem = items.discrimination, -items.difficulty, scores.astype(dtype), known, precision
    return fori_loop(0, num_steps, bind(_ability_step, *problem), start)


def response_mean(
    items: ItemResponse,
    indices: jax.Array,
    scores: jax.Array,
    *,
    item_weights: jax.Array | None = None,
    prior: float | jax.Array = 1.0,
) -> jax.Array:
    """Return the mean score of a model over all items, from its scores on some: the others are predicted.

    Args:
      items: N items of D dimensions, fitted to other models.
      indices: `[n]` int, which items were run, distinct; others than in [0, N) are ignored.
      scores: `[n]`, floating point in [0, 1]; what is not finite is ignored.
      item_weights: `[N]`, floating point, weight of an item in the mean, by default equal; those not above 0 do not
        count.
      prior: variance of abilities, as in `fit_item_response`.

    Returns:
      `[]`; NaN if no item counts.

    Raises:
      TypeError: if an array has the wrong dtype.
      ValueError: if shapes do not match.

    References:
      Polo et al., ICML 2024 (arXiv 2402.14992), who call it p-IRT.

    Examples:
      >>> items = ItemResponse(jnp.ones((3, 1)), jnp.zeros(3), jnp.zeros((0, 1)))
      >>> float(response_mean(items, jnp.array([0]), jnp.array([1.0]))) > 0.7
      True
    """
    size = items.difficulty.shape[0]
    check_shape("indices", indices, (None,))
    check_integer("indices", indices)
    check_shape("scores", scores, indices.shape)
    check_floating("scores", scores)
    weights = jnp.ones(size, items.difficulty.dtype) if item_weights is None else item_weights
    check_shape("item_weights", weights, (size,))
    check_floating("item_weights", weights)
    scores = scores.astype(items.difficulty.dtype)
    places = class_numbers(jnp.asarray(indices), size)
    full = jnp.full(size, jnp.nan, scores.dtype).at[places].set(scores, mode="drop")
    predicted = solve_probabilities(items, fit_ability(items, full, prior=prior))
    weights = jnp.where(jnp.isfinite(weights) & (weights > 0), weights, 0).astype(scores.dtype)
    weights = weights / nonzero(jnp.max(weights))  # so that no sum overflows
    total = jnp.sum(weights)
    mean = jnp.sum(weights * jnp.where(jnp.isfinite(full), full, predicted)) / nonzero(total)
    return jnp.where(total > 0, mean, jnp.nan)


def _known_scores(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    known = jnp.isfinite(scores)
    return jnp.where(known, jnp.clip(scores, 0, 1), 0).astype(weight_dtype(scores.dtype)), known


def _ability_step(slopes, offset, scores, known, precision, _, ability):
    return _newton_step(slopes, offset, scores, known, precision, ability)


def _round(records, known, prior, _, state):
    """Newton steps of all abilities, then of the slopes and the intercept of all items."""
    parameters, ability = state
    precision = jnp.full(ability.shape[1], 1 / prior)
    offset = parameters[:, -1]
    ability = jax.vmap(_newton_step, in_axes=(None, None, 0, 0, None, 0))(
        parameters[:, :-1], offset, records, known, precision, ability
    )
    inputs = jnp.concatenate([ability, jnp.ones_like(ability[:, :1])], axis=1)
    precision = jnp.append(precision, 0.1 / prior)
    parameters = jax.vmap(_newton_step, in_axes=(None, None, 1, 1, None, 0))(
        inputs, jnp.zeros_like(inputs[:, 0]), records, known, precision, parameters
    )
    return parameters, ability


def _newton_step(slopes, offset, scores, known, precision, at):
    """Move `at` `[D]` towards the least sum of cross-entropies of `slopes @ at + offset` and `precision @ at**2 / 2`.

    Of steps of several lengths the best one, and one with the bound 1/4 of the curvature, which never ascends.
    """

    def loss(point):
        each = optax.sigmoid_binary_cross_entropy(product(slopes, point) + offset, scores)
        return jnp.sum(jnp.where(known, each, 0)) + jnp.sum(precision * point**2) / 2

    chance = jax.nn.sigmoid(product(slopes, at) + offset)
    gradient = product(jnp.where(known, chance - scores, 0), slopes) + precision * at
    newton, bound = (
        jnp.linalg.solve(
            product(slopes.T * jnp.where(known, curvature, 0)[None], slopes) + jnp.diag(precision), gradient
        )
        for curvature in (chance * (1 - chance), jnp.full_like(chance, 0.25))
    )
    points = at[None] - jnp.stack([bound, *(length * newton for length in LENGTHS)])
    return points[jnp.argmin(jax.vmap(loss)(points))]
