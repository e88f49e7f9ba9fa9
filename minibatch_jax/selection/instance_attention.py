"""Which few percent of a labeled table to keep: the rows that a graph attention network attends to most (GAIS).

A network learns to tell the class of each row from its neighbors in a graph of the rows. What a row is worth is the
attention that it receives. The paper's repository held no code when this was written: layers, sizes, optimizer and the
score are defaults of this library; the graphs are in `instance_graphs`. With them, but half the steps, the rows kept of
the digits taught a classifier no more than random rows of each class, and less than medoids of k-means: compare before
you use it.

References:
  Rustamov et al., Scalable graph attention-based instance selection via mini-batch sampling and hierarchical hashing,
  AI Open 6, 2025 (arXiv 2502.20293).
  Brody et al., How attentive are graph attention networks?, ICLR 2022 (arXiv 2105.14491).

Method: GAIS
Paper: 2502.20293
Experiment: instance_selection
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.selection import instance_graphs
from minibatch_jax.selection.graph_attention import attention_layer, init_layer, received
from minibatch_jax.selection.instance_graphs import InstanceGraph, standardized
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation

GRAPHS = ("distance", "hash", "multilevel_hash", "multiview_hash")
HELD_OUT = 0.1
DECAYS = (0.9, 0.999)


class AttentionScores(NamedTuple):
    """What each row is worth, and how well the network learned.

    Attributes:
      scores: `[N]`, higher is better; 0 for rows that no row attends to, -inf for rows that do not exist.
      held_out_loss: `[]`, mean cross-entropy of the best step on the rows held out; on all rows if there are none.
    """

    scores: jax.Array
    held_out_loss: jax.Array


def attention_scores(
    key: jax.Array | int,
    features: jax.Array,
    labels: jax.Array,
    graph: InstanceGraph,
    num_classes: int,
    *,
    num_heads: int = 8,
    head_width: int = 8,
    num_steps: int = 200,
    learning_rate: float = 5e-3,
    weight_decay: float = 5e-4,
    label_probability: bool = True,
    where: jax.Array | None = None,
) -> AttentionScores:
    """Train two graph attention layers to tell the classes, and return the attention that each row receives.

    The first layer has `num_heads` heads, the second one. Both see the neighbors of a row, not the row itself. A tenth
    of the rows is held out, and the parameters of the step with the least loss on them count; in a table so small that
    no row happens to be held out, those with the least loss on all rows. The score of a row is the sum over rows of
    their attention to it, averaged over heads and then layers.

    Args:
      key: int seed or key of the parameters and the rows held out.
      features: `[N, D]`, floating point; columns are standardized, rows scaled to length 1.
      labels: `[N]`, integers in [0, num_classes); other rows are no training examples.
      graph: of `instance_graphs`; K neighbors of each row.
      num_classes: C, static.
      num_heads: of the first layer, static.
      head_width: of each head of the first layer, static.
      num_steps: of Adam on all rows, static.
      learning_rate: of Adam, positive.
      weight_decay: of the parameters, at least 0.
      label_probability: whether to multiply the score by the probability that the network gives the row's own label,
        which drops rows that look mislabeled.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `AttentionScores(scores, held_out_loss)`.

    Raises:
      TypeError: if features are not floating point, labels not integers or a count is not a static int.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Brody et al., ICLR 2022 (arXiv 2105.14491).

    Examples:
      >>> x, y = jnp.array([[1.0], [2.0], [-1.0], [-2.0]]), jnp.array([0, 0, 1, 1])
      >>> graph = instance_graphs.distance_graph(0, x, y, k=1)
      >>> attention_scores(0, x, y, graph, 2, num_steps=2, label_probability=False).scores.tolist()
      [1.0, 1.0, 1.0, 1.0]
    """
    rows, exists = standardized(features, where)
    size = rows.shape[0]
    check_shape("labels", labels, (size,))
    check_integer("labels", labels)
    check_shape("graph.neighbors", graph.neighbors, (size, None))
    check_shape("graph.weights", graph.weights, graph.neighbors.shape)
    for name, count in (("num_classes", num_classes), ("num_heads", num_heads), ("head_width", head_width)):
        check_count(name, count)
    check_count("num_steps", num_steps)
    check_number("learning_rate", learning_rate, 0, open_low=True)
    check_number("weight_decay", weight_decay, 0)
    first_key, second_key, split_key = jax.random.split(as_key(key), 3)
    layers = (
        init_layer(first_key, rows.shape[1], num_heads, head_width, rows.dtype),
        init_layer(second_key, num_heads * head_width, 1, num_classes, rows.dtype),
    )
    classes = class_numbers(labels, num_classes)
    known = exists & (classes < num_classes)
    held_out = known & (jax.random.uniform(split_key, (size,)) < HELD_OUT)
    judged = jnp.where(jnp.any(held_out), held_out, known)
    labels_of_all = jnp.minimum(classes, num_classes - 1)
    problem = layers, rows, graph, labels_of_all, known & ~held_out, judged
    rates = learning_rate, weight_decay
    values = jnp.concatenate([x.ravel() for x in jax.tree.leaves(layers)])
    start = values, (jnp.zeros_like(values), jnp.zeros_like(values)), values, jnp.full((), jnp.inf, rows.dtype)
    steps = jnp.arange(num_steps, dtype=rows.dtype)
    (_, _, best, loss), _ = scan(bind(_train_step, problem, rates=rates), start, steps)
    logits, attention = _network(_shaped_like(layers, best), rows, graph)
    scores = jnp.mean(jnp.stack([received(graph, a) for a in attention]), axis=0)
    if label_probability:
        own = jnp.take_along_axis(jax.nn.softmax(logits), labels_of_all[:, None], axis=1)[:, 0]
        scores = scores * jnp.where(known, own, 0)
    return AttentionScores(jnp.where(exists, scores, -jnp.inf), loss)


def top_with_all_classes(
    scores: jax.Array,
    labels: jax.Array,
    k: int,
    num_classes: int,
    *,
    where: jax.Array | None = None,
    key: jax.Array | int | None = None,
) -> jax.Array:
    """Return the mask of the k highest scores, with at least one row of each class if k allows.

    Args:
      scores: `[N]`, floating point; one that is not finite is never kept.
      labels: `[N]`, integers in [0, num_classes); a row with another label counts for no class.
      k: how many rows, at most N, static.
      num_classes: C, static.
      where: `[N]` bool, which rows exist; all by default.
      key: int seed or key that breaks ties at random; by default they go to the lowest index.

    Returns:
      `[N]` bool.

    Raises:
      TypeError: if scores are not floating point, labels not integers or a count is not a static int.
      ValueError: if shapes do not match or a count is out of range.

    Examples:
      >>> top_with_all_classes(jnp.array([5.0, 4.0, 3.0, 1.0]), jnp.array([0, 0, 0, 1]), 2, 2).tolist()
      [True, False, False, True]
    """
    check_shape("scores", scores, (None,))
    check_floating("scores", scores)
    check_shape("labels", labels, scores.shape)
    check_integer("labels", labels)
    check_count("k", k, scores.shape[0], "the number of rows")
    check_count("num_classes", num_classes)
    exists = jnp.isfinite(scores) & mask_or_all("where", where, scores.shape)
    ranked = jnp.where(exists, scores.astype(weight_dtype(scores.dtype)), -jnp.inf)
    order = jnp.arange(scores.shape[0])
    if key is not None:
        order = jax.random.permutation(as_key(key), scores.shape[0])
    ranked = ranked[order]
    places = jnp.argsort(-ranked, stable=True)
    rank = jnp.zeros(scores.shape, jnp.int32).at[places].set(jnp.arange(scores.shape[0], dtype=jnp.int32))
    classes = class_numbers(labels, num_classes)[order]
    first = jax.ops.segment_min(jnp.where(ranked > -jnp.inf, rank, scores.shape[0]), classes, num_classes + 1)
    leads = (rank == first[classes]) & (classes < num_classes) & (ranked > -jnp.inf)
    priority = jnp.where(leads, scores.shape[0], 0) - rank
    kept = topk_mask(priority.astype(jnp.float32), k, where=ranked > -jnp.inf)
    return jnp.zeros(scores.shape, bool).at[order].set(kept)


def keep_by_attention(
    k: int,
    num_classes: int,
    key: jax.Array | int,
    *,
    graph: str = "distance",
    weighting: str = "own",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Keep the k rows of a table that receive most attention (GAIS). Signals: `features` [N, D] and `labels` [N].

    Each update draws a graph, trains a small network on all rows, which takes seconds, and keeps at least one row of
    each class if k allows. Ties are broken at random. Rows of weight 0, or that are not finite, take no part.

    Args:
      k: how many rows to keep, static.
      num_classes: C, static; labels outside [0, C) count for no class.
      key: typed PRNG key or int seed.
      graph: "distance", "hash", "multilevel_hash" or "multiview_hash" of `instance_graphs`, with its default numbers.
      weighting: what a kept row weighs: "own", as it came, or "represented", the mean over the kept rows of a class of
        the weights of all its rows, which keeps the mass of each class.
      **options: keywords of `attention_scores`, such as `num_steps`.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, a signal has another kind of dtype.
      ValueError: if a count is out of range, a name is unknown or, in `update`, shapes do not match.

    References:
      Rustamov et al., AI Open 6, 2025 (arXiv 2502.20293).

    Examples:
      >>> tx = keep_by_attention(2, 2, key=0, num_steps=1)
      >>> signals = {"features": jnp.arange(12.0)[:, None], "labels": jnp.repeat(jnp.arange(2), 6)}
      >>> kept, _ = tx.update(jnp.ones(12), tx.init(jnp.ones(12)), **signals)
      >>> float(kept[:6].sum()), float(kept[6:].sum())
      (1.0, 1.0)
    """
    check_count("k", k)
    check_count("num_classes", num_classes)
    check_choice("graph", graph, GRAPHS)
    check_choice("weighting", weighting, ("own", "represented"))
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, labels, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        next_key, graph_key, score_key, tie_key = jax.random.split(state.rng_key, 4)
        exists = weights != 0
        made = _make_graph(graph, graph_key, features, labels, exists)
        found = attention_scores(score_key, features, labels, made, num_classes, where=exists, **options)
        kept = top_with_all_classes(found.scores, labels, k, num_classes, where=exists, key=tie_key)
        if weighting == "own":
            return jnp.where(kept, weights, 0), KeyState(next_key)
        classes = class_numbers(labels, num_classes)
        mass = jax.ops.segment_sum(weights, classes, num_classes + 1)
        count = jax.ops.segment_sum(kept.astype(weights.dtype), classes, num_classes + 1)
        return jnp.where(kept, (mass / nonzero(count))[classes], 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _make_graph(name, key, features, labels, exists):
    size = features.shape[0]
    if name == "distance":
        return instance_graphs.distance_graph(key, features, labels, min(10, size - 1), where=exists)
    make = getattr(instance_graphs, f"{name}_graph")
    return make(key, features, min(5, size - 1), where=exists)


def _shaped_like(layers, values):
    """Return the layers with other values, which are in one vector, so that a step of all is one operation."""
    leaves, structure = jax.tree.flatten(layers)
    ends = itertools.accumulate(x.size for x in leaves)
    return structure.unflatten(values[end - x.size : end].reshape(x.shape) for x, end in zip(leaves, ends))


def _network(layers, rows, graph):
    hidden, first = attention_layer(layers[0], rows, graph)
    logits, second = attention_layer(layers[1], jax.nn.elu(hidden), graph)
    return logits, (first, second)


def _adam_step(values, grads, moments, step, learning_rate):
    """Return a value after a step of Adam, and its moments."""
    first, second = (d * m + (1 - d) * g for d, m, g in zip(DECAYS, moments, (grads, grads**2)))
    mean, square = (m / (1 - d ** (step + 1)) for d, m in zip(DECAYS, (first, second)))
    return values - learning_rate * mean / (jnp.sqrt(square) + 1e-8), (first, second)


def _losses(layers, rows, graph, classes):
    return optax.softmax_cross_entropy_with_integer_labels(_network(layers, rows, graph)[0], classes)


def _mean(losses, where):
    return jnp.sum(jnp.where(where, losses, 0)) / jnp.maximum(jnp.sum(where, dtype=losses.dtype), 1)


def _train_step(problem, state, step, *, rates):
    """Take a step, and keep the parameters that had the least loss on the rows held out."""
    layers, rows, graph, classes, used, held_out = problem
    values, moments, best, least = state
    learning_rate, weight_decay = rates

    def loss(values):
        losses = _losses(_shaped_like(layers, values), rows, graph, classes)
        return _mean(losses, used), _mean(losses, held_out)

    grads, held = jax.grad(loss, has_aux=True)(values)
    best, least = jax.tree.map(functools.partial(jnp.where, held < least), (values, held), (best, least))
    values, moments = _adam_step(values, grads + weight_decay * values, moments, step, learning_rate)
    return (values, moments, best, least), None
