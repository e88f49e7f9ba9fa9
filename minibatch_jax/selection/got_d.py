"""Which candidates move a data set most towards a target: the gradient of their transport cost (GOT-D).

References:
  Kang et al., Get more for less: principled data selection for warming up fine-tuning in LLMs, ICLR 2024
  (arXiv 2405.02774).
  Just et al., LAVA: data valuation without pre-specified learning algorithms, ICLR 2023 (arXiv 2305.00054).

Method: GOT-D
Paper: 2405.02774
Experiment: transport_data_selection
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows, scan, while_loop
from minibatch_jax.coupling.entropic.balanced import sinkhorn
from minibatch_jax.geometry import center, measurable_rows, product, squared_distances
from minibatch_jax.selection import _semidual
from minibatch_jax.weights import weight_dtype


class TransportScores(NamedTuple):
    """Scores of candidates by transport to a target, and what they were computed from.

    Attributes:
      scores: `[N]`, lower is better, infinity for candidates that do not exist.
      potentials: `[M]`, of the targets.
      error: `[]`, mass that the targets receive too much or too little.
      iterations: `[]` int32, passes over the candidates.
      converged: `[]` bool, whether the error is at most the tolerance.
    """

    scores: jax.Array
    potentials: jax.Array
    error: jax.Array
    iterations: jax.Array
    converged: jax.Array


def calibrated_gradient(potentials: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Return the change of the transport cost when mass moves to an item from all other items alike, for each item.

    Args:
      potentials: `[N]`, floating point, dual potentials of the items; a constant added to all of them cancels.
      where: `[N]` bool, which items exist; all by default.

    Returns:
      `[N]`, float32 (float64 if the potentials are), each potential minus the mean of the other potentials; 0 for items
      that do not exist.

    Raises:
      TypeError: if the potentials are not floating point or `where` is not bool.
      ValueError: if shapes do not match.

    References:
      Just et al., ICLR 2023 (arXiv 2305.00054).

    Examples:
      >>> calibrated_gradient(jnp.array([1.0, 2.0, 6.0])).tolist()
      [-3.0, -1.5, 4.5]
    """
    check_shape("potentials", potentials, (None,))
    check_floating("potentials", potentials)
    where = mask_or_all("where", where, potentials.shape)
    potentials = potentials.astype(weight_dtype(potentials.dtype))
    count = jnp.sum(where, dtype=potentials.dtype)
    total = jnp.sum(jnp.where(where, potentials, 0))
    return jnp.where(where, potentials - (total - potentials) / jnp.maximum(count - 1, 1), 0)


def transport_scores(
    cost: jax.Array,
    *,
    epsilon: float = 0.01,
    weights: jax.Array | None = None,
    target_weights: jax.Array | None = None,
    max_iterations: int = 2000,
) -> jax.Array:
    """Score candidates by how their mass changes the transport cost to the target: keep the lowest scores (GOT-D).

    The score of a candidate is the derivative of the entropic transport cost in the mass of the candidate, computed
    from the dual potentials. The score is not the distance to the target: where the candidates have too much mass
    already, even a candidate close to the target gets a high score. The derivative is accurate while few candidates are
    chosen of many. Copies of a candidate have equal scores, so remove duplicates first, with `near_duplicates` (of
    texts) or `near_duplicates_by_cosine` (of embeddings).

    Args:
      cost: `[N, M]`, floating point, cost of moving each candidate to each target item; a candidate whose row is not
        finite gets infinity.
      epsilon: entropic regularization, as a fraction of the mean cost, positive.
      weights: `[N]`, floating point, at least 0, mass of each candidate, 0 for padding; uniform by default. One that is
        negative or not finite counts as 0.
      target_weights: `[M]`, floating point, at least 0, mass of each target item; uniform by default. One that is
        negative or not finite counts as 0.
      max_iterations: upper limit of the iterations of Sinkhorn's algorithm, at least 1, static.

    Returns:
      `[N]`, lower is better, infinity for candidates that do not exist: `topk_mask(-scores, k)` keeps the k best.

    Raises:
      TypeError: if the cost is not floating point or `max_iterations` is not a static int.
      ValueError: if shapes do not match, epsilon is not positive or `max_iterations` < 1.

    References:
      Kang et al., ICLR 2024 (arXiv 2405.02774).

    Examples:
      >>> pool, target = jnp.array([0.0, 0.1, 0.2, 5.0]), jnp.array([0.1, 5.1])
      >>> int(transport_scores((pool[:, None] - target[None]) ** 2).argmin())
      3
    """
    check_shape("cost", cost, (None, None))
    check_floating("cost", cost)
    check_number("epsilon", epsilon, 0, open_low=True)
    cost = cost.astype(weight_dtype(cost.dtype))
    a = _marginal("weights", weights, cost.shape[0], jnp.isfinite(cost).all(1), cost.dtype)
    exists = a > 0
    usable = jnp.where(exists[:, None], cost, 0)
    b = _marginal("target_weights", target_weights, cost.shape[1], jnp.isfinite(usable).all(0), cost.dtype)
    scale = a @ jnp.where(b[None] > 0, usable, 0) @ b
    scaled = epsilon * jnp.where(scale > 0, scale, 1)
    plan = sinkhorn(usable, a, b, epsilon=scaled, tolerance=1e-5, max_iterations=max_iterations)
    gradient = plan.row_potentials - scaled * jnp.log(jnp.where(exists, a, 1))
    return jnp.where(exists, calibrated_gradient(gradient, where=exists), jnp.inf)


def transport_scores_in_blocks(
    features: jax.Array,
    targets: jax.Array,
    *,
    epsilon: float = 0.01,
    weights: jax.Array | None = None,
    target_weights: jax.Array | None = None,
    potentials: jax.Array | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    block_size: int = 4096,
) -> TransportScores:
    """Score candidates as `transport_scores` does by squared distances, a block at a time: no array `[N, M]`.

    Newton's method on the potentials of the targets needs some ten passes over the candidates, where Sinkhorn's
    algorithm needs hundreds. O(N M (D + M)) time for a pass, O(block_size M + M^2) memory, so take a few hundred
    targets, or a sample of them. Candidates and targets that are not finite, or whose squared norm overflows, do not
    exist. For rows in a file, use `pool.select_from_pool` with the method "got_d".

    Args:
      features: `[N, D]`, floating point, the candidates.
      targets: `[M, D]`, floating point.
      epsilon: entropic regularization, as a fraction of the mean cost, positive.
      weights: `[N]`, floating point, at least 0, mass of each candidate, 0 for padding; uniform by default. One that is
        negative or not finite counts as 0.
      target_weights: `[M]`, floating point, at least 0, mass of each target item; uniform by default. One that is
        negative or not finite counts as 0.
      potentials: `[M]`, where to start, such as those of a sample of the candidates; 0 by default.
      tolerance: stop when `error` is at most this, at least 0.
      max_iterations: most passes over the candidates, static.
      block_size: candidates at a time, static.

    Returns:
      `TransportScores(scores, potentials, error, iterations, converged)`: `topk_mask(-scores, k)` keeps the k best.

    Raises:
      TypeError: if an input is not floating point or a count is not a static int.
      ValueError: if shapes do not match, epsilon is not positive, the tolerance negative or a count below 1.

    References:
      Kang et al., ICLR 2024 (arXiv 2405.02774).

    Examples:
      >>> pool, target = jnp.array([[0.0], [0.1], [0.2], [5.0]]), jnp.array([[0.1], [5.1]])
      >>> found = transport_scores_in_blocks(pool, target)
      >>> int(found.scores.argmin()), bool(found.converged)
      (3, True)
    """
    check_shape("features", features, (None, None))
    check_floating("features", features)
    check_shape("targets", targets, (None, features.shape[1]))
    check_floating("targets", targets)
    check_number("epsilon", epsilon, 0, open_low=True)
    check_number("tolerance", tolerance, 0)
    check_count("max_iterations", max_iterations)
    check_count("block_size", block_size)
    dtype = weight_dtype(jnp.promote_types(features.dtype, targets.dtype))
    (rows, exists), (goals, usable) = (measurable_rows(x.astype(dtype)) for x in (features, targets))
    a = _marginal("weights", weights, rows.shape[0], exists, dtype)
    b = _marginal("target_weights", target_weights, goals.shape[0], usable, dtype)
    origin = center(jnp.where(b[:, None] > 0, goals, jnp.nan), jnp.where(a[:, None] > 0, rows, jnp.nan))
    scale = _mean_squared_distance(rows - origin[None], a, goals - origin[None], b)
    width = jnp.asarray(epsilon, dtype) * jnp.where(scale > 0, scale, 1)
    if potentials is None:
        potentials = jnp.zeros(goals.shape[0], dtype)
    check_shape("potentials", potentials, goals.shape[:1])
    block = min(block_size, rows.shape[0])
    missing = -rows.shape[0] % block
    blocks = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, block, rows.shape[1]), jnp.pad(a, (0, missing))
    blocks = blocks[0], blocks[1].reshape(-1, block)
    problem = goals, b, origin, width
    step = bind(_try_potentials, blocks, problem, jnp.where(scale > 0, scale, 1))
    running = bind(_is_unfinished, jnp.asarray(tolerance, dtype), jnp.asarray(max_iterations))
    ascent = while_loop(running, step, _semidual.start(potentials.astype(dtype)))
    own = map_rows(bind(_own_potentials, problem, ascent.potentials), blocks).reshape(-1)[: rows.shape[0]]
    scores = jnp.where(a > 0, calibrated_gradient(own, where=a > 0), jnp.inf)
    return TransportScores(scores, ascent.potentials, ascent.error, ascent.passes, ascent.error <= tolerance)


def _mean_squared_distance(rows, a, goals, b):
    squares = a @ jnp.sum(rows**2, axis=1) + b @ jnp.sum(goals**2, axis=1)
    return jnp.maximum(squares - 2 * product(product(a, rows), product(b, goals)), 0)


def _block_sums(problem, potentials, block):
    goals, masses, origin, epsilon = problem
    rows, mass = block
    return _semidual.sums_of_block(squared_distances(rows, goals, origin=origin), mass, potentials, masses, epsilon)


def _own_potentials(problem, potentials, block):
    return _block_sums(problem, potentials, block)[1]


def _add_block(problem, potentials, sums, block):
    return jax.tree.map(jnp.add, sums, _block_sums(problem, potentials, block)[0]), None


def _try_potentials(blocks, problem, scale, ascent):
    zeros = jax.tree.map(jnp.zeros_like, ascent.sums)
    sums, _ = scan(bind(_add_block, problem, ascent.trial), zeros, blocks)
    return _semidual.advance(ascent, sums, problem[1], problem[3], scale)


def _is_unfinished(tolerance, max_iterations, ascent):
    return _semidual.goes_on(ascent, tolerance, max_iterations)


def _marginal(name: str, weights: jax.Array | None, size: int, usable: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if weights is None:
        weights = jnp.ones(size, dtype)
    check_shape(name, weights, (size,))
    weights = weights.astype(dtype)
    weights = jnp.where(usable & (weights > 0) & jnp.isfinite(weights), weights, 0)
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)
