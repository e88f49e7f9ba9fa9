"""Which unlabeled examples a strategy looks at: those near a few labeled examples of each class (AnchorAL).

The anchors of a class are some of its labeled examples that differ, drawn by k-means++. All classes have as many, and
each proposes its neighbors, so that a rare class is proposed as often as a common one; new draws in each round keep the
strategy from staying where it began.

References:
  Lesci & Vlachos, AnchorAL: computationally efficient active learning for large and imbalanced datasets, NAACL 2024
  (arXiv 2404.05623).
  Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

Method: AnchorAL, the neighbors of anchors of each class
Paper: 2404.05623
Experiment: active_texts
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.geometry import finite_rows, unit_rows
from minibatch_jax.selection._neighbors import directions_of, known_references, nearest_rows
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_transformation


def anchor_indices(
    key: jax.Array | int, features: jax.Array, labels: jax.Array, *, num_classes: int, num_anchors: int = 10
) -> jax.Array:
    """Draw labeled examples of each class by k-means++: the first at random, the next ones far from those drawn.

    A draw has a probability proportional to the squared distance between unit rows to the nearest anchor of the class;
    where all distances left are 0, draws are uniform. No example is drawn twice. O(num_anchors M D) time.

    Args:
      key: int seed or key.
      features: `[M, D]`, floating point, of the labeled examples.
      labels: `[M]` int. An example whose label is not in [0, num_classes), or whose features are not finite, is never
        drawn.
      num_classes: C, static.
      num_anchors: how many to draw in each class, static.

    Returns:
      `[C, num_anchors]` int32, in order of the draws; M, one past the end, where no example of the class was left.

    Raises:
      TypeError: if the features are not floating point, the labels not integers, a count is not a static int or the key
        is no key.
      ValueError: if shapes do not match or a count is less than 1.

    References:
      Lesci & Vlachos, NAACL 2024 (arXiv 2404.05623).

    Examples:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
      >>> anchor_indices(0, features, jnp.array([1, 0, 9]), num_classes=2, num_anchors=1).tolist()
      [[1], [0]]
    """
    check_shape("features", features, (None, None))
    check_floating("features", features)
    check_shape("labels", labels, features.shape[:1])
    check_integer("labels", labels)
    check_count("num_classes", num_classes)
    check_count("num_anchors", num_anchors)
    key, size = as_key(key), features.shape[0]
    rows, finite = finite_rows(features)
    points, classes = unit_rows(rows), class_numbers(labels, num_classes)
    classes = jnp.where(finite, classes, num_classes)
    free = classes < num_classes
    start = jnp.full((num_classes, num_anchors), size, jnp.int32), jnp.ones(size, points.dtype), free
    return fori_loop(0, num_anchors, bind(_draw_of_each_class, key, points, classes), start)[0]


def anchor_scores(
    features: jax.Array,
    anchor_features: jax.Array,
    *,
    num_neighbors: int = 50,
    where: jax.Array | None = None,
    anchor_mask: jax.Array | None = None,
    block_size: int = 64,
) -> jax.Array:
    """Return the mean cosine of each example with the anchors that it is one of the nearest of.

    O(N A D) time, O(N block_size + A num_neighbors) memory.

    Args:
      features: `[N, D]`, floating point, of the pool.
      anchor_features: `[A, D]`, floating point.
      num_neighbors: how many examples each anchor proposes, at most N, static.
      where: `[N]` bool, which examples may be proposed; all by default.
      anchor_mask: `[A]` bool, which anchors exist; all by default.
      block_size: anchors at a time.

    Returns:
      `[N]`, in [-1, 1] up to rounding, float32 (float64 if the features are); minus infinity for an example that no
      anchor proposes.

    Raises:
      TypeError: if features are not floating point, a count is not a static int or a mask is not bool.
      ValueError: if shapes do not match or a count is out of range.

    References:
      Lesci & Vlachos, NAACL 2024 (arXiv 2404.05623).

    Examples:
      >>> pool = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
      >>> anchor_scores(pool, pool[:1], num_neighbors=2).tolist()
      [1.0, 0.6000000238418579, -inf]
    """
    check_count("block_size", block_size)
    directions, allowed, anchors, exist = directions_of(
        features, anchor_features, where=where, reference_mask=anchor_mask
    )
    check_count("num_neighbors", num_neighbors, features.shape[0], "the number of rows of features")
    cosines, rows = map_rows(
        bind(nearest_rows, directions, allowed, number=num_neighbors), (anchors, exist), block_size=block_size
    )
    rows, cosines = rows.reshape(-1), cosines.reshape(-1)
    nothing = jnp.zeros(features.shape[0], cosines.dtype)
    count = nothing.at[rows].add(1, mode="drop")
    return jnp.where(count > 0, nothing.at[rows].add(cosines, mode="drop") / nonzero(count), -jnp.inf)


def keep_near_anchors(
    k: int,
    key: jax.Array | int,
    *,
    num_classes: int,
    num_anchors: int = 10,
    num_neighbors: int = 50,
    block_size: int = 64,
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples nearest to anchors of all classes, weights unchanged. Signals: `features`,
    `reference_features` and `reference_labels`.

    This comes before a strategy: `optax.chain(keep_near_anchors(500, 0, num_classes=C), keep_uncertain(20, key))`
    labels the unsure ones among the k. Over the weights `[N]` of a pool, with 0 for what has a label; the references
    are the labeled examples, and one whose label is negative is padding. Each update draws new anchors. If the anchors
    propose fewer than k examples, all of these are kept; if they propose far more, the class whose examples are most
    alike has the highest cosines and takes all places: let k be near `num_classes * num_anchors * num_neighbors`.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed, for the draws of anchors.
      num_classes: C, static.
      num_anchors: how many anchors each class has, if it has as many labels, static.
      num_neighbors: how many examples each anchor proposes, static.
      block_size: anchors at a time.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, a signal has another kind of dtype.
      ValueError: if a count is out of range or, in `update`, the shapes of the signals do not match.

    References:
      Lesci & Vlachos, NAACL 2024 (arXiv 2404.05623).

    Examples:
      >>> tx = keep_near_anchors(1, key=0, num_classes=2, num_neighbors=2)
      >>> features = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.6, 0.8]])
      >>> labeled = {"reference_features": features[:1], "reference_labels": jnp.array([0])}
      >>> pool = jnp.array([0.0, 1.0, 1.0])
      >>> tx.update(pool, tx.init(pool), features=features, **labeled)[0].tolist()
      [0.0, 1.0, 0.0]
    """
    counts = {"k": k, "num_classes": num_classes, "num_anchors": num_anchors, "num_neighbors": num_neighbors}
    for name, value in {**counts, "block_size": block_size}.items():
        check_count(name, value)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        known = known_references(reference_features, reference_labels)
        next_key, draw_key = jax.random.split(state.rng_key)
        labels = jnp.where(known, reference_labels, num_classes)
        anchors = anchor_indices(
            draw_key, reference_features, labels, num_classes=num_classes, num_anchors=num_anchors
        ).reshape(-1)
        scores = anchor_scores(
            features,
            reference_features[jnp.minimum(anchors, len(labels) - 1)],
            num_neighbors=num_neighbors,
            where=weights != 0,
            anchor_mask=anchors < len(labels),
            block_size=block_size,
        )
        return jnp.where(topk_mask(scores, k), weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _draw_of_each_class(key, points, classes, t, state):
    """Draw one row of each class; `nearest` holds squared distances to the anchors of the own class, 1 at the start."""
    drawn, nearest, free = state
    num_classes, size = drawn.shape[0], classes.shape[0]
    far = jnp.zeros(num_classes, points.dtype).at[classes].max(jnp.where(free, nearest, 0), mode="drop") > 0
    own = jnp.minimum(classes, num_classes - 1)
    chances = jnp.where(far[own], nearest, 1)
    gumbel = jax.random.gumbel(jax.random.fold_in(key, t), (size,), points.dtype)
    scores = jnp.where(free, jnp.log(chances) + gumbel, -jnp.inf)
    best = jnp.full(num_classes, -jnp.inf, points.dtype).at[classes].max(scores, mode="drop")
    is_best = free & (scores == best[own]) & (best[own] > -jnp.inf)
    rows = jnp.full(num_classes, size, jnp.int32)
    rows = rows.at[classes].min(jnp.where(is_best, jnp.arange(size, dtype=jnp.int32), size), mode="drop")
    anchor = rows[own]
    squared = jnp.sum((points - points[jnp.minimum(anchor, size - 1)]) ** 2, axis=1)
    nearest = jnp.where(anchor < size, jnp.where(t == 0, squared, jnp.minimum(nearest, squared)), nearest)
    return drawn.at[:, t].set(rows), nearest, free.at[rows].set(False, mode="drop")
