"""Digits of which 40 % of the training labels are wrong: which selections keep a classifier from learning these.

Task: 1438 handwritten digits of 8x8 pixels, 40 % of them with another label, drawn by the seed; a network with one
  hidden layer, trained by SGD. The score is the accuracy on 359 digits with right labels.
Rows: an update differentiates 32 rows. A method that keeps a fixed number is given 64 rows, scores them by a forward
  pass and trains on the 32 that it keeps; one that keeps as many as it likes is given 32. `keep_random` needs no
  scores. Weights are scaled to a sum of 1, so that no method takes longer steps than another.
  The first sixth of the compute goes to uniform rows whatever the method, as most choose by what the network knows.
Signals: losses, logits, features (the hidden layer), gradient norms of the last layer, labels, the number of each
  example, and losses under a reference model. That one has a quarter of the hidden units and is trained on a fifth of
  the digits, with wrong labels as well, on which the method that reads it is not trained.
Tuning: the learning rate is the best of 0.01, 0.02, 0.05, 0.1, 0.2 and 0.4 for uniform rows, by the accuracy on a fifth
  of the training set that is held out, with seeds 100, 101 and 102 (`--validate`). Every method takes it, and its own
  default arguments.
"""

import functools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays
from experiments.engine import gradient_arm, init_mlp, minimize, mlp, with_wrong_labels, without_losses
from experiments.leaderboard._race import Entry, Method, Outcome, made, name_of, race
from experiments.leaderboard._signals import missing_signals
from minibatch_jax import normalize, selection, value_and_grad
from minibatch_jax.scores import last_layer_gradients
from minibatch_jax.selection.contamination import ngram_set

NOUN = "selection"
BASELINE = "uniform"
CLASSES, PIXELS, KEEP, TRAIN = 10, 64, 32, 1438
METHODS: tuple[Method, ...] = (
    partial(selection.keep_below, threshold=round(math.log(CLASSES), 2)),
    partial(selection.keep_bottomk, k=KEEP),
    selection.keep_by_adaptive_k,
    partial(selection.keep_by_alignment, k=KEEP),
    partial(selection.keep_by_attention, k=KEEP, num_classes=CLASSES),
    partial(selection.keep_by_badge, k=KEEP),
    partial(selection.keep_by_batch_bald, k=KEEP),
    partial(selection.keep_by_class_balance, k=KEEP),
    partial(selection.keep_by_colm, k=KEEP, num_domains=CLASSES),
    partial(selection.keep_by_concept_balance, k=KEEP, num_concepts=CLASSES),
    partial(selection.keep_by_concept_count, k=KEEP),
    partial(selection.keep_by_contrast, k=KEEP),
    partial(selection.keep_by_discrimination, k=KEEP),
    partial(selection.keep_by_gradient_match, k=KEEP),
    partial(selection.keep_by_gradient_norm, k=KEEP),
    partial(selection.keep_by_importance, k=KEEP),
    partial(selection.keep_by_influence, fraction=0.5),
    partial(selection.keep_by_jest, k=KEEP, num_chunks=8),
    partial(selection.keep_by_k_means, k=KEEP),
    partial(selection.keep_by_loss_rank, power=1.0),
    partial(selection.keep_by_power, fraction=0.5, alpha=1.0),
    partial(selection.keep_by_prob_cover, k=KEEP, radius=0.5),
    partial(selection.keep_by_quota, k=KEEP, num_domains=CLASSES),
    partial(selection.keep_by_reducible_loss, k=KEEP),
    partial(selection.keep_by_teacher_student, num_classes=CLASSES),
    partial(selection.keep_by_typi_clust, k=KEEP, num_clusters=KEEP),
    partial(selection.keep_centers, k=KEEP),
    partial(selection.keep_class_medoids, k=KEEP, num_classes=CLASSES),
    partial(selection.keep_disputed, k=KEEP),
    selection.keep_distinct,
    selection.keep_distinct_by_cosine,
    partial(selection.keep_diverse, k=KEEP),
    partial(selection.keep_lightweight_coreset, k=KEEP),
    partial(selection.keep_medoids, k=KEEP),
    partial(selection.keep_near_anchors, k=KEEP, num_classes=CLASSES),
    selection.keep_near_labeled,
    partial(selection.keep_new_centers, k=KEEP),
    partial(selection.keep_random, k=KEEP),
    partial(selection.keep_topk, k=KEEP),
    partial(selection.keep_uncertain, k=KEEP),
    partial(selection.keep_unlearned, num_examples=TRAIN),
    partial(selection.keep_without_overlap, test_ngrams=ngram_set(jnp.arange(13)[None])),
    selection.reweigh_by_alignment,
    selection.reweigh_by_clipped_surrogate,
    partial(selection.reweigh_by_guidance, num_features=64),
)
NO_ENTRY = {
    "keep_inconsistent": "it is for examples with several labels each",
    "keep_nearest_in_turn": "it needs rows of a target to be near to, and the task has none",
}
"""factories of the noun that no signal would bring in"""
FROM_MODEL = {"losses", "logits", "features", "gradient_norms"}
"""signals that a forward pass gives"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every method."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/leaderboard/label_noise"
    arms: tuple[str, ...] = ()
    """names of the methods to run; empty: all"""
    budget: int = 252_000
    """compute of a run, in rows forwarded + 2 x rows differentiated: 2625 updates on 32 uniform rows"""
    hidden: int = 64
    learning_rate: float = 0.02
    noise: float = 0.4
    reference_hidden: int = 16
    reference_updates: int = 1500
    validate: bool = False
    """test on the last fifth of the training set, which is not trained on: for tuning"""


def main(config: Config) -> Outcome:
    """Run the methods whose signals the task has."""
    optimizer = optax.sgd(config.learning_rate)
    missing = {name_of(m): missing_signals(made(m, 0), *abstract(config, m)) for m in METHODS}
    entries = {BASELINE: entry(config, optimizer, None)}
    entries |= {name_of(m): entry(config, optimizer, m) for m in METHODS if not missing[name_of(m)]}
    better = {"test_accuracy": "higher"}
    options: Any = {"baseline": BASELINE, "better": better, "warm_up": entries[BASELINE]}
    return Outcome(race(config, entries, partial(data, config), evaluate, **options), missing)


def entry(config: Config, optimizer: optax.GradientTransformation, method: Method | None) -> Entry:
    """The arm and the costs of a method, of uniform rows if it is None."""
    keeps_k = isinstance(method, partial) and "k" in method.keywords
    read = set() if method is None else reads(config, method)
    rows = 2 * KEEP if keeps_k else KEEP

    def transformation(key):
        return normalize() if method is None else optax.chain(made(method, key), normalize())

    score_fn = None if read & FROM_MODEL or not keeps_k else without_losses
    selected = value_and_grad(
        scored, transformation(0), has_aux=True, gather=KEEP if keeps_k else None, score_fn=score_fn
    )

    def start(key):
        params_key, key = jax.random.split(key)
        params = init_mlp(params_key, (PIXELS, config.hidden, CLASSES))
        return {"params": params, "selection_state": transformation(key).init(jnp.zeros(rows))}

    def gradient(state, batch):
        given = {"example_ids": batch["index"], "reference_losses": batch["reference_losses"], "labels": batch["label"]}
        _, grads, selection_state = selected(state.params, batch, state.selection_state, **given)
        return grads, {"selection_state": selection_state}, {}

    uses_reference = "reference_losses" in read
    arm = gradient_arm(optimizer, start, gradient, "train_without_holdout" if uses_reference else "train")
    cost = 3 * KEEP + (rows if keeps_k and score_fn is None else 0)
    return Entry(arm, rows, cost, reference_cost(config) if uses_reference else 0.0)


def scored(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Losses `[B]`, and what else a forward pass gives."""
    features = jax.nn.relu(mlp(params[:-1], batch["image"]))
    logits = mlp(params[-1:], features)
    errors = jnp.linalg.norm(last_layer_gradients(logits, batch["label"]), axis=1)
    norms = errors * jnp.sqrt(1 + jnp.sum(features**2, axis=1))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses, {"logits": logits, "features": features, "gradient_norms": norms}


def abstract(config: Config, method: Method) -> tuple[Any, dict[str, Any]]:
    """Shapes of the weights that a method starts with, and of the signals of this task."""
    rows = 2 * KEEP if isinstance(method, partial) and "k" in method.keywords else KEEP
    params = jax.eval_shape(lambda: init_mlp(jax.random.key(0), (PIXELS, config.hidden, CLASSES)))
    label, loss = (jax.ShapeDtypeStruct((rows,), dtype) for dtype in (jnp.int32, jnp.float32))
    image = jax.ShapeDtypeStruct((rows, PIXELS), jnp.float32)
    losses, signals = jax.eval_shape(scored, params, {"image": image, "label": label})
    return loss, {**signals, "losses": losses, "labels": label, "example_ids": label, "reference_losses": loss}


def reads(config: Config, method: Method) -> set[str]:
    """The signals of this task without which the method would not run."""
    weights, signals = abstract(config, method)
    rest = {name: {k: v for k, v in signals.items() if k != name} for name in signals}
    return {name for name in signals if name in missing_signals(made(method, 0), weights, rest[name])}


def reference_cost(config: Config) -> float:
    """Rows of the trained model that cost as much as to train the reference and to score all rows by it once."""
    ratio = config.reference_hidden / config.hidden  # of the FLOPs of a forward pass; all lie in the two layers
    return ratio * (3 * KEEP * config.reference_updates + TRAIN)


def data(config: Config, seed: int) -> dict[str, Any]:
    """Splits train, train_without_holdout (with the losses of a reference that learned from the holdout) and test."""
    parts = ("train[:80%]", "train[80%:]") if config.validate else ("train", "test")
    train, test = (flat(arrays("digits", part)) for part in parts)
    noisy = {**train, "label": with_wrong_labels(train["label"], config.noise, CLASSES, seed)}
    held_out = np.random.default_rng([seed, 1]).permutation(len(noisy["label"])) < len(noisy["label"]) // 5
    holdout, rest = ({k: jnp.asarray(v[rows]) for k, v in noisy.items()} for rows in (held_out, ~held_out))
    reference = fit_reference(config, jax.random.key(seed), holdout)
    return {
        "train": {**noisy, "reference_losses": np.zeros(len(noisy["label"]), np.float32)},
        "train_without_holdout": {**rest, "reference_losses": scored(reference, rest)[0]},
        "test": test,
    }


def flat(examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images `[N, 64]` with pixels in [0, 1], and labels."""
    return {"image": examples["image"].reshape(-1, PIXELS).astype(np.float32) / 16, "label": examples["label"]}


@functools.partial(jax.jit, static_argnums=0)
def fit_reference(config: Config, key: jax.Array, holdout: dict[str, jax.Array]) -> Any:
    """A smaller network that learned from the holdout."""
    init_key, key = jax.random.split(key)
    params = init_mlp(init_key, (PIXELS, config.reference_hidden, CLASSES))
    rows = jax.random.randint(key, (config.reference_updates, KEEP), 0, len(holdout["label"]))

    def gradient(params, rows):
        batch = jax.tree.map(lambda x: x[rows], holdout)
        return jax.grad(lambda p: jnp.mean(scored(p, batch)[0]))(params)

    return minimize(optax.sgd(config.learning_rate), gradient, params, rows)


@jax.jit
def evaluate(state, data):
    """Accuracy on right labels."""
    found = jnp.argmax(mlp(state.params, data["test"]["image"]), axis=1)
    return {"test_accuracy": jnp.mean(found == data["test"]["label"])}
