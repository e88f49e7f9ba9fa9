"""Which unlabeled examples a strategy looks at: those near a labeled one (SEALS).

The members of a rare class are close to each other, so that a strategy finds them sooner, and at a lower price, among
the neighbors of labeled examples than in the whole pool. The neighbors change with each round: those of new labels
come in.

References:
  Coleman et al., Similarity search for efficient active learning and search of rare concepts, AAAI 2022 (arXiv
  2007.00077).

Method: SEALS, the neighbors of labeled examples
Paper: 2007.00077
Experiment: active_texts
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.selection._neighbors import directions_of, known_references, nearest_rows
from minibatch_jax.weights import weight_transformation


def near_labeled_mask(
    features: jax.Array,
    reference_features: jax.Array,
    *,
    num_neighbors: int = 100,
    where: jax.Array | None = None,
    reference_mask: jax.Array | None = None,
    block_size: int = 64,
) -> jax.Array:
    """Return which examples are among the nearest of at least one labeled example, by the cosine of their features.

    Each labeled example has its `num_neighbors` nearest among the examples that may be chosen, or all of them if they
    are fewer; ties go to the lowest index. O(N M D) time, O(N block_size + M num_neighbors) memory.

    Args:
      features: `[N, D]`, floating point, of the pool.
      reference_features: `[M, D]`, floating point, of the labeled examples.
      num_neighbors: how many neighbors each labeled example has, at most N, static.
      where: `[N]` bool, which examples of the pool may be chosen, such as those without a label; all by default.
      reference_mask: `[M]` bool, which labeled examples exist; all by default.
      block_size: labeled examples at a time.

    Returns:
      `[N]` bool. Examples whose features are not finite are near to none.

    Raises:
      TypeError: if features are not floating point, a count is not a static int or a mask is not bool.
      ValueError: if shapes do not match or a count is out of range.

    References:
      Coleman et al., AAAI 2022 (arXiv 2007.00077).

    Examples:
      >>> pool = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
      >>> near_labeled_mask(pool, pool[:1], num_neighbors=1, where=jnp.arange(4) > 0).tolist()
      [False, True, False, False]
    """
    check_count("block_size", block_size)
    directions, allowed, targets, exist = directions_of(
        features, reference_features, where=where, reference_mask=reference_mask
    )
    check_count("num_neighbors", num_neighbors, features.shape[0], "the number of rows of features")
    rows = map_rows(
        bind(nearest_rows, directions, allowed, number=num_neighbors), (targets, exist), block_size=block_size
    )[1]
    return jnp.zeros(features.shape[0], bool).at[rows.reshape(-1)].set(True, mode="drop")


def keep_near_labeled(num_neighbors: int = 100, *, block_size: int = 64) -> optax.GradientTransformationExtraArgs:
    """Keep the examples near a labeled one, weights unchanged. Signals: `features`, `reference_features` and
    `reference_labels`.

    This comes before a strategy: `optax.chain(keep_near_labeled(100), keep_uncertain(20, key))` labels the unsure ones
    among the neighbors. Over the weights `[N]` of a pool, with 0 for what has a label; the references are the labeled
    examples, and one whose label is negative is padding. Without a labeled example nothing is kept.

    Args:
      num_neighbors: how many neighbors each labeled example has, static.
      block_size: labeled examples at a time.

    Returns:
      A transformation over `[N]` weights.

    Raises:
      TypeError: if a count is not a static int or, in `update`, a signal has another kind of dtype.
      ValueError: if a count is out of range or, in `update`, the shapes of the signals do not match.

    References:
      Coleman et al., AAAI 2022 (arXiv 2007.00077).

    Examples:
      >>> tx = keep_near_labeled(1)
      >>> features = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
      >>> labeled = {"reference_features": features[:1], "reference_labels": jnp.array([4])}
      >>> pool = jnp.array([0.0, 1.0, 1.0])
      >>> tx.update(pool, tx.init(pool), features=features, **labeled)[0].tolist()
      [0.0, 1.0, 0.0]
    """
    check_count("num_neighbors", num_neighbors)
    check_count("block_size", block_size)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        known = known_references(reference_features, reference_labels)
        near = near_labeled_mask(
            features,
            reference_features,
            num_neighbors=num_neighbors,
            where=weights != 0,
            reference_mask=known,
            block_size=block_size,
        )
        return jnp.where(near, weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
