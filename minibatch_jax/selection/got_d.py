"""Which candidates move a data set most towards a target: the gradient of their transport cost (GOT-D).

References:
  Kang et al., Get more for less: principled data selection for warming up fine-tuning in LLMs, ICLR 2024
  (arXiv 2405.02774).
  Just et al., LAVA: data valuation without pre-specified learning algorithms, ICLR 2023 (arXiv 2305.00054).

Method: GOT-D
Paper: 2405.02774
Experiment: transport_data_selection
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape, mask_or_all
from minibatch_jax.coupling.entropic.balanced import sinkhorn
from minibatch_jax.weights import weight_dtype


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
      weights: `[N]`, floating point, at least 0, mass of each candidate, 0 for padding; uniform by default.
      target_weights: `[M]`, floating point, at least 0, mass of each target item; uniform by default.
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


def _marginal(name: str, weights: jax.Array | None, size: int, usable: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if weights is None:
        weights = jnp.ones(size, dtype)
    check_shape(name, weights, (size,))
    weights = jnp.where(usable, weights.astype(dtype), 0)
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)
