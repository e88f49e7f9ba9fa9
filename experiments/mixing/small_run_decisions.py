"""Decisions between recipes of data from small runs: a single scale, and laws of the loss that extrapolate.

Claim: the ranking of recipes at a single small scale decides most pairs as the large scale does, no law of the loss
  decides more at the same compute, and the probability of the right answer predicts the accuracy of a large model
  better than the accuracy of a small one does.
Data: 12 recipes, mixtures of 12 domains of real text as byte windows (`text_domains`), drawn from a Dirichlet
  distribution. Byte transformers of widths 8 to 24 predict one of width 48; each is trained on 8 bytes for each of its
  parameters. The target is the mean of 3 other seeds at width 48: the loss in each domain and their mean, and the
  accuracy at choosing the second half of a window, whose first half is given, among four second halves of its domain.
  `python -m experiments.datasets fetch python_text sentiment newsgroups spam`
Command: `python -m experiments small_run_decisions`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds of the small runs

  arm                         compute  mean loss      domain losses  accuracy       by probability
  chance                      0        0.500          0.500          0.500          0.500
  width 8                     0.013    0.389 ± 0.041  0.618 ± 0.011  0.524 ± 0.090  0.545 ± 0.037
  width 12                    0.031    0.657 ± 0.062  0.845 ± 0.007  0.624 ± 0.050  0.566 ± 0.069
  width 16                    0.060    0.692 ± 0.053  0.864 ± 0.005  0.566 ± 0.041  0.566 ± 0.094
  width 24                    0.160    0.783 ± 0.005  0.888 ± 0.012  0.429 ± 0.037  0.508 ± 0.033
  law of 3 sizes, no limit    0.105    0.722 ± 0.013  0.726 ± 0.032
  law of 3 sizes, with limit  0.105    0.667 ± 0.044  0.818 ± 0.004
  law of 4 sizes, no limit    0.265    0.737 ± 0.044  0.734 ± 0.021
  law of 4 sizes, with limit  0.265    0.682 ± 0.017  0.778 ± 0.025

  Figures are fractions of the 66 pairs. The last two are of decisions on the target's accuracy, by that of the small
  runs and by the probability of the right choice; "compute" is a fraction of the target's. Reproduced: runs with a
  sixth of the compute decide 0.783 ± 0.005 of the pairs by the mean loss and 0.888 ± 0.012 by the loss in a domain, and
  laws decide no more than the largest size they are fitted to, though they cost more. Paired by seed, the four laws
  differ from that size by -0.154 ± 0.015 to -0.046 ± 0.003 in domain losses, and in the mean loss by -0.101 ± 0.022 to
  +0.030 ± 0.061. Not reproduced: which recipe gives the better accuracy is not decided by small accuracies, nor by the
  probability of the right choice: all are within two and a half standard errors of chance, and three seeds of 768
  items may not tell the recipes apart at the target either. With 1 % of the compute even the mean loss is no guide.
Verdict: partly: no law beats the ranking at a single scale; small models do not predict accuracies here.
Tuning: none; the learning rate was set before the first run and is the same for all sizes, as the claim is about
  recipes at equal settings.
Reference: Magnusson et al., DataDecide: how to predict best pretraining data with small experiments, ICML 2025
  (arXiv 2504.11393).
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare
from experiments.mixing._byte_models import LENGTH, byte_model, map_models, trainer
from experiments.shared.text_domains import DOMAINS, by_domain, domain_losses, text_domains
from minibatch_jax.mixing import choice_scores, compute_fraction, decision_accuracy, fit_loss_law, predict_loss

HALF = LENGTH // 2
CHOICES = 4
TARGET_SEEDS = (100, 101, 102)
METRICS = "mean_loss", "domain_losses", "accuracy_by_loss", "accuracy_by_accuracy", "accuracy_by_probability"


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for all recipes."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/small_run_decisions"
    widths: tuple[int, ...] = (8, 12, 16, 24)
    target_width: int = 48
    recipes: int = 12
    concentration: float = 0.5
    """of the Dirichlet distribution of recipes"""
    bytes_per_parameter: float = 8.0
    batch_size: int = 32
    learning_rate: float = 1e-2
    """of Adam, decayed to 0 along a cosine"""
    per_domain: int = 6000
    """windows of a domain to train on"""
    held_out: int = 64
    """windows of a domain to measure with"""
    target_seeds: tuple[int, ...] = TARGET_SEEDS
    validate: bool = False
    """measure on windows held out from the training documents: for tuning"""


class Runs(NamedTuple):
    """What runs of all recipes with one model gave."""

    losses: np.ndarray
    """`[R, K]`"""
    accuracy: np.ndarray
    """`[R]`"""
    right_probability: np.ndarray
    """`[R]`, share of the right choice in the probability of all choices"""


def main(config: Config):
    """Run all recipes at all sizes, and compare the decisions of each size and of each law with those of the target."""

    @functools.cache
    def target() -> Runs:
        runs = [run_recipes(config, config.target_width, seed) for seed in config.target_seeds]
        return Runs(*(np.mean(parts, axis=0) for parts in zip(*runs, strict=True)))

    @functools.cache
    def small(seed: int) -> dict[int, Runs]:
        return {width: run_recipes(config, width, seed) for width in config.widths}

    def single(width: int, seed: int) -> dict[str, float]:
        runs = small(seed)[width]
        return decisions(runs.losses, target(), runs) | {"compute": compute_of(config, (width,))}

    def law(number: int, limit: bool, seed: int) -> dict[str, float]:
        widths = config.widths[:number]
        predicted = extrapolate(config, [small(seed)[width].losses for width in widths], limit)
        return decisions(predicted, target()) | {"compute": compute_of(config, widths)}

    arms: dict[str, Any] = {"chance": lambda seed: dict.fromkeys(METRICS, 0.5) | {"compute": 0.0}}
    arms |= {f"width {width}": functools.partial(single, width) for width in config.widths}
    baseline = {f"width {width}": "chance" for width in config.widths}
    for number in range(3, len(config.widths) + 1):
        for limit in (False, True):
            name = f"law of {number} sizes, {'with' if limit else 'no'} limit"
            arms[name], baseline[name] = functools.partial(law, number, limit), f"width {config.widths[number - 1]}"
    return compare(config, arms, baseline=baseline, better={"mean_loss": "higher", "domain_losses": "higher"})


def decisions(losses: np.ndarray, target: Runs, runs: Runs | None = None) -> dict[str, float]:
    """Decision accuracies of predicted losses `[R, K]`: of the mean loss, of the loss in a domain, of the accuracy."""
    predicted, measured = jnp.asarray(losses), jnp.asarray(target.losses)
    found = {
        "mean_loss": decision_accuracy(predicted.mean(1), measured.mean(1)),
        "domain_losses": jnp.mean(jax.vmap(decision_accuracy, in_axes=1)(predicted, measured)),
    }
    accuracy = jnp.asarray(target.accuracy)
    found["accuracy_by_loss"] = decision_accuracy(predicted.mean(1), accuracy, opposite=True)
    if runs is not None:
        found["accuracy_by_accuracy"] = decision_accuracy(jnp.asarray(runs.accuracy), accuracy)
        found["accuracy_by_probability"] = decision_accuracy(jnp.asarray(runs.right_probability), accuracy)
    return {name: float(value) for name, value in found.items()}


def extrapolate(config: Config, losses: list[np.ndarray], limit: bool) -> np.ndarray:
    """Losses `[R, K]` at the target, from those of the smallest sizes, each recipe and domain with a law of its own."""
    widths = config.widths[: len(losses)]
    compute = jnp.asarray([compute_of(config, (width,)) for width in widths])

    @jax.jit
    @jax.vmap
    def predict(curve):
        return predict_loss(fit_loss_law(compute, curve, limit=limit), 1.0)

    return np.asarray(predict(jnp.asarray(np.stack([x.ravel() for x in losses], 1)))).reshape(losses[0].shape)


def compute_of(config: Config, widths: tuple[int, ...]) -> float:
    """Compute of a recipe's runs at these widths, as a fraction of that of the target."""
    sizes = [
        (byte_model(w).size, steps_of(config, w) * config.batch_size * LENGTH) for w in (config.target_width, *widths)
    ]
    return float(sum(compute_fraction(*size, *sizes[0]) for size in sizes[1:]))


def steps_of(config: Config, width: int) -> int:
    """Steps of a run: so that bytes are in proportion to parameters."""
    return max(1, round(config.bytes_per_parameter * byte_model(width).size / (config.batch_size * LENGTH)))


def recipes(config: Config) -> np.ndarray:
    """Mixtures `[R, K]`, the same for all seeds."""
    return np.random.default_rng(0).dirichlet(np.full(len(DOMAINS), config.concentration), config.recipes)


@functools.cache
def windows(per_domain: int, held_out: int, validate: bool) -> tuple[jax.Array, jax.Array]:
    """Windows `[K, M, L]` of each domain to train on, and to measure with."""
    splits = text_domains(LENGTH, validate=validate, per_domain=per_domain)
    return jnp.asarray(by_domain(splits["train"])), jnp.asarray(by_domain(splits["validation"], held_out))


def run_recipes(config: Config, width: int, seed: int) -> Runs:
    """Train a model on each recipe, with seeds and batches of its own, and measure it."""
    train, held_out = windows(config.per_domain, config.held_out, config.validate)
    mixtures = jnp.asarray(recipes(config), jnp.float32)
    init_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), width))
    starts = jax.vmap(byte_model(width).init)(jax.random.split(init_key, config.recipes))
    train_them = trainer(byte_model(width), steps_of(config, width), config.batch_size, config.learning_rate)
    params = train_them(starts, jax.random.split(batch_key, config.recipes), train, mixtures)
    return Runs(*(np.asarray(part) for part in measured(width, params, held_out)))


@functools.partial(jax.jit, static_argnums=0)
def measured(width: int, params: Any, held_out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The parts of `Runs` of models of a width."""
    apply = byte_model(width).apply
    return map_models(lambda p: (domain_losses(apply, p, held_out), *cloze(width, p, held_out)), params)


def cloze(width: int, params: Any, held_out: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Accuracy and normalized probability of the right second half among those of three other windows of the domain."""

    def of_domain(windows):
        ends = jnp.stack([jnp.roll(windows[:, HALF:], -7 * shift, axis=0) for shift in range(CHOICES)], axis=1)
        begins = jnp.broadcast_to(windows[:, None, :HALF], ends.shape)
        tokens = jnp.concatenate([begins, ends], axis=2).reshape(-1, LENGTH).astype(jnp.int32)
        each = optax.softmax_cross_entropy_with_integer_labels(byte_model(width).apply(params, tokens), tokens)
        log_probs = -jnp.sum(each[:, HALF:], axis=1).reshape(-1, CHOICES)
        scores = choice_scores(log_probs, jnp.zeros(len(log_probs), jnp.int32))
        return jnp.mean(scores.accuracy), jnp.mean(scores.norm_correct_prob)

    accuracy, probability = jax.lax.map(of_domain, held_out)
    return jnp.mean(accuracy), jnp.mean(probability)
