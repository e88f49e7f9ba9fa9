"""Pseudo-labels from 10 to 400 labels: naive, then balanced, then with mixup and with a quota of labeled rows.

Claim: trained on its own soft predictions of the epoch before, a model confirms its mistakes; a balance of the classes,
  mixup and at least 16 labeled rows in each batch help one after the other, the quota most where labels are few.
Data: 3000 images of Fashion-MNIST or MNIST at 14x14 pixels, drawn by the seed, of which 10, 40 or 400 have a label,
  equally many of each class; 5000 test images. `python -m experiments.datasets fetch fashion_mnist mnist`. Every arm
  takes 1000 updates of batches of 100. The first 100 see labeled rows alone; "labels only" goes on with those.
  "+" adds to the arm above: the terms 0.8 and 0.4 of the paper, mixup with a share for each batch, the quota.
Command: `python -m experiments pseudo_labels`
Minutes: 2 on one CPU core
Expected: test error in percent, mean ± standard error over 5 seeds

  | arm                | Fashion, 10 | Fashion, 40 | Fashion, 400 | MNIST, 10  | MNIST, 40  | MNIST, 400 |
  |--------------------|-------------|-------------|--------------|------------|------------|------------|
  | labels only        | 57.9 ± 3.4  | 40.0 ± 2.4  | 23.0 ± 0.2   | 62.2 ± 4.3 | 38.2 ± 0.9 | 16.6 ± 0.4 |
  | labels only, mixup | 59.2 ± 1.3  | 43.9 ± 1.8  | 23.1 ± 0.3   | 64.6 ± 3.2 | 47.3 ± 0.9 | 18.0 ± 0.5 |
  | naive              | 58.2 ± 3.3  | 40.3 ± 2.4  | 23.0 ± 0.4   | 63.1 ± 4.3 | 38.4 ± 0.8 | 16.9 ± 0.5 |
  | + balance          | 54.7 ± 4.2  | 37.8 ± 3.0  | 22.9 ± 0.3   | 54.9 ± 4.6 | 34.8 ± 1.0 | 15.6 ± 0.4 |
  | + mixup            | 50.8 ± 2.6  | 34.7 ± 2.8  | 22.5 ± 0.4   | 54.5 ± 4.2 | 32.8 ± 1.2 | 14.5 ± 0.3 |
  | + quota 16         | 51.5 ± 2.6  | 35.1 ± 2.6  | 22.3 ± 0.4   | 54.8 ± 4.2 | 33.6 ± 1.2 | 14.3 ± 0.3 |
  | + quota 4          |             | 34.7 ± 2.8  |              |            |            |            |
  | + quota 32         |             | 35.7 ± 2.7  |              |            |            |            |
  | + quota 16, Mosaic |             | 42.4 ± 1.8  |              |            |            |            |

  And the last errors of the pseudo-labels of unlabeled rows (for "labels only", of its predictions):

  | arm         | Fashion, 10 | Fashion, 40 | Fashion, 400 | MNIST, 10  | MNIST, 40  | MNIST, 400 |
  |-------------|-------------|-------------|--------------|------------|------------|------------|
  | labels only | 57.5 ± 3.3  | 40.2 ± 2.7  | 22.2 ± 0.3   | 59.0 ± 4.2 | 35.3 ± 0.9 | 14.6 ± 0.3 |
  | naive       | 57.7 ± 3.3  | 40.5 ± 2.7  | 22.1 ± 0.5   | 60.2 ± 4.2 | 35.7 ± 0.9 | 15.0 ± 0.3 |
  | + balance   | 54.5 ± 4.3  | 37.9 ± 3.0  | 21.9 ± 0.3   | 53.9 ± 4.6 | 32.6 ± 1.0 | 13.8 ± 0.3 |
  | + mixup     | 50.1 ± 2.8  | 34.5 ± 2.9  | 22.0 ± 0.7   | 52.9 ± 4.3 | 30.8 ± 1.6 | 13.0 ± 0.2 |
  | + quota 16  | 50.8 ± 2.9  | 34.5 ± 2.8  | 21.8 ± 0.7   | 52.9 ± 4.3 | 31.4 ± 1.7 | 12.8 ± 0.2 |

  Balance helps, most with few labels: paired by seed, the error falls from that of naive by 3.5 ± 1.2 and 8.2 ± 1.3
  points with 10 labels, 2.5 ± 0.6 and 3.6 ± 0.7 with 40, 0.1 ± 0.3 and 1.3 ± 0.1 with 400 (Fashion-MNIST, MNIST).
  Mixup takes off another 3.9 ± 1.9 and 0.4 ± 1.9, 3.0 ± 0.9 and 1.9 ± 0.4, 0.5 ± 0.3 and 1.1 ± 0.2. On labeled rows
  alone it does harm.
  The quota does not help: 16 labeled rows change the error by 0.7 ± 0.6 and 0.3 ± 0.2 points with 10 labels, 0.3 ± 0.3
  and 0.8 ± 0.5 with 40, -0.2 ± 0.1 twice with 400; with 40 labels 4 in a batch make no difference and 32 cost 1.0 ±
  0.3. By chance a batch has 0.3, 1.3 or 13 labeled rows, and needs no more. What the quota is a remedy for does not
  occur here: naive is worse than labels only by 0.9 ± 0.2 points at most (MNIST, 10), the error of its pseudo-labels
  stays what the first 100 updates made it, and no class dies out.
  The balance does what its name says: the exponential of the entropy of the predicted classes, 10 if all are equally
  frequent, is 9.7 with 10 labels of MNIST, 8.0 with labels only and 7.6 for naive.
  Mosaic in place of mixup costs 7.4 ± 1.6 points; parts of pictures of 14x14 pixels may show too little.
  Longer runs at the paper's rate, 0.1, say the same; errors with 40 labels of Fashion-MNIST over three seeds:

  | arm         | 4000 updates |
  |-------------|--------------|
  | labels only | 41.1 ± 3.9   |
  | naive       | 41.0 ± 4.1   |
  | + balance   | 39.9 ± 4.2   |
  | + mixup     | 38.1 ± 4.0   |
  | + quota 16  | 38.9 ± 4.0   |

  paired by seed, balance changes the error by -1.1 ± 0.2, mixup by -1.9 ± 0.9 and the quota by 0.8 ± 0.1 points.
Verdict: partly: balance and mixup help where labels are few; naive changes little, and a quota does not help.
Tuning: learning rate of SGD in {0.01, 0.03, 0.1, 0.3} for labels only, in {0.03, 0.1, 0.3} for labels only with mixup
  and for naive, with --validate, 256 hidden units, 10 and 100 labels of both data sets, seeds 10 and 11. 0.03 was best,
  0.01 better by 0.4 points for labels only. The other arms take 0.03 untuned. The weights of the terms, the share of
  mixup, alpha 1, and the cut of Mosaic are the published ones.
Reference: Arazo et al., Pseudo-labeling and confirmation bias in deep semi-supervised learning, 2020 (arXiv
  1908.02983).
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine import compare, descend, init_mlp
from experiments.engine.panels import draw_panels
from experiments.engine.reports import Record
from experiments.modules._pseudo_label_batches import CLASSES, Method, items, mix, predictions, splits, weights_of_items
from experiments.shared.fashion import fashion
from minibatch_jax import sampling, value_and_grad
from minibatch_jax.modules import init_soft_labels, publish_soft_labels, write_soft_labels
from minibatch_jax.modules.pseudo_labels import SoftLabels

LABELS = "labels only"

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
BEFORE = {
    "labels only, mixup": LABELS,
    "naive": LABELS,
    "+ balance": "naive",
    "+ mixup": "+ balance",
    "+ quota 16": "+ mixup",
    "+ quota 4": "+ mixup",
    "+ quota 32": "+ mixup",
    "+ quota 16, Mosaic": "+ quota 16",
}
"""what each arm adds to"""
LONG_ARMS, LONG_RATE = (LABELS, "naive", "+ balance", "+ mixup", "+ quota 16"), 0.1
"""arms of the long runs, and the paper's rate"""
RATES = dict.fromkeys(ARMS | MORE, 0.03)


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
        "fashion_mnist 400",
        "mnist 10",
        "mnist 40",
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
    long_steps: int = 4000
    """of some arms on the first task with three seeds, at the paper's rate; 0: no such runs"""
    pool: int = 2
    hidden: int = 128
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
        own = trainers if number == 0 else {arm: trainers[arm] for arm in ARMS}
        folder = dataclasses.replace(config, out=f"{config.out}/{task.replace(' ', '_')}")
        records[task] = compared(folder, task, own, images)
    for metric in ("test_error", "pseudo_label_error"):
        draw_panels(records, metric, "updates", Path(config.out) / f"{metric}.png", log=(False, False))
    if config.long_steps:
        every = config.long_steps // 10
        sizes = {"steps": config.long_steps, "evaluate_every": every, "warmup": every, "learning_rate": LONG_RATE}
        long = dataclasses.replace(config, out=f"{config.out}/long", seeds=config.seeds[:3], **sizes)
        compared(long, config.tasks[0], {arm: trainer(long, arm, ARMS[arm]) for arm in LONG_ARMS}, images)
    return records


def compared(config: Config, task: str, trainers: dict[str, Any], images: dict[str, Any]) -> list[Record]:
    """Records of some arms on one task."""
    name, count = task.split()
    data = functools.cache(functools.partial(splits, images[name], int(count), config.examples, config.test_examples))
    return compare(
        config,
        {arm: lambda seed, train=train: train(seed, data(seed)) for arm, train in trainers.items()},
        xlabel="updates",
        baseline={arm: before for arm, before in BEFORE.items() if {arm, before} <= trainers.keys()},
        better={"test_error": "lower", "pseudo_label_error": "lower"},
    )


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
            memory = publish_soft_labels(memory, epochs(places) > epochs(run.places))
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
        return jax.block_until_ready(made)

    return arm


def epochs(places: Any) -> jax.Array:
    """Epochs that are complete, of either sampler."""
    return places.epochs[0] if hasattr(places, "epochs") else places.epoch
