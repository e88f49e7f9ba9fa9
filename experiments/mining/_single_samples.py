"""Training by isolated pairs of query and document, or by groups of pairs that are on the device together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine import Arm, State, descend, init_mlp, mlp
from minibatch_jax.metrics import nearest_positive_ranks
from minibatch_jax.mining import info_nce_loss, normalize_embeddings, orthogonal_pair_loss


class Tuned(NamedTuple):
    """Learning rate, and temperature or share of negatives, best on held-out training rows with seed 10."""

    learning_rate: float
    setting: float


class Method(NamedTuple):
    """One way to learn from rows of (query, document).

    `prepare(key, rows, setting)` gives items, whose number may differ; `loss(params, group, setting)` is the loss of
    `size` items that are on the device together. The gradients of all groups of a batch are averaged, or each is
    followed by a step of its own.
    """

    prepare: Callable[[jax.Array, Any, float], Any]
    loss: Callable[[Any, Any, float], jax.Array]
    size: int
    step_for_each: bool = False


def untrained(config: Any, test: dict[str, Any]) -> dict[str, Callable[[int], dict[str, jax.Array]]]:
    """Retrieval of the test rows by the inputs themselves and by encoders that were not trained, for `compare`."""
    pair = [jnp.asarray(test[name]) for name in ("query", "document")]

    def initial(seed):
        params = init_mlp(jax.random.split(jax.random.key(seed))[0], layer_sizes(config, pair[0].shape[1]))
        return retrieval(*(embed(params, x) for x in pair))

    return {"inputs": lambda seed: retrieval(*map(normalize_embeddings, pair)), "untrained": initial}


def arm(config: Any, inputs: int, tuned: Tuned, method: Method) -> Arm:
    """Adam on the mean gradient of the groups of a batch, or on the gradient of each group in turn.

    The config has `steps`, `batch_size`, `hidden`, `dimensions`, and `learning_rate` and `setting`, which may be None.
    """
    setting = tuned.setting if config.setting is None else config.setting
    rate = config.learning_rate or tuned.learning_rate
    updates_per_step = config.batch_size // method.size if method.step_for_each else 1
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, config.steps * updates_per_step))

    def init(key):
        params_key, key = jax.random.split(key)
        params = init_mlp(params_key, layer_sizes(config, inputs))
        return State(params, optimizer.init(params), keys=key)

    def step(state, batch):
        key, draw = jax.random.split(state.keys)
        rows = {name: rows for name, rows in batch.items() if name != "index"}
        items = method.prepare(draw, rows, setting)
        groups = in_groups(items, method.size)
        calls = (
            jax.tree.map(lambda x: x[:, None], groups)
            if method.step_for_each
            else jax.tree.map(lambda x: x[None], groups)
        )

        def update(carry, groups):
            grads = jax.grad(mean_loss)(carry[0], groups, method.loss, setting)
            return descend(optimizer, grads, *carry), optax.tree.norm(grads)

        (params, opt_state), norms = jax.lax.scan(update, (state.params, state.opt_state), calls)
        return state._replace(params=params, opt_state=opt_state, keys=key), {"gradient_norm": jnp.mean(norms)}

    return Arm(init, step)


def layer_sizes(config: Any, inputs: int) -> tuple[int, ...]:
    """Of the encoder, which queries and documents share; without hidden units it is linear."""
    return (inputs, config.hidden, config.dimensions) if config.hidden else (inputs, config.dimensions)


def embed(params, inputs: Any) -> jax.Array:
    """Unit vectors `[B, D]`."""
    return normalize_embeddings(mlp(params, jnp.asarray(inputs)))


def in_groups(items, size: int):
    """Arrays `[B, ...]` to `[B / size, size, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), items)


def mean_loss(params, groups, loss: Callable[[Any, Any, float], jax.Array], setting: float) -> jax.Array:
    """Mean over the groups: its gradient is what gradient accumulation, one group at a time, arrives at."""
    return jnp.mean(jax.vmap(lambda group: loss(params, group, setting))(groups))


def as_they_are(key: jax.Array, rows, setting: float):
    """The rows themselves."""
    del key, setting
    return rows


def isolated_pairs(key: jax.Array, rows, share: float):
    """Each query with its own document or, with probability `share`, that of the next row, which is a random one."""
    positive = jax.random.uniform(key, (len(rows["query"]),)) >= share
    other = jnp.roll(rows["document"], -1, axis=0)
    return {**rows, "document": jnp.where(positive[:, None], rows["document"], other), "positive": positive}


def with_a_negative(key: jax.Array, rows, setting: float):
    """Queries with their own document and that of the next row; two thirds of the rows, for equally many encodings."""
    del key, setting
    other = jnp.roll(rows["document"], -1, axis=0)
    return jax.tree.map(lambda x: x[: 2 * len(x) // 3], {**rows, "other": other})


def info_nce(params, group, temperature: float) -> jax.Array:
    """Each query against all the documents of the group."""
    similarities = embed(params, group["query"]) @ embed(params, group["document"]).T
    positives = jnp.eye(len(similarities), dtype=bool)
    return info_nce_loss(similarities, positives, ~positives, temperature=temperature)


def info_nce_of_sampled(params, group, temperature: float) -> jax.Array:
    """Each query against its document and one other."""
    query = embed(params, group["query"])
    both = [jnp.sum(query * embed(params, group[name]), axis=1) for name in ("document", "other")]
    positives = jnp.broadcast_to(jnp.array([True, False]), (len(query), 2))
    return info_nce_loss(jnp.stack(both, axis=1), positives, ~positives, temperature=temperature)


def orthogonal(params, group, share: float) -> jax.Array:
    """Squared distance of the cosine of a pair from 1 or, if the document is another query's, from 0."""
    del share
    cosines = jnp.sum(embed(params, group["query"]) * embed(params, group["document"]), axis=1, keepdims=True)
    positives = group["positive"][:, None]
    return orthogonal_pair_loss(cosines, positives, ~positives)


def retrieval(queries: jax.Array, documents: jax.Array) -> dict[str, jax.Array]:
    """Of each query's only document among all documents, and how the cosines of pairs and of others differ."""
    number = len(queries)
    ranks = nearest_positive_ranks(queries, jnp.arange(number), documents, jnp.arange(number))
    gain = jnp.where(ranks < 10, 1 / jnp.log2(2.0 + ranks), 0)
    cosines = queries @ documents.T
    own = jnp.trace(cosines)
    return {
        "recall_at_1": jnp.mean(ranks < 1),
        "ndcg_at_10": jnp.mean(gain),
        "cosine_of_pairs": own / number,
        "cosine_of_others": (jnp.sum(cosines) - own) / (number * (number - 1)),
    }


METHODS = {
    **{f"InfoNCE, batches of {size}": Method(as_they_are, info_nce, size) for size in (1, 2, 8, 32)},
    "InfoNCE, a sampled negative": Method(with_a_negative, info_nce_of_sampled, 1),
    "orthogonal, single pairs": Method(isolated_pairs, orthogonal, 1),
    "orthogonal, a step for each pair": Method(isolated_pairs, orthogonal, 1, step_for_each=True),
}
