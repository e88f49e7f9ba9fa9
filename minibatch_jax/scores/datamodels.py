"""What each training example adds to the outcome of each test example: linear models of training sets (datamodels).

Train on many random subsets of the training set, note an outcome of each test example, such as the margin of its class,
and fit the outcomes by a sparse linear function of which rows were in the subset. Its coefficients are influences: how
much the outcome falls if a row is taken out. A mask of a subset is a weight array, so any training that takes weights
will do, and `subset_outcomes` maps it over the masks.

Take margins, `label_margins`, for outcomes: probabilities and losses saturate. A model holds for subsets of the
fraction it was fitted at; how the full training set behaves is an extrapolation. To choose training rows for a set of
test examples, give the mean influence on them as `losses` to `keep_topk`, or its negative to `keep_below`.

References:
  Ilyas et al., Datamodels: predicting predictions from training data, ICML 2022 (arXiv 2202.00622).
  Park et al., TRAK: attributing model behavior at scale, ICML 2023 (arXiv 2303.14186), for the score of a fit.

Method: Datamodels
Paper: 2202.00622
Experiment: datamodels
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import (
    as_key,
    check_bool,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
)
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax._vector import class_numbers, nonzero, one_zero
from minibatch_jax.geometry import product
from minibatch_jax.scores._lasso import (
    best_of_path,
    lasso,
    lipschitz,
    optimality_gap,
    raw_coefficients,
    standardize,
)
from minibatch_jax.weights import weight_dtype


class Datamodels(NamedTuple):
    """Linear functions of the training subset, for T outcomes of a training set of N rows.

    Attributes:
      intercept: `[T]`; NaN for an outcome that was not finite in more than half of the subsets, which is not fitted.
      influence: `[N, T]`, what a row adds to an outcome; 0 for a row that all subsets had, or none.
      penalty: `[T]`, chosen by the validation error.
      errors: `[L, T]`, mean squared validation errors along the path. The first is that of a constant.
      num_dropped: `[]` int32, subsets that do not count: their mask or an outcome is not finite.
      converged: `[T]` bool, whether the last fit is at its minimum; false if too few subsets count, or all are equal.
    """

    intercept: jax.Array
    influence: jax.Array
    penalty: jax.Array
    errors: jax.Array
    num_dropped: jax.Array
    converged: jax.Array


def subset_masks(
    key: jax.Array | int, num_subsets: int, num_rows: int, fraction: float, *, exact: bool = True
) -> jax.Array:
    """Draw random subsets of the rows of a training set.

    Args:
      key: int seed or key.
      num_subsets: M, static.
      num_rows: N, at least 2, static.
      fraction: of the rows in a subset, in (0, 1), static if `exact`.
      exact: whether each subset has exactly round(fraction * N) rows; otherwise each row is in it independently of all
        others. Predict subsets of the kind that was fitted.

    Returns:
      `[M, N]` float32, 1 for rows in the subset and 0 for others.

    Raises:
      TypeError: if a count is not a static int or the key is no key.
      ValueError: if a number is out of range, or a subset would have no row or all.

    References:
      Ilyas et al., ICML 2022 (arXiv 2202.00622).

    Examples:
      >>> masks = subset_masks(0, 3, 8, 0.25)
      >>> masks.shape, masks.sum(axis=1).tolist()
      ((3, 8), [2.0, 2.0, 2.0])
    """
    check_count("num_subsets", num_subsets)
    check_count("num_rows", num_rows)
    if num_rows < 2:
        raise ValueError("num_rows is 1, wanted at least 2.")
    check_number("fraction", fraction, 0, 1, open_low=True, open_high=True)
    uniforms = jax.random.uniform(as_key(key), (num_subsets, num_rows))
    if not exact:
        return (uniforms < fraction).astype(jnp.float32)
    if isinstance(fraction, jax.Array):
        raise TypeError("fraction is an array, wanted a Python number: subsets of an exact size have a static size.")
    size = round(fraction * num_rows)
    if not 0 < size < num_rows:
        raise ValueError(f"fraction is {fraction}, wanted one that leaves a row in and a row out of {num_rows}.")
    order = jnp.argsort(uniforms, axis=1)
    return (jnp.argsort(order, axis=1) < size).astype(jnp.float32)


def subset_outcomes(
    outcomes_fn: Callable[..., jax.Array],
    masks: jax.Array,
    *,
    key: jax.Array | int | None = None,
    block_size: int | None = None,
) -> jax.Array:
    """Train on each subset and return the outcomes.

    Args:
      outcomes_fn: `outcomes_fn(weights [N]) -> [T]` trains with these weights, which sum to 1 over the subset and are 0
        elsewhere, and returns what the trained model makes of T test examples, such as `label_margins`. With `key` it
        is `outcomes_fn(weights, key)`. Batch normalization sees rows of weight 0 too.
      masks: `[M, N]`, as of `subset_masks`.
      key: int seed or key, of which each subset gets one of its own; none by default: all trainings share their
        randomness.
      block_size: how many subsets are trained at a time, static; one by default. More are faster, and need their
        memory.

    Returns:
      `[M, T]`.

    Raises:
      TypeError: if the masks or outcomes are not floating point, `block_size` is not a static int or the key is no key.
      ValueError: if the masks are not `[M, N]`, the outcomes of a subset are not `[T]`, or `block_size` is below 1.

    References:
      Ilyas et al., ICML 2022 (arXiv 2202.00622).

    Examples:
      >>> def mean_and_total(weights):
      ...     return jnp.stack([weights @ jnp.array([1.0, 2.0, 3.0]), jnp.sum(weights)])
      >>> subset_outcomes(mean_and_total, jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])).tolist()
      [[2.0, 1.0], [3.0, 1.0]]
    """
    check_shape("masks", masks, (None, None))
    check_floating("masks", masks)
    if block_size is not None:
        check_count("block_size", block_size)
    inputs = (masks,) if key is None else (masks, jax.random.split(as_key(key), masks.shape[0]))
    return map_rows(bind(given(_outcomes, outcomes_fn)), inputs, block_size=block_size)


def label_margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the logit of the label minus the largest other logit: above 0 where the model is right.

    Args:
      logits: `[..., T, C]`, floating point, C > 1.
      labels: `[T]` int.

    Returns:
      `[..., T]`, float32 (float64 if the logits are); NaN for a label that is not in [0, C).

    Raises:
      TypeError: if the logits are not floating point or the labels not integers.
      ValueError: if shapes do not match or there is only one class.

    References:
      Ilyas et al., ICML 2022 (arXiv 2202.00622).

    Examples:
      >>> label_margins(jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), jnp.array([0, 1])).tolist()
      [1.0, -2.0]
    """
    check_floating("logits", logits)
    classes = logits.shape[-1] if logits.ndim else 0
    if logits.ndim < 2 or classes < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}, wanted [..., T, C] with C > 1.")
    check_shape("labels", labels, logits.shape[-2:-1])
    check_integer("labels", labels)
    logits = logits.astype(weight_dtype(logits.dtype))
    label = class_numbers(jnp.asarray(labels), classes)
    is_label = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32)[None] == label[:, None], logits.shape)
    own = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    return jnp.where(label < classes, own - jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1), jnp.nan)


def fit_datamodels(
    masks: jax.Array,
    outcomes: jax.Array,
    *,
    num_validation: int | None = None,
    num_penalties: int = 15,
    smallest: float = 0.01,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
) -> Datamodels:
    """Fit each outcome by a sparse linear function of the mask.

    For each outcome the fit minimizes `sum (prediction - outcome)^2 / (2 M) + penalty * sum |influence * deviation|`,
    with the standard deviation of a row's mask and an intercept without penalty: `sklearn.linear_model.Lasso` of
    standardized masks. Penalties fall in geometric progression from the least one that leaves no influence. The last
    subsets choose the penalty of each outcome by its squared error, and the fit is made again with all subsets.

    O(N^2 (M + T x iterations) + N^3) time and O(N^2 + M N + N T) memory.

    Args:
      masks: `[M, N]`, floating point, as of `subset_masks`; any weights of rows will do.
      outcomes: `[M, T]`, floating point.
      num_validation: how many subsets, the last ones, choose the penalty; a tenth by default, static.
      num_penalties: L, at least 2, static.
      smallest: the least penalty as a fraction of the largest, in (0, 1).
      tolerance: of the optimality, as a fraction of the largest penalty.
      max_iterations: of a penalty, static.

    Returns:
      The datamodels, float32 (float64 if masks and outcomes are).

    Raises:
      TypeError: if masks or outcomes are not floating point or a count is not a static int.
      ValueError: if shapes do not match, fewer than 2 subsets are left to fit, concrete masks are all equal or a number
        is out of range.

    References:
      Ilyas et al., ICML 2022 (arXiv 2202.00622).

    Examples:
      >>> masks = subset_masks(0, 64, 4, 0.5, exact=False)
      >>> outcomes = masks @ jnp.array([[2.0], [0.0], [-1.0], [0.0]]) + 3
      >>> fitted = fit_datamodels(masks, outcomes, smallest=1e-4)
      >>> fitted.influence[:, 0].round(2).tolist(), fitted.converged.tolist()
      ([2.0, 0.0, -1.0, 0.0], [True])
    """
    check_shape("masks", masks, (None, None))
    check_floating("masks", masks)
    check_shape("outcomes", outcomes, (masks.shape[0], None))
    check_floating("outcomes", outcomes)
    size = masks.shape[0]
    num_validation = max(1, size // 10) if num_validation is None else num_validation
    check_count("num_validation", num_validation)
    if size - num_validation < 2:
        raise ValueError(f"masks has {size} subsets, wanted at least 2 beside the {num_validation} of num_validation.")
    check_count("num_penalties", num_penalties)
    if num_penalties < 2:
        raise ValueError(f"num_penalties is {num_penalties}, wanted at least 2.")
    check_number("smallest", smallest, 0, 1, open_low=True, open_high=True)
    check_number("tolerance", tolerance, 0, open_low=True)
    check_count("max_iterations", max_iterations)
    if not isinstance(masks, jax.core.Tracer) and _all_equal(np.asarray(masks)):
        raise ValueError("masks has the same rows in every subset, wanted rows that are in some and not in others.")
    dtype = weight_dtype(jnp.result_type(masks, outcomes))
    masks, outcomes = masks.astype(dtype), outcomes.astype(dtype)

    finite = jnp.isfinite(outcomes)
    fitted = 2 * jnp.sum(finite, axis=0, dtype=jnp.int32) >= size
    counts = jnp.all(finite | ~fitted[None], axis=1) & jnp.all(jnp.isfinite(masks), axis=1)
    masks = jnp.where(counts[:, None], masks, 0)
    outcomes = jnp.where(counts[:, None] & fitted[None], outcomes, 0)
    to_fit = counts & (jnp.arange(size) < size - num_validation)
    units, scales = (nonzero(jnp.max(jnp.abs(x), axis=0)) for x in (masks, outcomes))
    masks, outcomes = masks / units[None], outcomes / scales[None]  # so that no square leaves the range of floats

    options: Any = {"tolerance": jnp.asarray(tolerance, dtype), "max_iterations": max_iterations}
    moments = standardize(masks, outcomes, to_fit)
    steps = jnp.asarray(smallest, dtype) ** (jnp.arange(num_penalties, dtype=dtype) / (num_penalties - 1))
    penalties = steps[:, None] * jnp.max(jnp.abs(moments.correlations), axis=0)[None]
    validation = masks[-num_validation:], outcomes[-num_validation:], counts[-num_validation:]
    path = best_of_path(moments, penalties, validation, **options)

    moments = standardize(masks, outcomes, counts)
    problem = moments.gram, moments.correlations, path.penalty
    coefficients = lasso(*problem, path.coefficients, lipschitz(moments.gram), **options)
    # one step of FISTA leaves a gap a little above its residual, and float32 has its own
    gap = optimality_gap(*problem, coefficients)
    limit = 4 * tolerance * jnp.max(jnp.abs(moments.correlations), axis=0)
    intercept, influence = raw_coefficients(moments, coefficients)
    enough = (jnp.sum(to_fit) >= 2) & jnp.any(counts[-num_validation:]) & jnp.any(moments.varies)
    return Datamodels(
        jnp.where(fitted, intercept * scales, jnp.nan),
        influence * (scales[None] / units[:, None]),
        path.penalty * scales,
        path.errors * scales[None] ** 2,
        jnp.sum(~counts, dtype=jnp.int32),
        (gap <= limit) & fitted & enough,
    )


def predict_outcomes(datamodels: Datamodels, masks: jax.Array) -> jax.Array:
    """Return the outcomes that datamodels predict for training subsets.

    Args:
      datamodels: of T outcomes and N rows.
      masks: `[..., N]`, floating point.

    Returns:
      `[..., T]`; compare its columns with the true ones by `metrics.rank_correlations`, whose mean over the outcomes is
      called the linear datamodeling score.

    Raises:
      TypeError: if the masks are not floating point.
      ValueError: if the number of rows does not fit.

    Examples:
      >>> fitted = Datamodels(jnp.array([1.0]), jnp.array([[0.5], [-2.0]]), *[jnp.zeros(1)] * 4)
      >>> predict_outcomes(fitted, jnp.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
      [[1.5], [-0.5]]
    """
    check_floating("masks", masks)
    found = _effect("masks", datamodels, masks)
    return found + jnp.broadcast_to(datamodels.intercept, found.shape)


def removal_effects(datamodels: Datamodels, removed: jax.Array) -> jax.Array:
    """Return the predicted change of each outcome if rows are taken out of a training set that had them.

    Args:
      datamodels: of T outcomes and N rows.
      removed: `[..., N]` bool, which rows.

    Returns:
      `[..., T]`, minus the sum of the influences of these rows.

    Raises:
      TypeError: if `removed` is not bool.
      ValueError: if the number of rows does not fit.

    Examples:
      >>> fitted = Datamodels(jnp.array([1.0]), jnp.array([[0.5], [-2.0]]), *[jnp.zeros(1)] * 4)
      >>> removal_effects(fitted, jnp.array([False, True])).tolist()
      [2.0]
    """
    check_bool("removed", removed)
    return -_effect("removed", datamodels, removed)


def smallest_flips(datamodels: Datamodels, margins: jax.Array) -> jax.Array:
    """Return the least number of rows whose removal turns each margin below 0, as predicted.

    The rows are those of `top_influences`. A prediction with a small number is brittle.

    Args:
      datamodels: of T margins and N rows.
      margins: `[T]`, floating point, of the model trained on all rows.

    Returns:
      `[T]` int32: 0 where the margin is below 0 already, N + 1 where no removal is enough or the margin is NaN.

    Raises:
      TypeError: if the margins are not floating point.
      ValueError: if shapes do not match.

    References:
      Ilyas et al., ICML 2022 (arXiv 2202.00622).

    Examples:
      >>> fitted = Datamodels(jnp.zeros(2), jnp.array([[0.5, 0.1], [0.7, -1.0]]), *[jnp.zeros(2)] * 4)
      >>> smallest_flips(fitted, jnp.array([1.0, 1.0])).tolist()
      [2, 3]
    """
    rows, targets = datamodels.influence.shape
    check_shape("margins", margins, (targets,))
    check_floating("margins", margins)
    falls = jnp.cumsum(-jnp.sort(-jnp.maximum(datamodels.influence, 0), axis=0), axis=0)
    left = margins.astype(falls.dtype)[None] - jnp.concatenate([jnp.zeros_like(falls[:1]), falls])
    number = jnp.sum(~(left < 0), axis=0, dtype=jnp.int32)
    return jnp.minimum(number, rows + 1)


def top_influences(datamodels: Datamodels, k: int) -> jax.Array:
    """Return for each outcome the k rows of the largest influence above 0.

    Args:
      datamodels: of T outcomes and N rows.
      k: static, at most N.

    Returns:
      `[T, k]` int32, largest first, ties to the lowest index; N, one past the end, where no influence is above 0.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if k is out of range.

    Examples:
      >>> fitted = Datamodels(jnp.zeros(1), jnp.array([[0.5], [-2.0], [0.7]]), *[jnp.zeros(1)] * 4)
      >>> top_influences(fitted, 3).tolist()
      [[2, 0, 3]]
    """
    rows = datamodels.influence.shape[0]
    check_count("k", k, rows, "the number of rows")
    values, indices = jax.lax.top_k(one_zero(datamodels.influence.T), k)
    return jnp.where(values > 0, indices, rows)


def _outcomes(outcomes_fn: Callable[..., Any], inputs: tuple[jax.Array, ...]) -> jax.Array:
    mask, *keys = inputs
    wide = mask.astype(weight_dtype(mask.dtype))
    outcomes = outcomes_fn(wide / nonzero(jnp.sum(wide)), *keys)
    check_shape("outcomes_fn(weights)", outcomes, (None,))
    check_floating("outcomes_fn(weights)", outcomes)
    return outcomes


def _effect(name: str, datamodels: Datamodels, masks: jax.Array) -> jax.Array:
    rows = datamodels.influence.shape[0]
    if jnp.ndim(masks) < 1 or masks.shape[-1] != rows:
        raise ValueError(
            f"{name} has shape {list(jnp.shape(masks))}, wanted [..., {rows}], the rows of the datamodels."
        )
    return product(masks.astype(datamodels.influence.dtype), datamodels.influence)


def _all_equal(masks: np.ndarray) -> bool:
    """Whether all subsets that have no NaN are the same; with numpy, because JAX traces what it computes under jit."""
    return bool(np.all((masks == masks[:1]) | np.isnan(masks)))
