"""Training on the tenth of each batch with the highest reducible loss, with right labels and with wrong ones.

Claim: examples chosen by reducible loss (RHO-LOSS) reach an accuracy in fewer steps than uniform ones, and a higher
  best accuracy, most of all where labels are wrong; those of the highest loss do worse than uniform there. The
  reference model needs a holdout, which is extra data: another arm trains on train + holdout.
Data: Fashion-MNIST at 28x28 pixels: 6000 images of holdout for the reference, a small MLP, and 30 000 to train on,
  drawn by the seed; 1500 test images. `python -m experiments.datasets fetch fashion_mnist`. Every arm trains two
  networks on the same rows, one on right labels and one with 30 % of them wrong, in the holdout as well.
Command: `python -m experiments reducible_loss`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds; best accuracies, their gains over uniform rows in points, paired by seed,
  steps to an accuracy, the share of the rows whose label the network knows already, and that of wrong labels:

  | arm                        | right labels  | gain       | to 80 %      | known       |
  |----------------------------|---------------|------------|--------------|-------------|
  | uniform                    | 0.789 ± 0.009 |            | 200 (1 of 3) | 0.69 ± 0.01 |
  | uniform, same time         | 0.835 ± 0.004 | 4.6 ± 0.6  | 80 ± 0       | 0.79 ± 0.00 |
  | train + holdout, same time | 0.835 ± 0.004 | 4.5 ± 1.1  | 80 ± 12      | 0.79 ± 0.00 |
  | top loss                   | 0.730 ± 0.017 | -6.0 ± 2.0 | never        | 0.04 ± 0.00 |
  | RHO-LOSS                   | 0.823 ± 0.003 | 3.3 ± 1.1  | 147 ± 18     | 0.36 ± 0.02 |

  | arm                        | wrong labels  | gain        | to 75 %      | wrong       |
  |----------------------------|---------------|-------------|--------------|-------------|
  | uniform                    | 0.751 ± 0.006 |             | 200 (1 of 3) | 0.30 ± 0.00 |
  | uniform, same time         | 0.811 ± 0.005 | 6.0 ± 0.2   | 73 ± 7       | 0.30 ± 0.00 |
  | train + holdout, same time | 0.814 ± 0.004 | 6.3 ± 0.3   | 67 ± 7       | 0.30 ± 0.00 |
  | top loss                   | 0.359 ± 0.019 | -39.2 ± 2.1 | never        | 0.70 ± 0.01 |
  | RHO-LOSS                   | 0.786 ± 0.009 | 3.5 ± 0.8   | 107 ± 27     | 0.23 ± 0.00 |

  Reproduced: at equal updates RHO-LOSS is faster and better than uniform rows with right labels and with wrong ones,
  by as much, and the highest loss is worse.
  Not reproduced: any gain in time. A step that scores 320 rows takes 4.5 times the CPU time of one on 32 uniform rows
  (costs.md), so that 78 % of it is scoring, and four updates on uniform rows are better than it. Nor does it keep wrong
  labels out: they are 1 % of its rows in the first 20 steps, 32 % in the last. The reference has learned from as many
  wrong labels and is never sure; once the network is surer, its loss on a wrong label exceeds that of the reference by
  more than on a right one.
Verdict: partly: better than uniform rows at equal updates, worse at equal time, and wrong labels come back.
Tuning: none; Adam with 3e-3 for all arms.
Reference: Mindermann et al., Prioritized training on points that are learnable, worth learning, and not yet learnt,
  ICML 2022 (arXiv 2206.07137).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import Arm, descend, gradient_arm, init_mlp, mlp, run, with_wrong_labels
from experiments.engine.folders import chosen_arms
from experiments.shared.backbones import PatchMixer, functional
from experiments.shared.fashion import fashion
from experiments.shared.step_costs import print_step_costs
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_by_reducible_loss, keep_topk

CLASSES = 10
LABELS = ("clean", "noisy")
UNIFORM = "uniform"


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in their rows, and those of the same time in the number of updates."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/reducible_loss"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 200
    batch_size: int = 320
    """rows that are scored"""
    keep: int = 32
    """rows of an update, in every arm"""
    same_time: int = 4
    """updates of uniform rows in the time of a step that scores, as measured"""
    evaluate_every: int = 20
    checkpoint_every: int = 200
    examples: int = 30_000
    holdout: int = 6000
    """examples of the reference model"""
    test_examples: int = 1500
    noise: float = 0.3
    """share of wrong labels in the noisy training set and holdout"""
    patch: int = 7
    width: int = 32
    depth: int = 2
    reference_steps: int = 1500
    reference_hidden: int = 64
    learning_rate: float = 3e-3
    targets: tuple[float, ...] = (0.75, 0.8)
    """test accuracies to reach"""
    validate: bool = False
    """test on images left out of the training set: for tuning"""


def main(config: Config):
    """Train all arms, report, and report what a step of each costs."""
    sizes = {"patch": config.patch, "width": config.width, "depth": config.depth}
    apply, _ = functional(PatchMixer(CLASSES, **sizes, rngs=nnx.Rngs(0)))
    optimizer, rows = optax.adam(config.learning_rate), config.batch_size

    def losses(params, batch):
        logits = apply(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]), {"logits": logits}

    def arm(selection, rows, split="train"):
        scores = rows > config.keep
        selected = value_and_grad(losses, selection, has_aux=True, gather=config.keep if scores else None)

        def start(key):
            params = functional(PatchMixer(CLASSES, **sizes, rngs=nnx.Rngs(key)))[1]
            return {
                "params": dict.fromkeys(LABELS, params),
                "selection_state": dict.fromkeys(LABELS, selection.init(jnp.zeros(rows))),
            }

        def gradient(state, batch):
            grads, states, metrics = {}, {}, {}
            for labels in LABELS:
                part = {"image": batch["image"][:rows], "label": batch[labels][:rows]}
                signals = {"reference_losses": batch[f"{labels}_reference"][:rows]}
                params, before = state.params[labels], state.selection_state[labels]
                (_, aux), grads[labels], states[labels] = selected(params, part, before, **signals)
                kept, predicted = aux.weights > 0, jnp.argmax(aux.signals["logits"], axis=1)
                metrics[f"{labels}_known"] = share(kept, predicted == part["label"])
                metrics[f"{labels}_wrong"] = share(kept, part["label"] != batch["clean"][:rows])
            return grads, {"selection_state": states}, metrics

        return gradient_arm(optimizer, start, gradient, split)

    @jax.jit
    def evaluate(state, data):
        test = data["test"]
        predicted = {labels: jnp.argmax(apply(state.params[labels], test["image"]), axis=1) for labels in LABELS}
        return {f"{labels}_accuracy": jnp.mean(predicted[labels] == test["label"]) for labels in LABELS}

    uniform, whole = arm(normalize(), config.keep), arm(normalize(), config.keep, "train_and_holdout")
    arms = {
        UNIFORM: uniform,
        "uniform, same time": repeated(uniform, config.same_time, config.keep),
        "train + holdout, same time": repeated(whole, config.same_time, config.keep),
        "top loss": arm(optax.chain(keep_topk(config.keep), normalize()), rows),
        "RHO-LOSS": arm(optax.chain(keep_by_reducible_loss(config.keep), normalize()), rows),
    }
    pixels = functools.cache(lambda: fashion(1, config.validate))
    data = functools.cache(lambda seed: with_references(config, splits(config, pixels(), seed), seed))
    summary, better = functools.partial(summarize, config), {f"{labels}_best": "higher" for labels in LABELS}
    records = run(config, arms, data, evaluate, steps_per_call=20, summary=summary, baseline=UNIFORM, better=better)
    batch = jax.tree.map(lambda x: jnp.asarray(x[:rows]), data(config.seeds[0])["train"])
    arms = chosen_arms(config, arms)
    print_step_costs(arms, batch, dict.fromkeys(arms, config.steps), Path(config.out) / "costs.md", repeats=3)
    return records


def repeated(arm: Arm, times: int, rows: int) -> Arm:
    """The arm with so many updates in a step, each on the next rows of the batch."""

    def step(state, batch):
        parts = jax.tree.map(lambda x: x[: times * rows].reshape(times, rows, *x.shape[1:]), batch)
        state, metrics = jax.lax.scan(arm.step, state, parts)
        return state, jax.tree.map(jnp.sum, metrics)

    return arm._replace(step=step)


def share(kept: jax.Array, has: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many of the kept rows have a property, and the number kept."""
    return jnp.sum(kept & has), jnp.sum(kept)


def splits(config: Config, pixels: dict[str, Any], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Splits train, holdout (drawn by the seed) and test; `clean` and `noisy` labels."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pixels["train"]["label"]))[: config.holdout + config.examples]

    def split(rows):
        image, clean = pixels["train"]["image"][rows].reshape(-1, 28, 28, 1), pixels["train"]["label"][rows]
        noisy = with_wrong_labels(clean, config.noise, CLASSES, int(rng.integers(2**32)))
        return {"image": image, "clean": clean, "noisy": noisy}

    test = {name: values[: config.test_examples] for name, values in pixels["test"].items()}
    return {
        "holdout": split(order[: config.holdout]),
        "train": split(order[config.holdout :]),
        "test": test | {"image": test["image"].reshape(-1, 28, 28, 1)},
    }


def with_references(config: Config, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """The splits, with `clean_reference` and `noisy_reference`, the losses of models trained on the holdout."""
    train, holdout = data["train"], data["holdout"]
    for number, labels in enumerate(LABELS):
        examples, held_out = ((jnp.asarray(s["image"]), jnp.asarray(s[labels])) for s in (train, holdout))
        params = init_mlp(jax.random.key(seed), (28 * 28, config.reference_hidden, CLASSES))
        params = train_reference(config, jax.random.key(2 * seed + number), params, held_out, reference_losses)
        train[f"{labels}_reference"] = np.asarray(reference_losses(params, examples))
        holdout[f"{labels}_reference"] = np.zeros(config.holdout, np.float32)  # no arm reads them
    both = {name: np.concatenate([train[name], holdout[name]]) for name in train}
    return {"train": train, "train_and_holdout": both, "test": data["test"]}


def reference_losses(params: Any, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of an MLP `[n]`."""
    images, labels = examples
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, images.reshape(len(images), -1)), labels)


@functools.partial(jax.jit, static_argnums=(0, 4))
def train_reference(config: Config, key: jax.Array, params: Any, holdout: Any, losses: Callable) -> Any:
    """Fit three quarters of the holdout; return the checkpoint with the lowest loss on the last quarter."""
    cut, optimizer = jax.tree.leaves(holdout)[0].shape[0] * 3 // 4, optax.adam(1e-3)
    fit, check = jax.tree.map(lambda x: x[:cut], holdout), jax.tree.map(lambda x: x[cut:], holdout)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.randint(key, (config.keep,), 0, cut)
        grads = jax.grad(lambda p: jnp.mean(losses(p, jax.tree.map(lambda x: x[rows], fit))))(params)
        return descend(optimizer, grads, params, opt_state), None

    def until_checkpoint(carry, key):
        run, best, lowest = carry
        run, _ = jax.lax.scan(step, run, jax.random.split(key, config.evaluate_every))
        loss = jnp.mean(losses(run[0], check))
        best = jax.tree.map(lambda new, old: jnp.where(loss < lowest, new, old), run[0], best)
        return (run, best, jnp.minimum(loss, lowest)), None

    keys = jax.random.split(key, config.reference_steps // config.evaluate_every)
    return jax.lax.scan(until_checkpoint, ((params, optimizer.init(params)), params, jnp.inf), keys)[0][1]


def summarize(config: Config, records: list[dict[str, Any]]) -> dict[str, float]:
    """For both kinds of labels best and last accuracy, steps to the targets (NaN: never), and shares over the run."""
    made = {}
    for labels in LABELS:
        curve = [(r["step"], r["metrics"][f"{labels}_accuracy"]) for r in records]
        made |= {f"{labels}_best": max(a for _, a in curve), f"{labels}_last": curve[-1][1]}
        for target in config.targets:
            made[f"{labels}_to_{target:.0%}"] = next((step for step, a in curve if a >= target), math.nan)
    for name in ("clean_known", "noisy_known", "noisy_wrong"):
        made[name] = float(np.mean([r["metrics"][name] for r in records]))
    return made
