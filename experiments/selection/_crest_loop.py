"""CREST as a state machine inside `scan`: draw subsets, choose coresets, fit the quadratic model, check it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine import mlp, weighted_gradient
from minibatch_jax import take, value_and_grad, weight_transformation, weights_of
from minibatch_jax.selection import (
    keep_medoids,
    keep_unlearned,
    needs_reselection,
    quadratic_model,
    reselection_interval,
)
from minibatch_jax.selection.crest import QuadraticModel, hutchinson_diagonal, update_quadratic_model

CLASSES = 10
MODEL_BATCHES = 5
"""coresets that a quadratic model is fitted to, and subsets that it is checked on"""
COVER = 5
"""a selection makes this many coresets for each step of the interval"""
MAX_CORESETS = 100


class Sizes(NamedTuple):
    """Examples of a class in a random subset, and medoids of a class in its coreset."""

    subset: int
    medoids: int


class Costs(NamedTuple):
    """What was spent beside the gradients that train: each `[]` float32."""

    forward: jax.Array
    gradient: jax.Array
    selections: jax.Array


class Crest(NamedTuple):
    """Coresets at hand and the model that says how long they are good.

    Attributes:
      rows: `[MAX_CORESETS, b]` int32, of the training set; the first `filled` coresets exist.
      weights: `[MAX_CORESETS, b]`, each coreset summing to 1.
      filled: `[]` int32.
      wanted: `[]` int32, coresets of the next selection.
      subsets: `[MODEL_BATCHES, r]` int32, what the model is checked on.
      model: around the parameters of the last selection.
      first: the model of the first selection.
      interval: `[]` int32, steps between checks.
      age: `[]` int32, steps since the last check.
      learned: state of `coreset_selection`, which counts the losses at most 0.1 in a row of each example.
      costs: so far.
    """

    rows: jax.Array
    weights: jax.Array
    filled: jax.Array
    wanted: jax.Array
    subsets: jax.Array
    model: QuadraticModel
    first: QuadraticModel
    interval: jax.Array
    age: jax.Array
    learned: Any
    costs: Costs


def init_crest(params: Any, sizes: Sizes, num_examples: int) -> Crest:
    """No coreset; the first check finds the model, which expects a loss of 0, wrong."""
    batch, zero = CLASSES * sizes.medoids, jnp.zeros(())
    one, model = jnp.ones((), jnp.int32), quadratic_model(params, jnp.zeros(()))
    return Crest(
        rows=jnp.zeros((MAX_CORESETS, batch), jnp.int32),
        weights=jnp.zeros((MAX_CORESETS, batch)),
        filled=one * 0,
        wanted=one * COVER,
        subsets=jnp.zeros((MODEL_BATCHES, CLASSES * sizes.subset), jnp.int32),
        model=model,
        first=model,
        interval=one,
        age=one,
        learned=coreset_selection(num_examples, sizes).init(jnp.zeros(1)),
        costs=Costs(zero, zero, zero),
    )


def batch_of(data: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """The examples of the rows `[n]` of a data set."""
    return {name: data[name][rows] for name in ("image", "label")}


def losses_and_features(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of each example `[n]`, and as features its gradient by the logits `[n, CLASSES]`."""
    logits = mlp(params, batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses, {"features": jax.nn.softmax(logits) - jax.nn.one_hot(batch["label"], CLASSES)}


def losses_of(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Loss of each example `[n]`."""
    return losses_and_features(params, batch)[0]


def gradient(params: Any, data: dict[str, jax.Array], rows: jax.Array, weights: jax.Array) -> Any:
    """Gradient of the weighted sum of the losses of the rows."""
    return weighted_gradient(losses_of)(params, batch_of(data, rows), weights)[1]


def up_to_date(key: jax.Array, params: Any, data: dict[str, jax.Array], crest: Crest, sizes: Sizes) -> Crest:
    """Check the model if the interval has passed, and choose new coresets if it is wrong; one step older."""
    due = crest.age >= crest.interval
    crest = jax.lax.cond(due, lambda: _checked(key, params, data, crest, sizes), lambda: crest)
    return crest._replace(age=crest.age + 1)


def fresh(key: jax.Array, params: Any, data: dict[str, jax.Array], crest: Crest, sizes: Sizes) -> Crest:
    """One new coreset and no model, whatever the age."""
    return _chosen(key, 0, params, data, crest, sizes)[0]._replace(filled=jnp.ones((), jnp.int32))


def _checked(key, params, data, crest, sizes) -> Crest:
    losses = losses_of(params, batch_of(data, crest.subsets.reshape(-1)))
    stale = needs_reselection(crest.model, params, jnp.mean(losses))
    costs = crest.costs._replace(forward=crest.costs.forward + crest.subsets.size)
    crest = crest._replace(age=jnp.zeros((), jnp.int32), costs=costs)
    return jax.lax.cond(stale, lambda: _reselected(key, params, data, crest, sizes), lambda: crest)


def _reselected(key, params, data, crest, sizes) -> Crest:
    """New coresets and a new model; its curvature says how many steps they have to last."""

    def choose(p, carry):
        crest, loss = _chosen(jax.random.fold_in(key, p), p, params, data, carry[0], sizes)
        return crest, carry[1] + jnp.where(p < MODEL_BATCHES, loss, 0)

    def fit(p, model):
        def loss(params):
            return jnp.sum(crest.weights[p] * losses_of(params, batch_of(data, crest.rows[p])))

        _, gradient, diagonal = hutchinson_diagonal(jax.random.fold_in(key, MAX_CORESETS + p), loss, params)
        return update_quadratic_model(model, gradient, diagonal)

    crest, total = jax.lax.fori_loop(0, crest.wanted, choose, (crest, jnp.zeros(())))
    model = jax.lax.fori_loop(0, MODEL_BATCHES, fit, quadratic_model(params, total / MODEL_BATCHES))
    earlier = crest.costs.selections > 0
    first = jax.tree.map(lambda old, new: jnp.where(earlier, old, new), crest.first, model)
    interval = reselection_interval(first, model)
    probed = 2 * MODEL_BATCHES * CLASSES * sizes.medoids  # a probe differentiates a gradient: another gradient
    return crest._replace(
        filled=crest.wanted,
        wanted=jnp.minimum(COVER * interval, MAX_CORESETS),
        model=model,
        first=first,
        interval=interval,
        costs=crest.costs._replace(gradient=crest.costs.gradient + probed, selections=crest.costs.selections + 1),
    )


def _chosen(key, place, params, data, crest, sizes) -> tuple[Crest, jax.Array]:
    """One coreset, put in its place, and the mean loss of the subset that it comes from."""
    subset = draw_subset(key, data, sizes.subset)
    rows, weights, learned, loss = coreset(params, data, subset, crest.learned, sizes)
    crest = crest._replace(
        rows=crest.rows.at[place].set(rows),
        weights=crest.weights.at[place].set(weights),
        subsets=crest.subsets.at[place].set(subset.reshape(-1), mode="drop"),
        learned=learned,
        costs=crest.costs._replace(forward=crest.costs.forward + subset.size),
    )
    return crest, loss


def draw_subset(key: jax.Array, data: dict[str, jax.Array], size: int) -> jax.Array:
    """Rows `[CLASSES, size]` int32, uniform within each class."""
    place = jax.random.randint(key, (CLASSES, size), 0, data["class_size"][:, None])
    return jnp.take_along_axis(data["rows_of_class"], place, axis=1)


def coreset(
    params: Any, data: dict[str, jax.Array], subset: jax.Array, learned: Any, sizes: Sizes
) -> tuple[jax.Array, jax.Array, Any, jax.Array]:
    """Weighted medoids of the examples of a subset that are not learned.

    Returns:
      Rows `[b]`, their weights `[b]`, the new state of `coreset_selection`, and the mean loss of the subset. The
      gradient is not used, so the compiled program does not compute it.
    """
    rows = subset.reshape(-1)
    selected = value_and_grad(losses_and_features, coreset_selection(len(data["label"]), sizes), has_aux=True)
    start = jnp.ones(len(rows))
    (_, aux), _, learned = selected(params, batch_of(data, rows), learned, weights=start, example_ids=rows)
    taken = take(rows, aux.weights, CLASSES * sizes.medoids)
    return taken.batch, taken.weights / jnp.maximum(jnp.sum(taken.weights), 1), learned, jnp.mean(aux.items)


def coreset_selection(num_examples: int, sizes: Sizes) -> optax.GradientTransformationExtraArgs:
    """Drop what is learned, and keep medoids of each class of a subset. Signals: `losses`, `example_ids`, `features`.

    The medoids are those of `keep_class_medoids` for equally many rows of each class, without pairs across classes.
    """

    def update(weights, state, params=None, *, features, **extra_args):
        shape = CLASSES, sizes.subset
        medoids = class_medoids(weights.reshape(shape), features.reshape(*shape, -1), sizes.medoids)
        return medoids.reshape(-1), state

    medoids_by_class = weight_transformation(lambda weights: optax.EmptyState(), update)
    return optax.chain(keep_unlearned(num_examples), medoids_by_class)


def class_medoids(weights: jax.Array, features: jax.Array, each: int) -> jax.Array:
    """Weights `[CLASSES, m]` of the medoids of each row of features `[CLASSES, m, D]`."""
    select = keep_medoids(each, metric="euclidean", method="naive")
    return jax.vmap(lambda w, f: weights_of(select, w, features=f))(weights, features)
