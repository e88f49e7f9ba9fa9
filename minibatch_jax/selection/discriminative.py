"""Which unlabeled examples to label next: those that a classifier tells apart from the labeled ones.

If labeled and unlabeled examples could not be told apart, the labeled ones would stand for all. So a small classifier
learns to tell them apart, and the examples that it is surest are unlabeled come next. They join the labeled ones, and
the classifier starts anew, a few rounds long, so that the choice is diverse.

References:
  Gissin & Shalev-Shwartz, Discriminative active learning, 2019 (arXiv 1907.06347).

Method: discriminative active learning
Paper: 1907.06347
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_number, check_whole
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._labeled_rows import labeled_or_none, pool_and_references
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.weights import KeyState, weight_transformation

PICKS = ("greedy", "gumbel")
_MOST_UNLABELED = 10  # for each labeled example
_TEMPERATURE = 0.01  # of the draws


def discriminative_indices(
    key: jax.Array | int,
    features: jax.Array,
    k: int,
    labeled: jax.Array,
    *,
    where: jax.Array | None = None,
    num_rounds: int = 10,
    num_steps: int = 100,
    batch_size: int = 128,
    hidden: int = 0,
    learning_rate: float | jax.Array = 0.1,
    pick: str = "greedy",
) -> jax.Array:
    """Choose k examples in rounds, always those that a classifier is surest are unlabeled.

    In each round a new classifier takes `num_steps` steps of gradient descent with momentum 0.9 on batches of labeled
    examples, with those chosen in earlier rounds, and of unlabeled ones, of which at most ten for each labeled one take
    part, drawn at random. Then
    k // num_rounds examples are chosen, in the last round all that are missing. Features are standardized first.
    Without a labeled example there is nothing to tell apart, and the first round is random. O(num_rounds (num_steps
    batch_size + N) D) time.

    Args:
      key: int seed or key.
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows, is never chosen.
      k: how many to choose, 1 <= k <= N, static.
      labeled: `[N]` bool, rows that have a label.
      where: `[N]` bool, which rows exist; all by default.
      num_rounds: how many rounds, at most k, static.
      num_steps: steps of a classifier, static.
      batch_size: examples of a step, static.
      hidden: width of the hidden layer; 0 for logistic regression, static.
      learning_rate: of gradient descent.
      pick: "greedy" for the examples with the highest scores, or "gumbel" to draw them without replacement, with
        probabilities proportional to `exp(100 score)`, for a choice that is less of a kind.

    Returns:
      `[k]` int32, distinct; N, one past the end, where no row was left.

    Raises:
      TypeError: if the features are not floating point, a count is not a static int, a mask is not bool or the key is
        no key.
      ValueError: if shapes do not match, a number is out of range or the pick is unknown.

    References:
      Gissin & Shalev-Shwartz, 2019 (arXiv 1907.06347).

    Examples:
      >>> rows = jnp.array([[0.0], [0.1], [0.2], [5.0], [0.3], [0.1]])
      >>> labeled = jnp.array([True, True, False, False, False, False])
      >>> discriminative_indices(0, rows, 1, labeled, num_rounds=1).tolist()
      [3]
    """
    rows, exists = usable_features(features, where)
    size = rows.shape[0]
    check_count("k", k, size, "the number of rows")
    _check(k, num_rounds, num_steps, batch_size, hidden, learning_rate, pick)
    known = labeled_or_none("labeled", labeled, exists)
    count = nonzero(jnp.sum(exists, dtype=rows.dtype))
    rows = jnp.where(exists[:, None], rows - jnp.sum(rows, axis=0)[None] / count, 0)
    deviations = jnp.sqrt(jnp.sum(rows**2, axis=0) / count)
    rows = rows / nonzero(deviations)[None]
    step = bind(
        _round,
        as_key(key),
        rows,
        exists,
        jnp.asarray(learning_rate, rows.dtype),
        each=k // num_rounds,
        num_rounds=num_rounds,
        num_steps=num_steps,
        batch_size=batch_size,
        hidden=hidden,
        pick=pick,
    )
    return fori_loop(0, num_rounds, step, (jnp.full(k, size, jnp.int32), known))[0]


def keep_by_discrimination(
    k: int,
    key: jax.Array | int,
    *,
    num_rounds: int = 10,
    num_steps: int = 100,
    batch_size: int = 128,
    hidden: int = 0,
    learning_rate: float | jax.Array = 0.1,
    pick: str = "greedy",
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that a classifier tells best apart from the labeled ones, weights unchanged.

    Signals: `features`, `reference_features` and `reference_labels`. Over the weights `[N]` of a pool, with 0 for what
    has a label, these are the next examples to label. The references are the labeled examples, and one whose label is
    negative is padding. If fewer than k examples have a weight, all of them are kept. Examples with a feature that is
    not finite, or with a squared norm that overflows, are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed.
      num_rounds: how many rounds, at most k, static.
      num_steps: steps of a classifier, static.
      batch_size: examples of a step, static.
      hidden: width of the hidden layer; 0 for logistic regression, static.
      learning_rate: of gradient descent.
      pick: "greedy" for the examples with the highest scores, or "gumbel" to draw them.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the features are not floating point.
      ValueError: if a number is out of range, the pick is unknown or, in `update`, k > N or the shapes of the signals
        do not match.

    References:
      Gissin & Shalev-Shwartz, 2019 (arXiv 1907.06347).

    Examples:
      >>> tx = keep_by_discrimination(1, key=0, num_rounds=1)
      >>> labeled = {"reference_features": jnp.array([[0.0], [0.1]]), "reference_labels": jnp.array([0, 1])}
      >>> features = jnp.array([[0.2], [5.0], [0.3], [0.1]])
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, **labeled)[0].tolist()
      [0.0, 1.0, 0.0, 0.0]
    """
    check_count("k", k)
    _check(k, num_rounds, num_steps, batch_size, hidden, learning_rate, pick)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_count("k", k, weights.shape[0], "the number of examples")
        next_key, draw_key = jax.random.split(state.rng_key)
        rows, exists, labeled = pool_and_references(weights, features, reference_features, reference_labels)
        indices = discriminative_indices(
            draw_key,
            rows,
            k,
            labeled,
            where=exists,
            num_rounds=num_rounds,
            num_steps=num_steps,
            batch_size=batch_size,
            hidden=hidden,
            learning_rate=learning_rate,
            pick=pick,
        )
        return keep_rows(weights, indices), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _check(k, num_rounds, num_steps, batch_size, hidden, learning_rate, pick):
    check_count("num_rounds", num_rounds, k, "k")
    check_count("num_steps", num_steps)
    check_count("batch_size", batch_size)
    check_whole("hidden", hidden)
    check_number("learning_rate", learning_rate, 0, open_low=True)
    check_choice("pick", pick, PICKS)


def _round(key, rows, exists, learning_rate, t, state, *, each, num_rounds, num_steps, batch_size, hidden, pick):
    indices, known = state
    k, size = indices.shape[0], rows.shape[0]
    sample_key, start_key, train_key, pick_key = jax.random.split(jax.random.fold_in(key, t), 4)
    free = exists & ~known
    numbers = jnp.arange(size, dtype=jnp.int32)
    luck = jnp.where(free, jax.random.permutation(sample_key, numbers), size)
    wanted = jnp.maximum(_MOST_UNLABELED * jnp.sum(known, dtype=jnp.int32), 1)
    taken = known | (free & (jnp.argsort(jnp.argsort(luck)).astype(jnp.int32) < wanted))
    order = jnp.argsort(~taken, stable=True).astype(jnp.int32)
    params = _start(start_key, rows.shape[1], hidden, rows.dtype)
    optimizer_state = _optimizer(learning_rate).init(params)
    count = jnp.maximum(jnp.sum(taken, dtype=jnp.int32), 1)
    train = bind(_train, train_key, rows, known, order, count, learning_rate, batch_size=batch_size)
    params, _ = fori_loop(0, num_steps, train, (params, optimizer_state))
    scores = jnp.where(jnp.any(known), _scores(params, rows), 0)
    if pick == "gumbel":
        scores = scores / _TEMPERATURE + jax.random.gumbel(pick_key, (size,), rows.dtype)
    shuffled = jax.random.permutation(pick_key, numbers)  # ties are broken at random
    most = k - (num_rounds - 1) * each  # the last round takes the rest
    ranked = jnp.where(free & jnp.isfinite(scores), scores, -jnp.inf)[shuffled]
    found, places = jax.lax.top_k(ranked, most)
    number = jnp.arange(most, dtype=jnp.int32)
    now = (number < jnp.where(t == num_rounds - 1, most, each)) & (found > -jnp.inf)
    new = jnp.where(now, shuffled[places], size).astype(jnp.int32)
    return indices.at[jnp.where(now, t * each + number, k)].set(new, mode="drop"), known.at[new].set(True, mode="drop")


def _start(key, width, hidden, dtype):
    if hidden == 0:
        return {"w": jnp.zeros(width, dtype), "b": jnp.zeros((), dtype)}
    keys = jax.random.split(key)
    into = jax.random.normal(keys[0], (width, hidden), dtype) * (2 / width) ** 0.5
    out = jax.random.normal(keys[1], (hidden,), dtype) * (1 / hidden) ** 0.5
    return {"in": into, "in_b": jnp.zeros(hidden, dtype), "w": out, "b": jnp.zeros((), dtype)}


def _optimizer(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def _scores(params, rows):
    """Return the logit `[N]` that a row is unlabeled."""
    if "in" in params:
        rows = jax.nn.relu(product(rows, params["in"]) + params["in_b"][None])
    return product(rows, params["w"]) + params["b"]


def _train(key, rows, known, order, count, learning_rate, t, state, *, batch_size):
    params, optimizer_state = state
    places = order[jax.random.randint(jax.random.fold_in(key, t), (batch_size,), 0, count, jnp.int32)]
    targets = (~known[places]).astype(rows.dtype)

    def loss(params):
        return jnp.mean(optax.sigmoid_binary_cross_entropy(_scores(params, rows[places]), targets))

    updates, optimizer_state = _optimizer(learning_rate).update(jax.grad(loss)(params), optimizer_state)
    return optax.apply_updates(params, updates), optimizer_state
