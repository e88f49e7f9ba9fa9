"""CREST: weighted coresets of random subsets, chosen anew as soon as a quadratic model of the loss is wrong.

References:
  Yang, Kang & Mirzasoleiman, Towards sustainable learning: coresets for data-efficient deep learning, ICML 2023
  (arXiv 2306.01244).

Method: CREST
Paper: 2306.01244
Experiment: crest, crest_text
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
)
from minibatch_jax.boundaries.chosen_rows import heaviest_rows
from minibatch_jax.compose import weights_of
from minibatch_jax.mining.class_batches import ClassIndex
from minibatch_jax.sampling._sampler import Rows, Sampler
from minibatch_jax.sampling.classes import index_every_class
from minibatch_jax.selection._similarities import METRICS
from minibatch_jax.selection.coresets import keep_medoids
from minibatch_jax.selection.crest import (
    LearnedState,
    QuadraticModel,
    curvature_norm,
    hutchinson_diagonal,
    interval_of,
    keep_unlearned,
    needs_reselection,
    predicted_loss,
    quadratic_model,
    update_quadratic_model,
)

Items = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]
"""`items_fn(params, batch)`: losses `[n]`, and `{"features": [n, D]}`."""


class CrestCosts(NamedTuple):
    """What was spent beside the gradients that train, for subsets of r rows and batches of b rows.

    Attributes:
      checks: `[]` int32; each passes `coresets_per_step` x r rows forward.
      coresets: `[]` int32, coresets that were chosen; each passes r rows forward.
      selections: `[]` int32, how often coresets were chosen; each differentiates the losses of `coresets_per_step` x b
        rows, and that gradient once more along a random direction.
    """

    checks: jax.Array
    coresets: jax.Array
    selections: jax.Array


class CrestState(NamedTuple):
    """State of `crest`. It holds three copies of the parameters.

    Attributes:
      rng_key: `[]` key of the next call.
      examples: the data set by class.
      learned: for each row of the data set, how many losses in a row were low.
      coresets: `[max_coresets, b]` rows and weights; the first `filled` exist.
      filled: `[]` int32, coresets at hand; 0 before the first selection.
      subsets: `[coresets_per_step, r]` int32, rows that the model is checked on.
      model: the loss around the parameters of the last selection.
      first_curvature: `[]` float32, norm of the curvature at the first selection; 0 before it.
      interval: `[]` int32, steps between checks.
      age: `[]` int32, steps since the last check.
      everything_learned: `[]` bool, whether the last selection met a subset of which every row was learned.
      costs: so far.
    """

    rng_key: jax.Array
    examples: ClassIndex
    learned: LearnedState
    coresets: Rows
    filled: jax.Array
    subsets: jax.Array
    model: QuadraticModel
    first_curvature: jax.Array
    interval: jax.Array
    age: jax.Array
    everything_learned: jax.Array
    costs: CrestCosts


class Coreset(NamedTuple):
    """One weighted coreset of a random subset.

    Attributes:
      rows: rows `[b]` of the data set and their weights, heaviest first.
      subset: `[r]` int32, the rows that it was chosen from, class by class; -1 for a class without examples.
      losses: `[r]` float32, their losses; NaN where the subset is -1.
      learned: with the losses of the subset.
      everything_learned: `[]` bool, whether every row of the subset was learned; then none was dropped.
    """

    rows: Rows
    subset: jax.Array
    losses: jax.Array
    learned: LearnedState
    everything_learned: jax.Array


def random_coreset(
    items_fn: Items,
    key: jax.Array | int,
    params: Any,
    data: Any,
    examples: ClassIndex,
    learned: LearnedState,
    *,
    batch_size: int,
    subset_size: int,
    learned_below: float | jax.Array = 0.1,
    patience: int | jax.Array = 5,
    metric: str = "euclidean",
) -> Coreset:
    """Return a weighted coreset of a new random subset, one of those that `crest` makes in a selection.

    Args:
      items_fn: `items_fn(params, batch) -> (losses [n], {"features": [n, D]})`.
      key: int seed, typed key or legacy `PRNGKey`.
      params: parameters of the model.
      data: tree of arrays `[N, ...]`.
      examples: the data set by class, what `mining.class_batches.index_classes` returns.
      learned: how many losses of each row were low in a row.
      batch_size: b, rows of the coreset, static, a multiple of the number of classes.
      subset_size: r, rows of the subset, static, a multiple of the number of classes.
      learned_below: largest loss that counts as learned.
      patience: number of low losses in a row after which a row is learned, at least 1.
      metric: distance of features, defined by `selection.coresets.similarity_matrix`.

    Returns:
      The coreset; equally many rows of each class are drawn, with replacement, and equally many are kept.

    Raises:
      TypeError: if `items_fn` returns something else.

    Examples:
      >>> from minibatch_jax.mining.class_batches import index_classes
      >>> def items(params, batch):
      ...   return batch["x"] * params, {"features": batch["x"][:, None]}
      >>> data = {"x": jnp.array([1.0, 1.1, 2.0, 9.0])}
      >>> examples, learned = index_classes(jnp.array([0, 0, 0, 1]), 2), LearnedState(jnp.zeros(4, jnp.int32))
      >>> key = jax.random.key(0)
      >>> made = random_coreset(items, key, 1.0, data, examples, learned, batch_size=2, subset_size=8)
      >>> made.rows.indices.tolist(), made.rows.weights.tolist()
      ([1, 3], [0.5, 0.5])
    """
    sizes = examples.sizes[:, None]
    num_classes = sizes.shape[0]
    each = subset_size // num_classes
    place = jax.random.randint(as_key(key), (num_classes, each), 0, jnp.maximum(sizes, 1), jnp.int32)
    subset = jnp.where(sizes > 0, examples.order[examples.starts[:, None] + place], -1).reshape(-1)
    losses, features = _losses_and_features(items_fn, params, data, subset)
    usable = jnp.isfinite(losses) & jnp.all(jnp.isfinite(features), axis=1)
    weights = usable.astype(jnp.float32)
    unlearned = keep_unlearned(learned.streaks.shape[0], learned_below, patience)
    updated: Any = unlearned.update(weights, learned, losses=losses, example_ids=subset)
    kept, learned = updated
    everything_learned = jnp.any(usable) & ~jnp.any(kept > 0)
    kept = jnp.where(everything_learned, weights, kept).reshape(num_classes, each)
    medoids = keep_medoids(batch_size // num_classes, metric=metric, method="naive")
    by_class = features.reshape(num_classes, each, -1)
    found = jax.vmap(lambda w, f: weights_of(medoids, w, features=f))(kept, by_class)
    heaviest, slots = heaviest_rows(found.reshape(-1), batch_size)
    rows = Rows(jnp.where(heaviest > 0, subset[slots], -1), heaviest / jnp.maximum(jnp.sum(heaviest), 1))
    return Coreset(rows, subset, losses, learned, everything_learned)


def crest(
    items_fn: Items,
    *,
    batch_size: int,
    num_classes: int,
    subset_size: int,
    coresets_per_step: int = 5,
    max_coresets: int = 100,
    warmup: int | jax.Array = 1,
    threshold: float | jax.Array = 0.1,
    learned_below: float | jax.Array = 0.1,
    patience: int | jax.Array = 5,
    multiplier: float | jax.Array = 1.0,
    metric: str = "euclidean",
) -> Sampler:
    """Draw one of several weighted coresets; choose new ones when a quadratic model of the loss is off (CREST).

    A selection draws random subsets of the data set, equally many rows of each class, drops what is learned, and keeps
    in each subset the medoids of each class, weighted by what they represent. Around the parameters of the selection,
    the subsets give a loss and their coresets a gradient and a curvature. `update`, called after the step with the new
    parameters, checks every `interval` steps whether this model still predicts the mean loss of the subsets, and makes
    a new selection if not. The interval grows as the curvature falls, and with it the number of coresets.

    A row is learned as soon as its last `patience` losses, one at each visit in a subset, were at most `learned_below`;
    it is drawn as before, and returns with the first higher loss. If a whole subset is learned, all its rows are kept
    and the state says so. The rows of a class are drawn with replacement, so that a small class is as much of a subset
    as the others. Rows whose loss or features are not finite are never chosen; slots without a medoid are padding.
    Before the first selection `sample` draws any rows of the data set, with replacement and equal weights.

    Published settings: 128 rows of a random hundredth of the data, and one epoch of warm-up; round both numbers up to
    multiples of C, and take more than a hundredth of small data. For data without classes let all labels be 0.

    A check passes `coresets_per_step` subsets forward, and `interval` says how many steps lie between checks. On small
    networks it often stays at 1 or 2, and the checks then cost more than the training: raise `multiplier`. The first
    call compiles for about as long as a training step with second derivatives, tens of seconds on a busy CPU.

    On clean labels CREST saves steps at best: on images (`crest`) coresets that `random_coreset` chooses anew for every
    step beat random batches, and those of this sampler hardly did; on text (`crest_text`) both were worse. It is no
    help against wrong labels, whose rows are never learned and so fill the coresets.

    Args:
      items_fn: `items_fn(params, batch) -> (losses [n], {"features": [n, D]})`, what `value_and_grad` takes with
        `has_aux=True`, for `batch` of some rows of the data; twice differentiable. As features use
        `scores.last_layer_gradients(logits, labels)`.
      batch_size: b, rows of a coreset, static, a multiple of the number of classes.
      num_classes: C, labels are in [0, C), static.
      subset_size: r, rows of a subset, static, at least b and a multiple of the number of classes. A selection takes
        O(r^2 / C) memory and O(b r^2 / C^2) time for each coreset.
      coresets_per_step: coresets that a selection makes for each step of the interval, static; the model is fitted to
        as many, and as many in all are made by the first selection.
      max_coresets: largest number of coresets of a selection, static.
      warmup: calls of `update` up to and with the first selection, at least 1.
      threshold: largest relative error of the model for which the coresets are kept, at least 0.
      learned_below: largest loss that counts as learned.
      patience: number of low losses in a row after which a row is learned, at least 1.
      multiplier: factor on the interval, positive.
      metric: distance of features, "sqeuclidean", "euclidean", "l1" or "cosine", defined by
        `selection.coresets.similarity_matrix`.

    Returns:
      A sampler, whose `CrestState` says what happened; `init(key, labels=labels, params=params)` with `[N]` int labels
      and a tree of floating-point parameters, those that train; `update(state, rows, params=params, data=data)` with
      the new parameters and the data set, a tree of arrays `[N, ...]`.

    Raises:
      TypeError: if a size is not a static int, or a setting no number; in `init`, if labels are not integers or
        parameters not floating point; in `update`, if `params` or `data` is missing, or `items_fn` returns something
        else.
      ValueError: if a size or setting is out of range or no multiple of the number of classes; in `init`, if the labels
        are empty, no vector, or outside [0, C), a class has no example, or a subset is larger than the data set; in
        `update`, if the parameters differ in structure or shape from those of `init`, or a leaf of the data has not N
        rows.

    Examples:
      >>> from minibatch_jax import scores
      >>> def items(params, batch):
      ...   logits = batch["x"] @ params
      ...   losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
      ...   return losses, {"features": scores.last_layer_gradients(logits, batch["y"])}
      >>> data = {"x": jnp.array([[-1.0], [-2.0], [-3.0], [1.0], [3.0], [9.0]]), "y": jnp.array([0, 0, 0, 1, 1, 1])}
      >>> sampler, params = crest(items, batch_size=2, num_classes=2, subset_size=6), jnp.array([[0.5, -0.5]])
      >>> state = sampler.init(0, labels=data["y"], params=params)
      >>> rows, state = sampler.sample(state)
      >>> state = sampler.update(state, rows, params=params, data=data)
      >>> rows, state = sampler.sample(state)
      >>> sorted(data["y"][rows.indices].tolist()), rows.weights.tolist(), int(state.costs.coresets)
      ([0, 1], [0.5, 0.5], 5)
    """
    check_count("num_classes", num_classes)
    for name, size in (("batch_size", batch_size), ("subset_size", subset_size)):
        check_count(name, size)
        if size % num_classes:
            raise ValueError(f"{name} is {size}, wanted a multiple of {num_classes} (the number of classes).")
    check_count("batch_size", batch_size, subset_size, "the rows of a subset")
    check_count("max_coresets", max_coresets)
    check_count("coresets_per_step", coresets_per_step, max_coresets, "max_coresets")
    check_count("warmup", warmup, traced=True)
    check_number("threshold", threshold, 0)
    check_number("learned_below", learned_below)
    check_count("patience", patience, traced=True)
    check_number("multiplier", multiplier, 0, open_low=True)
    check_choice("metric", metric, METRICS)
    choice = functools.partial(
        random_coreset,
        items_fn,
        batch_size=batch_size,
        subset_size=subset_size,
        learned_below=learned_below,
        patience=patience,
        metric=metric,
    )

    def init(key: jax.Array | int, *, labels: jax.Array, params: Any) -> CrestState:
        labels = jnp.asarray(labels)
        check_integer("labels", labels)
        if not isinstance(labels, jax.core.Tracer):
            outside = np.asarray(labels)[(np.asarray(labels) < 0) | (np.asarray(labels) >= num_classes)]
            if outside.size:
                raise ValueError(f"labels holds {outside.flat[0]}, wanted labels in [0, {num_classes}).")
        index = index_every_class(labels, num_classes)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = f"params{jax.tree_util.keystr(path)}"
            if not hasattr(leaf, "dtype"):
                raise TypeError(f"{name} is a {type(leaf).__name__}, wanted arrays only: take those that train.")
            check_floating(name, leaf)
        check_count("batch_size", batch_size, labels.shape[0], "the number of labels")
        check_count("subset_size", subset_size, labels.shape[0], "the number of labels")

        def zero():  # no array twice, so that the state may be donated
            return jnp.zeros((), jnp.int32)

        return CrestState(
            rng_key=jax.random.split(as_key(key), 1)[0],  # a key of its own, so that the state may be donated
            examples=index,
            learned=LearnedState(jnp.zeros(labels.shape, jnp.int32)),
            coresets=Rows(
                jnp.full((max_coresets, batch_size), -1, jnp.int32), jnp.zeros((max_coresets, batch_size), jnp.float32)
            ),
            filled=zero(),
            subsets=jnp.full((coresets_per_step, subset_size), -1, jnp.int32),
            model=quadratic_model(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32)),
            first_curvature=jnp.zeros((), jnp.float32),
            interval=jnp.array(warmup, jnp.int32),
            age=zero(),
            everything_learned=jnp.zeros((), bool),
            costs=CrestCosts(zero(), zero(), zero()),
        )

    def sample(state: CrestState) -> tuple[Rows, CrestState]:
        next_key, draw_key = jax.random.split(state.rng_key)
        order, _, sizes = state.examples
        at_hand = state.filled > 0
        choices = jnp.where(at_hand, state.filled, jnp.sum(sizes, dtype=jnp.int32))
        drawn = jax.random.randint(draw_key, (batch_size,), 0, choices, jnp.int32)
        uniform = jnp.full(batch_size, 1 / batch_size, jnp.float32)
        rows = jax.lax.cond(
            at_hand, lambda: jax.tree.map(lambda x: x[drawn[0]], state.coresets), lambda: Rows(order[drawn], uniform)
        )
        return rows, state._replace(rng_key=next_key)

    def update(state: CrestState, rows: Rows, *, params: Any, data: Any, **signals: object) -> CrestState:
        _check_params(params, state.model.params)
        _check_data(data, state.learned.streaks.shape[0])
        next_key, select_key = jax.random.split(state.rng_key)
        state = state._replace(rng_key=next_key, age=state.age + 1)
        due = state.age >= state.interval
        return jax.lax.cond(due, lambda: checked(select_key, params, data, state), lambda: state)

    def checked(key, params, data, state):
        def is_wrong():
            losses = _losses_and_features(items_fn, params, data, state.subsets.reshape(-1))[0]
            count, total = _sum_of_finite(losses)
            wrong = needs_reselection(state.model, params, total / count, threshold)
            return (count > 0) & (wrong | ~jnp.isfinite(predicted_loss(state.model, params)))

        started = state.filled > 0
        stale = jax.lax.cond(started, is_wrong, lambda: jnp.ones((), bool))
        costs = state.costs._replace(checks=state.costs.checks + started.astype(jnp.int32))
        state = state._replace(age=jnp.zeros((), jnp.int32), costs=costs)
        return jax.lax.cond(stale, lambda: selected(key, params, data, state), lambda: state)

    def selected(key, params, data, state):
        started = state.filled > 0
        most = -(-max_coresets // coresets_per_step)
        steps = jnp.where(started, jnp.minimum(state.interval, most), 1)
        filled = jnp.minimum(coresets_per_step * steps, max_coresets)

        def choose(place, carry):
            learned, coresets, subsets, losses, everything_learned = carry
            made = choice(jax.random.fold_in(key, place), params, data, state.examples, learned)
            coresets = jax.tree.map(lambda all_rows, new: all_rows.at[place].set(new), coresets, made.rows)
            subsets = subsets.at[place].set(made.subset, mode="drop")
            losses = losses.at[place].set(made.losses, mode="drop")
            return made.learned, coresets, subsets, losses, everything_learned | made.everything_learned

        def fit(place, model):
            indices, weights = coresets.indices[place], coresets.weights[place]
            indices = jnp.where(weights > 0, indices, indices[jnp.argmax(weights)])  # padding: 0 * NaN is NaN

            def loss(params):
                losses = _losses_and_features(items_fn, params, data, indices)[0]
                return jnp.sum(weights * losses)

            probe_key = jax.random.fold_in(key, max_coresets + place)
            _, gradient, diagonal = hutchinson_diagonal(probe_key, loss, params)
            return update_quadratic_model(model, gradient, diagonal)

        losses = jnp.zeros(state.subsets.shape, jnp.float32)
        carry = state.learned, state.coresets, state.subsets, losses, jnp.zeros((), bool)
        learned, coresets, subsets, losses, everything_learned = jax.lax.fori_loop(0, filled, choose, carry)
        count, total = _sum_of_finite(losses)
        model = quadratic_model(params, total / count)
        model = jax.lax.fori_loop(0, coresets_per_step, fit, model)
        norm = curvature_norm(model)
        first = jnp.where(state.first_curvature > 0, state.first_curvature, norm)
        costs = state.costs
        return state._replace(
            learned=learned,
            coresets=coresets,
            filled=filled,
            subsets=subsets,
            model=model,
            first_curvature=first,
            interval=interval_of(first, norm, multiplier),
            everything_learned=everything_learned,
            costs=costs._replace(coresets=costs.coresets + filled, selections=costs.selections + 1),
        )

    return Sampler(init, sample, update)


def _losses_and_features(items_fn: Items, params: Any, data: Any, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return losses `[n]` float32, NaN where the index is -1, and features `[n, D]` of rows of the data."""
    exists = indices >= 0
    found = items_fn(params, jax.tree.map(lambda x: jnp.asarray(x)[jnp.where(exists, indices, 0)], data))
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict) and "features" in found[1]):
        raise TypeError(f"items_fn returned a {type(found).__name__}, wanted (losses [n], {{'features': [n, D]}}).")
    losses, features = found[0], found[1]["features"]
    check_shape("losses of items_fn", losses, indices.shape)
    check_floating("losses of items_fn", losses)
    check_shape("features of items_fn", features, (*indices.shape, None))
    return jnp.where(exists, losses.astype(jnp.float32), jnp.nan), features


def _sum_of_finite(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the number of finite losses and their sum."""
    finite = jnp.isfinite(losses)
    return jnp.sum(finite, dtype=jnp.float32), jnp.sum(jnp.where(finite, losses, 0))


def _check_params(params: Any, wanted: Any) -> None:
    """Raise ValueError unless the parameters have the structure and the shapes of those wanted."""
    if jax.tree.structure(params) != jax.tree.structure(wanted):
        names = [
            [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)] for t in (params, wanted)
        ]
        extra, missing = sorted({*names[0]} - {*names[1]}), sorted({*names[1]} - {*names[0]})
        kinds = f"a {type(params).__name__} in place of a {type(wanted).__name__}"
        told = f"params{extra[0]} more" if extra else f"params{missing[0]} less" if missing else kinds
        raise ValueError(f"params has {told} than in init, wanted the same tree.")
    for (path, leaf), old in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(wanted)):
        check_shape(f"params{jax.tree_util.keystr(path)}", leaf, old.shape)


def _check_data(data: Any, rows: int) -> None:
    """Raise ValueError unless every leaf has this many rows."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != rows:
            name = f"data{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} has shape {list(jnp.shape(leaf))}, wanted {rows} rows, one for each label.")
