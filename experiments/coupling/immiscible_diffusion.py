"""Immiscible noise for diffusion (DDIM) and consistency models: how many updates does a given quality take?

Claim: a noise assigned to each image within the batch, or the nearest of k noises, makes diffusion and consistency
  models reach a given quality with up to 3 times fewer updates; nothing else changes.
Data: Fashion-MNIST averaged to 14x14. `python -m experiments.datasets fetch fashion_mnist` (31 MB).
Command: `python -m experiments immiscible_diffusion`
Minutes: ?
Expected: ?
Reference: Li et al., Immiscible diffusion, 2024 (arXiv 2406.12303) and 2025 (arXiv 2505.18521); Song et al., Denoising
  diffusion implicit models, 2020 (arXiv 2010.02502); Song et al., Consistency models, 2023 (arXiv 2303.01469).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.coupling._diffusion import consistency_losses, consistency_samples, ddim, diffusion_losses
from experiments.coupling._flows import TIME_FEATURES, images, random_directions, sliced_distance, squared_norm
from experiments.coupling._image_quality import frechet_to, train_classifier
from experiments.datasets import arrays
from experiments.engine import Arm, gradient_arm, init_mlp, run
from experiments.engine.folders import chosen_arms
from experiments.engine.reports import Record
from experiments.shared.step_costs import print_step_costs
from minibatch_jax.coupling import immiscible_noise, nearest_noise

NUM_SAMPLES = 2000
NUM_DIRECTIONS = 128


class Model(NamedTuple):
    """A loss `[B]` of images and their noise, how it is sampled, and the numbers of steps; the last one is judged."""

    losses: Callable[..., jax.Array]
    sample: Callable[..., jax.Array]
    num_steps: tuple[int, ...]


MODELS = {
    "DDIM": Model(diffusion_losses, ddim, (5, 20)),
    "consistency": Model(consistency_losses, consistency_samples, (1, 2)),
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every arm of a model."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/immiscible_diffusion"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 1200
    batch_size: int = 128
    evaluate_every: int = 100
    checkpoint_every: int = 1200
    hidden: int = 256
    learning_rate: float = 1e-3
    """of Adam, constant, so that the quality after some updates does not depend on how many follow"""
    decay: float = 0.99
    """of the moving average of the parameters, which is what is sampled"""
    candidates: int = 4
    """noises of each image, of which the nearest is taken"""
    bits: int = 12
    """of the quantized distances of immiscible noise"""
    ddim_quality: tuple[float, float] = (17.4, 12.8)
    consistency_quality: tuple[float, float] = (20.2, 8.5)
    """Fréchet distances to reach: what random noise had after 400 and 800 updates with seed 100"""


def main(config: Config):
    """Train all arms and report."""
    draws = {
        "random noise": lambda key, x: jax.random.normal(key, x.shape),
        "immiscible": partial(immiscible_noise, bits=config.bits),
        f"nearest of {config.candidates}": partial(nearest_noise, k=config.candidates),
    }
    arms = {
        f"{model}, {name}": make_arm(config, number, draw)
        for number, model in enumerate(MODELS)
        for name, draw in draws.items()
    }
    splits, distances = prepare()
    sample = {name: jax.jit(partial(samples_of, model)) for name, model in MODELS.items()}

    def evaluate(state, data):
        average, number = state.selection_state
        found = sample[list(MODELS)[int(number)]](average, data["noise"])
        return {f"{d}_at_{n}": function(x) for n, x in found.items() for d, function in distances.items()}

    baseline = {f"{model}, {name}": f"{model}, random noise" for model in MODELS for name in draws}
    better = {"updates_to_late_quality": "lower", "frechet": "lower"}
    options = {"steps_per_call": 100, "summary": partial(summary, config), "baseline": baseline, "better": better}
    records = run(config, arms, lambda seed: splits, evaluate, **options)
    batch = {"image": jnp.asarray(splits["train"]["image"][: config.batch_size])}
    steps = dict.fromkeys(arms, config.steps)
    print_step_costs(chosen_arms(config, arms), batch, steps, Path(config.out) / "costs.md")
    return records


def make_arm(config: Config, number: int, draw: Callable[[jax.Array, jax.Array], jax.Array]) -> Arm:
    """A model trained on images with the noise that `draw(key, images)` gives each of them."""
    model = list(MODELS.values())[number]

    def start(key):
        key, params_key = jax.random.split(key)
        size = 14 * 14
        params = init_mlp(params_key, (size + TIME_FEATURES, *3 * (config.hidden,), size))
        return {"params": params, "selection_state": (params, jnp.int32(number)), "keys": key}

    def gradient(state, batch):
        key, noise_key, loss_key = jax.random.split(state.keys, 3)
        x = batch["image"]
        noise = draw(noise_key, x)
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(model.losses(p, loss_key, x, noise)))(state.params)
        average = optax.incremental_update(state.params, state.selection_state[0], 1 - config.decay)
        metrics = {"loss": loss, "pair_cost": jnp.mean(squared_norm(x - noise)), "noise": jnp.mean(noise**2)}
        return grads, {"keys": key, "selection_state": (average, state.selection_state[1])}, metrics

    return gradient_arm(optax.adam(config.learning_rate), start, gradient)


def samples_of(model: Model, params, noise: jax.Array) -> dict[str, jax.Array]:
    """Samples by number of steps; the noise is the same for all models."""
    return {str(n): model.sample(params, noise, n) for n in model.num_steps}


def prepare():
    """The splits, which are the same for all seeds, and the distances of samples `[NUM_SAMPLES, D]` to test images."""
    train, test = images("fashion_mnist", "train"), images("fashion_mnist", "test")
    classifier = train_classifier(train, arrays("fashion_mnist", "train")["label"])
    noise_key, direction_key = jax.random.split(jax.random.key(2303))
    directions = random_directions(direction_key, train.shape[1], NUM_DIRECTIONS)
    splits = {"train": {"image": train}, "noise": jax.random.normal(noise_key, (NUM_SAMPLES, train.shape[1]))}
    sliced = partial(jax.jit(sliced_distance), items=jnp.asarray(test[:NUM_SAMPLES]), directions=directions)
    return splits, {"frechet": frechet_to(classifier, test), "sliced_w2": sliced}


def summary(config: Config, records: list[Record]) -> dict[str, float]:
    """How many updates each quality took, and the last distances, with many steps and with few."""
    name = records[-1]["arm"].split(",")[0]
    few, many = MODELS[name].num_steps
    early, late = config.ddim_quality if name == "DDIM" else config.consistency_quality
    curve = [(r["step"], r["metrics"][f"frechet_at_{many}"]) for r in records]
    last = records[-1]["metrics"]
    return {
        "updates_to_early_quality": updates_to(early, curve),
        "updates_to_late_quality": updates_to(late, curve),
        "frechet": last[f"frechet_at_{many}"],
        "frechet_few_steps": last[f"frechet_at_{few}"],
        "sliced_w2": last[f"sliced_w2_at_{many}"],
        "sliced_w2_few_steps": last[f"sliced_w2_at_{few}"],
        "pair_cost": last["pair_cost"],
    }


def updates_to(quality: float, curve: list[tuple[int, float]]) -> float:
    """Where a curve of (update, distance) first falls to a distance, linear in between; NaN if it does not."""
    for (before, high), (after, low) in itertools.pairwise(curve):
        if low <= quality < high:
            return before + (after - before) * (high - quality) / (high - low)
    return math.nan if curve[0][1] > quality else float(curve[0][0])
