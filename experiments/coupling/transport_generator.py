"""A generator of images trained by mini-batch transport losses of pixels, at equal updates and equal mini-batches.

Claim: from as many mini-batches of the same size, (a) m-POT and BoMb-OT train a better generator than m-OT; (b) the
  Sinkhorn divergence trains a better one than the entropic cost, whose samples shrink; (c) sliced transport is cheap.
Data: Fashion-MNIST, 28x28 pixels in [0, 1]. First `python -m experiments.datasets fetch fashion_mnist` (31 MB).
Command: `python -m experiments transport_generator`
Minutes: TODO
Expected: TODO
Verdict: TODO
Tuning: TODO
Reference: Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645);
  Nguyen et al., On transportation of mini-batches: a hierarchical approach, 2022 (arXiv 2102.05912); Genevay et al.,
  Learning generative models with Sinkhorn divergences, 2018 (arXiv 1706.00292).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.coupling._generator_report import draw_samples
from experiments.coupling._image_quality import frechet_to, train_classifier
from experiments.coupling._transport_losses import Gradient, baselines, methods
from experiments.datasets import arrays
from experiments.engine import Arm, gradient_arm, init_mlp, mlp, run
from minibatch_jax.coupling import assignment, sliced_wasserstein
from minibatch_jax.coupling.costs import squared_euclidean_cost

CODES = 32
NUM_SAMPLES = 2000
NUM_PAIRED = 500
DIRECTIONS = 128


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every arm."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/transport_generator"
    arms: tuple[str, ...] = ()
    steps: int = 300
    batch_size: int = 128
    """images, and codes, of a step"""
    mini_batches: int = 4
    """k: into so many the batches are cut, where mini-batches are coupled"""
    evaluate_every: int = 300
    checkpoint_every: int = 300
    hidden: int = 256
    learning_rate: float = 1e-3
    """of Adam, decayed to 0 along a cosine"""
    fraction: float = 0.8
    """of the mass that partial transport moves"""
    epsilon: float = 10.0
    """of the entropic cost and the Sinkhorn divergence; the mean cost of a pair of images is about 110"""
    projections: int = 128
    """of sliced transport"""
    images: int = 20_000
    """of the training set"""
    validate: bool = False
    """compare with training images that were held out, for tuning"""


def main(config: Config):
    """Train all generators, and report."""
    out = Path(config.out)
    options = config.mini_batches, (config.fraction,), (config.epsilon,), config.projections
    gradients = methods(generate, *options, tolerance=1e-3)
    arms = {name: make_arm(config, gradient) for name, gradient in gradients.items()}
    splits, frechet = prepare(config)
    shown = {}

    def evaluate(state, data):
        x = generate_all(state.params, data["codes"])
        return {"frechet": frechet(x), **distances(x, data["test"])}

    def finish(name, seed, state, data):
        if seed == config.seeds[0]:
            shown[name] = np.asarray(generate_all(state.params, data["codes"][:36]))

    records = run(
        config,
        arms,
        lambda seed: splits,
        evaluate,
        steps_per_call=20,
        finish=finish,
        baseline=baselines((config.epsilon,), arms),
        better={"frechet": "lower", "w2": "lower"},
    )
    draw_samples({**shown, "test images": splits["test"][:36]}, out / "samples.png")
    return records


def make_arm(config: Config, gradient_of: Gradient) -> Arm:
    """A generator trained by Adam on one loss, with new codes for every batch of images."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def start(key):
        key, params_key = jax.random.split(key)
        return {"params": init_mlp(params_key, (CODES, config.hidden, config.hidden, 28 * 28)), "keys": key}

    def gradient(state, batch):
        key, codes_key, loss_key = jax.random.split(state.keys, 3)
        codes = jax.random.normal(codes_key, (config.batch_size, CODES))
        return gradient_of(state.params, codes, batch["image"], loss_key), {"keys": key}, {}

    return gradient_arm(optimizer, start, gradient)


def generate(params: Any, codes: jax.Array) -> jax.Array:
    """Images `[B, 784]` in [0, 1] of codes `[B, CODES]`."""
    return jax.nn.sigmoid(mlp(params, codes))


generate_all = jax.jit(generate)


@jax.jit
def distances(x: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """Distances of samples to as many images, W2 of some of them exact, and the variance of one over the other's."""
    images = images[: len(x)]
    cost = squared_euclidean_cost(x[:NUM_PAIRED], images[:NUM_PAIRED])
    return {
        "w2": jnp.sqrt(jnp.mean(cost[jnp.arange(len(cost)), assignment(cost).columns])),
        "sliced_w2": jnp.sqrt(sliced_wasserstein(0, x, images, DIRECTIONS)),
        "spread": jnp.sum(jnp.var(x, axis=0)) / jnp.sum(jnp.var(images, axis=0)),
    }


def prepare(config: Config) -> tuple[dict[str, Any], Callable[[jax.Array], float]]:
    """The splits, which are the same for all seeds, and the Fréchet distance of samples to the test images."""
    train, test = arrays("fashion_mnist", "train"), arrays("fashion_mnist", "test")
    if config.validate:
        train, test = ({name: x[part] for name, x in train.items()} for part in (slice(-10_000), slice(-10_000, None)))
    image, held_out = (x["image"].reshape(len(x["image"]), -1).astype(np.float32) / 255 for x in (train, test))
    image, label = image[: config.images], train["label"][: config.images]
    codes = jax.random.normal(jax.random.key(1706), (NUM_SAMPLES, CODES))
    frechet = frechet_to(train_classifier(image, label), held_out)
    return {"train": {"image": image}, "test": held_out, "codes": codes}, frechet
