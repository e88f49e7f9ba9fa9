"""Contrastive training where only one pair of query and document fits on the device, by orthogonal pairs.

Claim: in a batch of one, InfoNCE has no negatives and learns nothing; pulling the cosine of isolated pairs to 1 or, if
  the document is another query's, to 0 learns there, and comes close to InfoNCE with a large batch.
Data: Google's drawing of an emoji is the query, Twitter's the document; 1482 pairs to train on, 370 to search among.
  First `python -m experiments.datasets fetch emoji emoji_twitter emoji_apple emoji_facebook` (338 MB).
Command: `python -m experiments single_sample_batches`
Minutes: 1.5 on one CPU core
Expected: mean ± standard error over 3 seeds of initial parameters and batches (the emoji are the same):

  arm                               recall@1        nDCG@10         cosine of pairs, others
  InfoNCE, batches of 1             0.347 ± 0.005   0.464 ± 0.007   0.71, 0.43
  InfoNCE, batches of 2             0.487 ± 0.014   0.634 ± 0.006   0.67, 0.01
  InfoNCE, batches of 8             0.528 ± 0.009   0.665 ± 0.003   0.64, 0.04
  InfoNCE, batches of 32            0.540 ± 0.005   0.663 ± 0.002   0.59, 0.00
  InfoNCE, a sampled negative       0.459 ± 0.005   0.614 ± 0.006   0.78, 0.31
  orthogonal, single pairs          0.492 ± 0.007   0.639 ± 0.008   0.67, 0.06
  orthogonal, a step for each pair  0.514 ± 0.008   0.650 ± 0.003   0.66, 0.06
  untrained                         0.347 ± 0.005   0.464 ± 0.007   0.71, 0.43
  the pixels themselves             0.497           0.591           0.63, 0.15

  Reproduced: the gradient of InfoNCE in batches of 1 is exactly 0 and it stays untrained. Orthogonal pairs are worth
  InfoNCE in batches of 2 with gradient accumulation, and somewhat more if every pair has a step of its own.
  Partly: they close 88 % (93 % with a step for each pair) of the gap in nDCG@10 between no training and batches of 32,
  but in recall@1 single pairs are no better than the pixels, and batches of 8 are ahead of them by both metrics.
  Batches of 32 are no better than batches of 8 at the end, only faster: 0.66 takes 300 steps, not 900.
  One sampled negative is no way out for InfoNCE here: at equal cost it is behind the orthogonal pairs.
Verdict: partly: orthogonal pairs learn where InfoNCE cannot, but stay behind InfoNCE in batches of 8, and by recall@1
  single pairs are no better than the pixels.
Cost: equal in examples. Each step reads 32 rows and encodes 64 images (63 for the sampled negative, 21 rows of three);
  smaller batches are groups of these rows whose gradients are averaged, which is gradient accumulation. A step for each
  pair makes 32 times as many optimizer steps and took 2.6 times as long.
Tuning: learning rate {3e-4, 1e-3, 3e-3}, and {0.05, 0.1, 0.3} for the temperature or {0.5, 0.75, 0.9} for the share of
  negatives, each arm for itself, by nDCG@10 with --validate and seed 10; for a step for each pair {3e-5, 1e-4, 3e-4}
  and {0.5, 0.75}; batches of 1 not at all. A share of 0.75 beat 0.5, the paper's balance, by 0.02 for single pairs.
Reference: Saad-Falcon et al., Benchmarking and building long-context retrieval models with LoCo and M2-BERT, 2024
  (arXiv 2402.07440).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import Arm, State, compare, descend, init_mlp, mlp, run
from experiments.mining._emoji import emoji_rows
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


TUNED = {
    "InfoNCE, batches of 1": Tuned(1e-3, 0.1),
    "InfoNCE, batches of 2": Tuned(1e-3, 0.1),
    "InfoNCE, batches of 8": Tuned(1e-3, 0.05),
    "InfoNCE, batches of 32": Tuned(1e-3, 0.1),
    "InfoNCE, a sampled negative": Tuned(1e-3, 0.05),
    "orthogonal, single pairs": Tuned(1e-3, 0.75),
    "orthogonal, a step for each pair": Tuned(1e-4, 0.75),
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in how they use a batch, and in what was tuned for each."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/single_sample_batches"
    arms: tuple[str, ...] = ()
    steps: int = 1200
    batch_size: int = 32
    """pairs of query and document read for each step, in every arm"""
    evaluate_every: int = 100
    checkpoint_every: int = 600
    hidden: int = 128
    dimensions: int = 64
    learning_rate: float | None = None
    """of Adam; None: as tuned for each arm"""
    setting: float | None = None
    """temperature of InfoNCE, or share of negatives among the orthogonal pairs; None: as tuned for each arm"""
    validate: bool = False
    """hold out a fifth of the training rows and search among those: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    methods = {
        **{f"InfoNCE, batches of {size}": Method(as_they_are, info_nce, size) for size in (1, 2, 8, 32)},
        "InfoNCE, a sampled negative": Method(with_a_negative, info_nce_of_sampled, 1),
        "orthogonal, single pairs": Method(isolated_pairs, orthogonal, 1),
        "orthogonal, a step for each pair": Method(isolated_pairs, orthogonal, 1, step_for_each=True),
    }
    splits = rows_of(config.validate)
    inputs = splits["train"]["query"].shape[1]
    arms = {name: arm(config, inputs, TUNED[name], method) for name, method in methods.items()}

    @jax.jit
    def evaluate(state, data):
        return retrieval(embed(state.params, data["test"]["query"]), embed(state.params, data["test"]["document"]))

    records = run(config, arms, lambda seed: splits, evaluate, steps_per_call=20)
    test = splits["test"]

    def untrained(seed):
        params = init_mlp(jax.random.split(jax.random.key(seed))[0], layer_sizes(config, inputs))
        return retrieval(embed(params, test["query"]), embed(params, test["document"]))

    def raw(seed):
        return retrieval(*(normalize_embeddings(jnp.asarray(test[name])) for name in ("query", "document")))

    compare(
        dataclasses.replace(config, out=str(Path(config.out) / "without_training"), arms=()),
        {"inputs": raw, "untrained": untrained},
    )
    return records


def arm(config: Config, inputs: int, tuned: Tuned, method: Method) -> Arm:
    """Adam on the mean gradient of the groups of a batch, or on the gradient of each group in turn."""
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
        items = method.prepare(draw, {"query": batch["query"], "document": batch["document"]}, setting)
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


def layer_sizes(config: Config, inputs: int) -> tuple[int, ...]:
    """Of the encoder, which queries and documents share."""
    return inputs, config.hidden, config.dimensions


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


def rows_of(validate: bool) -> dict[str, dict[str, np.ndarray]]:
    """Splits train and test: Google's drawings of emoji as `query` and Twitter's as `document`, both `[N, 768]`.

    The images are averaged to 16x16 pixels and standardized by all pixels of the training set.
    """
    train, test = (emoji_rows(split)["image"][:, :2] for split in ("train", "test"))
    if validate:
        cut = len(train) * 4 // 5
        train, test = train[:cut], train[cut:]
    scaled = {name: (x - train.mean()) / train.std() for name, x in (("train", train), ("test", test))}
    return {name: {"query": x[:, 0], "document": x[:, 1]} for name, x in scaled.items()}
