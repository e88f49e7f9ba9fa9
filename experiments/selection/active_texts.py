"""Which texts to label next: every query strategy with a linear head, at an equal number of labels.

Claim: strategies that ask for unsure or for diverse texts give a higher accuracy than random ones with as many labels,
  and rules that watch the predictions say when to stop.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.engine.panels import draw_panels
from experiments.selection._label_pools import TASKS, LabelPool, Task, draw_pool
from experiments.selection._label_strategies import OF_COMMITTEES, STRATEGIES, Budget, compiled
from experiments.selection._learning_curves import accuracies, by_area
from experiments.selection._linear_heads import Fit, bootstrap_weights, labeled_rows, logits_of, train_head
from minibatch_jax import selection
from minibatch_jax.pool import label_in_rounds

MEMBERS = 5
"""of a committee: heads trained on rows drawn with replacement"""
RULES: dict[str, Callable[[], Any]] = {
    "never": lambda: selection.stop_after(10**6),
    "after 7 rounds": lambda: selection.stop_after(7),
    "kappa 0.99": lambda: selection.stop_by_kappa(),
    "kappa 0.95": lambda: selection.stop_by_kappa(threshold=0.95),
    "no change": lambda: selection.stop_by_changes(),
    "changes below 5 %": lambda: selection.stop_by_changes(threshold=0.05),
    "uncertainty": lambda: selection.stop_by_uncertainty(),
    "F score of two classes": lambda: selection.stop_by_f_score(),
}
WATCHED = "margin"
"""the strategy on whose runs the rules look"""


@dataclass(frozen=True)
class Config:
    """All arms start with the same random rows, and get as many labels in each round."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/active_texts"
    arms: tuple[str, ...] = ()
    first: int = 40
    """random rows with a label"""
    rounds: int = 14
    labels: int = 20
    """in each round"""
    steps: int = 80
    learning_rate: float = 0.3
    scale: float = 10.0
    decay: float = 1e-3
    validate: bool = False
    """take test rows from the training split: for tuning"""


class Run(NamedTuple):
    """A run of all rounds: metrics by the number of labels, and the logits of the pool before each round."""

    curve: dict[int, dict[str, float]]
    logits: list[jax.Array]


Runs = Callable[[Task, str, int], Run]
"""(task, arm, seed) -> run"""


def main(config: Config):
    """Label by all strategies, then apply the stopping rules to the runs of one, and report."""
    runs: Runs = functools.lru_cache(maxsize=2)(functools.partial(one_run, config))
    records, better = {}, {"area": "higher", "last_accuracy": "higher"}
    for task in TASKS:
        arms: dict[str, Callable[[int], Any]] = {
            name: functools.partial(curve_of, runs, task, name) for name in STRATEGIES
        }
        own = dataclasses.replace(config, out=str(Path(config.out) / task))
        claim: Any = {"baseline": "random", "better": better}
        records[task] = compare(own, arms, xlabel="labels", summary=by_area, **claim)
    draw_panels(records, "accuracy", "labels", Path(config.out) / "curves.png", log=(False, False))
    stops = {}
    for task in TASKS:
        rules = {n: r for n, r in RULES.items() if "two classes" not in n or task == "sentiment"}
        own = dataclasses.replace(config, arms=(), out=str(Path(config.out) / "stopping" / task))
        watching: Any = {name: functools.partial(stopped, runs, task, rule) for name, rule in rules.items()}
        claim = {"baseline": "never", "better": {"labels": "lower", "accuracy": "higher"}}
        stops[task] = compare(own, watching, **claim)
    return [record for made in (*records.values(), *stops.values()) for record in made]


def curve_of(runs: Runs, task: Task, name: str, seed: int) -> dict[int, dict[str, float]]:
    """Metrics of an arm by the number of labels."""
    return runs(task, name, seed).curve


def one_run(config: Config, task: Task, name: str, seed: int) -> Run:
    """Train, choose and ask until all rounds are over."""
    pool = draw_pool(task, config.validate, seed)
    found, last = Run({}, []), config.first + config.rounds * config.labels

    def fit(labels, number):
        signals, metrics = trained(config, pool, name, labels, seed, last)
        found.curve[int(np.sum(labels >= 0))] = metrics
        found.logits.append(signals["logits"])
        return signals

    labels = label_in_rounds(
        fit,
        strategy_of(config, name, pool.classes),
        lambda rows: pool.label[rows],
        len(pool.label),
        num_classes=pool.classes,
        num_rounds=config.rounds,
        num_first=config.first,
        seed=seed,
        progress=False,
    ).labels
    fit(labels, config.rounds + 1)
    return found


@functools.cache
def strategy_of(config: Config, name: str, classes: int) -> Any:
    """The strategy of an arm, compiled."""
    return compiled(STRATEGIES[name](Budget(config.labels, classes)))


def trained(
    config: Config, pool: LabelPool, name: str, labels: np.ndarray, seed: int, capacity: int
) -> tuple[dict[str, jax.Array], dict[str, float]]:
    """The signals of the pool after a training on these labels, and the metrics on the test set."""
    options: Any = {"fit": fit_of(config), "classes": pool.classes}
    rows, classes = labeled_rows(labels, capacity)
    features, given = jnp.asarray(pool.features), jnp.asarray(classes)
    known = jnp.asarray(classes >= 0, jnp.float32)
    head = train_head(features[rows], given, known, **options)
    logits = logits_of(head, features, config.scale)
    signals = {"logits": logits, "features": features, "reference_features": features[rows]}
    signals |= {"reference_logits": logits[rows], "reference_labels": given}
    if name in OF_COMMITTEES:
        weights = bootstrap_weights(1000 * seed + int(known.sum()), classes, MEMBERS)
        members = [train_head(features[rows], given, jnp.asarray(w), **options) for w in weights]
        signals["committee_logits"] = jnp.stack([logits_of(m, features, config.scale) for m in members], axis=1)
    tested = np.argmax(logits_of(head, jnp.asarray(pool.test_features), config.scale), axis=1)
    return signals, accuracies(tested, pool.test_label)


def fit_of(config: Config) -> Fit:
    """How the heads are trained."""
    return Fit(config.steps, config.learning_rate, config.scale, config.decay)


def stopped(runs: Runs, task: Task, make: Callable[[], Any], seed: int) -> dict[str, float]:
    """Where a rule ends the runs of one strategy, and how the accuracy there compares to that with all labels."""
    run, rule = runs(task, WATCHED, seed), make()
    state, steps = rule.init(len(run.logits[0])), list(run.curve)
    ended, checks = False, 0
    while not ended and checks < len(steps):
        ended, state = rule.update(state, run.logits[checks])
        checks += 1
    labels = steps[checks - 1]
    accuracy = run.curve[labels]["accuracy"]
    return {
        "labels": labels,
        "accuracy": accuracy,
        "accuracy_lost": run.curve[steps[-1]]["accuracy"] - accuracy,
        "stopped": float(bool(ended)),
    }
