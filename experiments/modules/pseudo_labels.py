"""Pseudo-labels from 10 to 400 labels: naive, then balanced, with mixup, and with a quota of labeled rows."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, init_mlp, mlp
from experiments.engine.panels import draw_panels
from experiments.shared.fashion import fashion
from minibatch_jax import sampling, value_and_grad
from minibatch_jax.modules import (
    class_balance,
    init_soft_labels,
    mean_entropy,
    mixup,
    mosaic,
    publish_soft_labels,
    write_soft_labels,
)
from minibatch_jax.modules.mixed_examples import MixedExamples
from minibatch_jax.modules.pseudo_labels import SoftLabels

CLASSES = 10
LABELS = "labels only"
BALANCE, ENTROPY = 0.8, 0.4
"""weights of the two terms, the paper's"""


class Method(NamedTuple):
    """What is added to training on the labeled rows."""

    pseudo: bool = True
    balance: bool = False
    mix: str = ""
    quota: int = 0
    """labeled rows of a batch; 0: by chance"""


ARMS = {
    LABELS: Method(pseudo=False),
    "labels only, mixup": Method(pseudo=False, mix="mixup"),
    "naive": Method(),
    "+ balance": Method(balance=True),
    "+ mixup": Method(balance=True, mix="mixup"),
    "+ quota 16": Method(balance=True, mix="mixup", quota=16),
}
MORE = {
    "+ quota 4": Method(balance=True, mix="mixup", quota=4),
    "+ quota 32": Method(balance=True, mix="mixup", quota=32),
    "+ quota 16, Mosaic": Method(balance=True, mix="mosaic", quota=16),
}
RATES = dict.fromkeys(ARMS | MORE, 0.1)


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in their method, and all take the same number of updates."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/pseudo_labels"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    tasks: tuple[str, ...] = (
        "fashion_mnist 40",
        "fashion_mnist 10",
        "fashion_mnist 100",
        "fashion_mnist 400",
        "mnist 10",
        "mnist 40",
        "mnist 100",
        "mnist 400",
    )
    """data set and number of labels; the first has the further quotas and Mosaic"""
    examples: int = 3000
    """rows of the training set, labeled and unlabeled"""
    test_examples: int = 5000
    batch_size: int = 100
    warmup: int = 100
    """updates on labeled rows alone"""
    steps: int = 1000
    evaluate_every: int = 100
    pool: int = 2
    hidden: int = 256
    learning_rate: float | None = None
    """of SGD with momentum 0.9; None: as tuned for each arm"""
    weight_decay: float = 1e-4
    validate: bool = False
    """test on images left out of the training set: for tuning"""


class Run(NamedTuple):
    """What changes in a run."""

    params: Any
    opt_state: Any
    places: Any
    memory: SoftLabels
    key: jax.Array


def main(config: Config):
    """Train all arms on all tasks, report each, and draw them side by side."""
    names = {task.split()[0] for task in config.tasks}
    images = {name: fashion(config.pool, config.validate, name) for name in names}
    trainers = {name: trainer(config, name, method) for name, method in (ARMS | MORE).items()}
    records = {}
    for number, task in enumerate(config.tasks):
        name, count = task.split()
        own = {arm: trainers[arm] for arm in (ARMS | MORE if number == 0 else ARMS)}
        data = functools.cache(functools.partial(splits, config, images[name], int(count)))
        records[task] = compare(
            dataclasses.replace(config, out=f"{config.out}/{task.replace(' ', '_')}"),
            {arm: lambda seed, train=train, data=data: train(seed, data(seed)) for arm, train in own.items()},
            xlabel="updates",
            baseline=LABELS,
            better={"test_error": "lower", "pseudo_label_error": "lower"},
        )
    for metric in ("test_error", "pseudo_label_error"):
        draw_panels(records, metric, "updates", Path(config.out) / f"{metric}.png", log=(False, True))
    return records


def trainer(config: Config, name: str, method: Method) -> Callable[[int, Any], Any]:
    """An arm: `(seed, data) -> {updates: metrics}`."""
    rate = RATES[name] if config.learning_rate is None else config.learning_rate
    schedule = optax.cosine_decay_schedule(rate, config.steps)
    optimizer = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=0.9))
    labeled_rows = sampling.weighted(config.batch_size)
    if method.quota:
        all_rows = sampling.labelled_quota(config.batch_size, method.quota)
    else:
        all_rows = sampling.shuffled(config.examples, config.batch_size)
    gradient = value_and_grad(functools.partial(items, method), optax.identity())

    def update(run: Run, train: dict[str, jax.Array], rows: sampling.Rows) -> Run:
        key, mix_key = jax.random.split(run.key)
        images, labels = train["image"][rows.indices], run.memory.labels[rows.indices]
        mixed = mix(method, mix_key, images, labels, rows.weights)
        batch = {"image": mixed.inputs, "weight": rows.weights}
        weights = weights_of_items(method, mixed, rows.weights)
        _, grads, _ = gradient(run.params, batch, optax.EmptyState(), weights=weights)
        params, opt_state = descend(optimizer, grads, run.params, run.opt_state)
        return run._replace(params=params, opt_state=opt_state, key=key)

    @jax.jit
    def start(seed, train):
        key, params_key, sampler_key = jax.random.split(jax.random.key(seed), 3)
        params = init_mlp(params_key, ((28 // config.pool) ** 2, config.hidden, CLASSES))
        labels = jnp.where(train["labeled"], train["label"], -1)
        known = train["labeled"].astype(jnp.float32)
        places = labeled_rows.init(sampler_key, weights=known)
        return Run(params, optimizer.init(params), places, init_soft_labels(labels, CLASSES), key)

    @jax.jit
    def on_labels(run, train):
        """Train on labeled rows alone."""

        def step(run, _):
            rows, places = labeled_rows.sample(run.places)
            return update(run, train, rows)._replace(places=places), None

        return jax.lax.scan(step, run, length=config.evaluate_every)[0]

    @jax.jit
    def label_all(run, train):
        """Publish a label for each row, and start epochs of all of them."""
        key, sampler_key = jax.random.split(run.key)
        every = jnp.arange(config.examples, dtype=jnp.int32)
        memory = publish_soft_labels(write_soft_labels(run.memory, every, predictions(run.params, train["image"])))
        arrays = {"labeled": train["labeled"]} if method.quota else {}
        return run._replace(memory=memory, places=all_rows.init(sampler_key, **arrays), key=key)

    @jax.jit
    def on_all(run, train):
        """Train on all rows with the labels of the epoch before, and publish new ones at the end of an epoch."""

        def step(run, _):
            rows, places = all_rows.sample(run.places)
            clean = predictions(run.params, train["image"][rows.indices])
            memory = write_soft_labels(run.memory, rows.indices, clean)
            ended = epochs(places) > epochs(run.places)
            memory = jax.tree.map(lambda new, old: jnp.where(ended, new, old), publish_soft_labels(memory), memory)
            return update(run, train, rows)._replace(places=places, memory=memory), None

        return jax.lax.scan(step, run, length=config.evaluate_every)[0]

    @jax.jit
    def measure(run, train, test):
        guess = jnp.argmax(predictions(run.params, test["image"]), axis=1)
        own = run.memory.labels if method.pseudo else predictions(run.params, train["image"])
        wrong = jnp.argmax(own, axis=1) != train["label"]
        share = jnp.mean(jax.nn.one_hot(guess, CLASSES), axis=0)
        return {
            "test_error": jnp.mean(guess != test["label"]),
            "pseudo_label_error": jnp.mean(wrong, where=~train["labeled"]),
            "classes": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share))),
        }

    def arm(seed: int, data: tuple[Any, Any]) -> dict[int, dict[str, jax.Array]]:
        train, test = data
        run, made = start(seed, train), {}
        for done in range(0, config.steps, config.evaluate_every):
            if method.pseudo and done == config.warmup:
                run = label_all(run, train)
            run = (on_all if method.pseudo and done >= config.warmup else on_labels)(run, train)
            if done + config.evaluate_every > config.warmup:
                made[done + config.evaluate_every] = measure(run, train, test)
        return made

    return arm


def items(method: Method, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Losses `[B, C]` of every class, and the terms that are functions of the batch, once for each row."""
    logits = mlp(params, batch["image"])
    found = {"labels": -jax.nn.log_softmax(logits)}
    if method.balance:
        terms = {"balance": class_balance(logits, batch["weight"]), "entropy": mean_entropy(logits, batch["weight"])}
        found |= {name: jnp.broadcast_to(term, len(logits)) for name, term in terms.items()}
    return found


def weights_of_items(method: Method, mixed: MixedExamples, weights: jax.Array) -> dict[str, jax.Array]:
    """Soft labels as weights `[B, C]` of the losses, and the weights of the two terms."""
    found = {"labels": mixed.targets * weights[:, None]}
    return found | ({"balance": BALANCE * weights, "entropy": ENTROPY * weights} if method.balance else {})


def mix(method: Method, key: jax.Array, images: jax.Array, labels: jax.Array, weights: jax.Array) -> MixedExamples:
    """The images and labels of a batch, mixed as the method has it; one part each if it does not mix."""
    if method.mix == "mixup":
        return mixup(key, images, labels, weights=weights)
    if method.mix == "mosaic":
        side = int(images.shape[1] ** 0.5)
        mixed = mosaic(key, images.reshape(-1, side, side), labels, weights=weights)
        return mixed._replace(inputs=mixed.inputs.reshape(images.shape))
    own = jnp.arange(len(images), dtype=jnp.int32)[:, None]
    return MixedExamples(images, labels, own, jnp.ones(own.shape))


def predictions(params: Any, images: jax.Array) -> jax.Array:
    """Probabilities `[B, C]`."""
    return jax.nn.softmax(mlp(params, images))


def epochs(places: Any) -> jax.Array:
    """Epochs that are complete, of either sampler."""
    return places.epochs[0] if hasattr(places, "epochs") else places.epoch


def splits(config: Config, images: dict[str, Any], count: int, seed: int) -> tuple[Any, Any]:
    """Training rows drawn by the seed, equally many labeled rows of each class, and the first test rows."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images["train"]["label"]))[: config.examples]
    train = {name: values[rows] for name, values in images["train"].items()}
    chosen = [np.flatnonzero(train["label"] == c)[: count // CLASSES] for c in range(CLASSES)]
    labeled = np.isin(np.arange(config.examples), np.concatenate(chosen))
    test = {name: values[: config.test_examples] for name, values in images["test"].items()}
    return jax.tree.map(jnp.asarray, (train | {"labeled": labeled}, test))
