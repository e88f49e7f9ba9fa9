"""Ambient diffusion: a tenth of clean points and nine tenths with noise, against clean ones alone and noise ignored.

Claim: a few clean examples and many noisy ones, each used at the noise levels it says something about, teach a
  diffusion model about as much as clean examples alone would; noisy examples alone do not.
Data: 1000 points of a mixture of 8 Gaussians of standard deviation 0.03 on a circle of radius 0.7, of which 100 are
  clean and 900 came with noise of standard deviation 0.2, drawn once. The denoiser is an MLP with the preconditioning
  of EDM; samples are those of 20 steps of Heun's method. A batch draws clean points with their share of the data, or
  with the share that an arm names, as a mixture of two domains. "Sliced W2" is the sliced Wasserstein distance of
  2000 samples to as many fresh clean points, "to mode" the root mean square distance of samples to the nearest center,
  0.042 for clean points.
Command: `python -m experiments ambient_diffusion`
Minutes: 1 on one CPU core
Expected: mean ± standard error over 5 seeds

  arm                           sliced W2      to mode
  all clean                     0.057 ± 0.006  0.054 ± 0.001
  clean tenth alone             0.085 ± 0.010  0.052 ± 0.001
  noise ignored                 0.116 ± 0.001  0.271 ± 0.003
  noise ignored, half clean     0.088 ± 0.002  0.203 ± 0.003
  noisy alone, ambient          0.085 ± 0.003  0.207 ± 0.004
  ambient, clamped              0.059 ± 0.004  0.128 ± 0.002
  ambient                       0.059 ± 0.004  0.129 ± 0.002
  ambient, clamped, half clean  0.067 ± 0.006  0.062 ± 0.002
  ambient, half clean           0.063 ± 0.004  0.062 ± 0.002

  Reproduced for how samples spread over the modes: with ambient weights, a clean tenth and noisy points come within one
  standard error of all clean points, and paired by seed half clean batches are -0.022 ± 0.007 from the clean tenth
  alone, which gives the modes unequal masses. Nearly reproduced for how sharp samples are: with half clean batches they
  lie 0.010 ± 0.002 further from the modes than those of the clean tenth alone; with a tenth of clean points in a batch
  they are twice as far, because low levels are learned from clean points only. Ignoring the noise costs more than it
  gives, and noisy points alone stay blurred. Drawing levels above a point's own in place of raising them to it changes
  nothing here, though it wastes no point.
Verdict: partly: samples cover the modes as well as from clean points alone, and lie a sixth further from them.
Tuning: learning rate in {1e-3, 3e-3, 1e-2} at half the steps, with seeds 10 and 11. The largest gave the sharpest
  samples in all arms but those that ignore the noise, which are as blurred with every rate; twice the steps, as here,
  helped the same arms.
Reference: Daras et al., How much is a noisy image worth? Data scaling laws for ambient diffusion, ICLR 2025
  (arXiv 2411.02780).
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine import compare, descend, init_mlp, mlp
from minibatch_jax import value_and_grad
from minibatch_jax.coupling import sliced_wasserstein
from minibatch_jax.mixing import ambient_inputs, ambient_noise_levels, ambient_targets, reweigh_by_noise_level

RADIUS, SPREAD = 0.7, 0.03
"""of the circle, and of each of the 8 Gaussians"""
SCALE = 0.5
"""standard deviation of the data that the preconditioning assumes"""
HIGHEST, LOWEST = 10.0, 0.002
"""noise levels of the first and the last step of the sampler"""
HEUN_STEPS = 20


class Method(NamedTuple):
    """What a batch is made of, and what the loss is told of the noise that points came with."""

    clean: float
    """probability that a point of the batch is a clean one"""
    ambient: bool = False
    """False: noise is ignored"""
    clamp: bool = False
    """levels below a point's own are raised to it, in place of drawn above it"""
    all_clean: bool = False
    """no point has noise"""


METHODS = {
    "all clean": Method(1.0, all_clean=True),
    "clean tenth alone": Method(1.0),
    "noise ignored": Method(0.1),
    "noise ignored, half clean": Method(0.5),
    "noisy alone, ambient": Method(0.0, ambient=True),
    "ambient, clamped": Method(0.1, ambient=True, clamp=True),
    "ambient": Method(0.1, ambient=True),
    "ambient, clamped, half clean": Method(0.5, ambient=True, clamp=True),
    "ambient, half clean": Method(0.5, ambient=True),
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every arm."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/ambient_diffusion"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    points: int = 1000
    clean: int = 100
    corruption: float = 0.2
    steps: int = 6000
    batch_size: int = 128
    hidden: int = 64
    learning_rate: float = 1e-2
    """of Adam, decayed to 0 along a cosine"""
    samples: int = 2000


def main(config: Config):
    """Train all arms and seeds at once, and report."""

    @functools.cache
    def trained(seed: int) -> dict[str, dict[str, float]]:
        return measured(config, seed)

    arms: dict[str, Any] = {name: functools.partial(lambda name, seed: trained(seed)[name], name) for name in METHODS}
    better = {"sliced_w2": "lower", "to_mode": "lower"}
    return compare(config, arms, baseline="clean tenth alone", better=better)


def measured(config: Config, seed: int) -> dict[str, dict[str, float]]:
    """Train the arms with one seed, side by side, and measure their samples."""
    data_key, fresh_key, train_key, sample_key = jax.random.split(jax.random.key(seed), 4)
    points = draw_points(data_key, config.points)
    is_clean = jnp.arange(config.points) < config.clean
    noise = config.corruption * jax.random.normal(jax.random.fold_in(data_key, 1), points.shape)
    noisy = jnp.where(is_clean[:, None], points, points + noise)
    came = jnp.where(is_clean, 0, config.corruption)
    methods = METHODS.values()
    examples = jnp.stack([points if method.all_clean else noisy for method in methods])
    declared = jnp.stack([came if method.ambient else jnp.zeros_like(came) for method in methods])
    cleans = jnp.asarray([config.points if method.all_clean else config.clean for method in methods])
    options = tuple(jnp.asarray(column) for column in zip(*((m.clean, m.clamp) for m in methods), strict=True))
    train_all, measure_all = programs(config)
    params = train_all(train_key, examples, declared, cleans, *options)
    figures = measure_all(sample_key, params, draw_points(fresh_key, config.samples))
    return {name: {key: float(value[i]) for key, value in figures.items()} for i, name in enumerate(METHODS)}


@functools.cache
def programs(config: Config) -> tuple[Any, Any]:
    """Compiled `train` and `measure` of all arms at once."""
    train_all = jax.vmap(functools.partial(train, config), in_axes=(None, 0, 0, 0, 0, 0))
    measure_all = jax.vmap(functools.partial(measure, config), in_axes=(None, 0, None))
    return jax.jit(train_all), jax.jit(measure_all)


def train(config: Config, key, examples, declared, num_clean, clean_share, clamp) -> Any:
    """Parameters of the denoiser after training on `examples` `[N, 2]`, the first `num_clean` of which are clean."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    count = reweigh_by_noise_level()
    gradient = value_and_grad(losses, count, has_aux=True)

    def step(carry, key):
        params, opt_state, state = carry
        batch = draw_batch(config, key, examples, declared, num_clean, clean_share, clamp)
        _, grads, state = gradient(params, batch, state)
        return (*descend(optimizer, grads, params, opt_state), state), None

    params = init_mlp(jax.random.fold_in(key, 0), (3, config.hidden, config.hidden, 2))
    start = params, optimizer.init(params), count.init(jnp.zeros(config.batch_size))
    return jax.lax.scan(step, start, jax.random.split(jax.random.fold_in(key, 1), config.steps))[0][0]


def draw_batch(config: Config, key, examples, declared, num_clean, clean_share, clamp) -> dict[str, jax.Array]:
    """Rows of both domains, clean and noisy, their noise levels, and the inputs of the network."""
    keys = jax.random.split(key, 4)
    size = (config.batch_size,)
    low = jnp.where(jax.random.uniform(keys[0], size) < clean_share, 0, num_clean)
    rows = jax.random.randint(keys[1], size, low, jnp.where(low == 0, num_clean, len(examples)))
    x, came = examples[rows], declared[rows]
    resampled, clamped = (ambient_noise_levels(keys[2], came, mode=mode) for mode in ("resample", "clamp"))
    levels = jnp.where(clamp, clamped, resampled)
    return {
        "x": x,
        "corruption": came,
        "noise_levels": levels,
        "input": ambient_inputs(keys[3], x, levels, came),
    }


def losses(params, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """EDM's loss `[B]` with the targets of ambient diffusion, and the signals of their weights."""
    levels, came = batch["noise_levels"], batch["corruption"]
    targets = ambient_targets(batch["x"], batch["input"], levels, came)
    error = jnp.sum((denoise(params, batch["input"], levels) - targets) ** 2, axis=1)
    weights = (levels**2 + SCALE**2) / (levels * SCALE) ** 2
    return weights * error, {"noise_levels": levels, "corruption": came}


def denoise(params, inputs: jax.Array, levels: jax.Array) -> jax.Array:
    """Estimate of the clean points `[B, 2]` of inputs with noise of these levels `[B]`, preconditioned as by EDM."""
    levels = levels[:, None]
    total = levels**2 + SCALE**2
    raw = mlp(params, jnp.concatenate([inputs / jnp.sqrt(total), jnp.log(levels) / 4], axis=1))
    return SCALE**2 / total * inputs + levels * SCALE / jnp.sqrt(total) * raw


def generate(config: Config, key, params) -> jax.Array:
    """Samples `[samples, 2]` of the probability flow, by Heun's method; the last step is one of Euler."""
    ramp = jnp.linspace(HIGHEST ** (1 / 7), LOWEST ** (1 / 7), HEUN_STEPS) ** 7
    x = HIGHEST * jax.random.normal(key, (config.samples, 2))

    def slope(x, level):
        return (x - denoise(params, x, jnp.full(len(x), level))) / level

    def step(x, levels):
        level, lower = levels
        first = slope(x, level)
        guess = x + (lower - level) * first
        return x + (lower - level) * (first + slope(guess, lower)) / 2, None

    x = jax.lax.scan(step, x, (ramp[:-1], ramp[1:]))[0]
    return x - LOWEST * slope(x, LOWEST)


def measure(config: Config, key, params, fresh: jax.Array) -> dict[str, jax.Array]:
    """Distance of samples to fresh points and to the nearest centers."""
    samples = generate(config, key, params)
    to_center = jnp.min(jnp.sum((samples[:, None] - centers()[None]) ** 2, axis=2), axis=1)
    distance = sliced_wasserstein(jax.random.key(0), samples, fresh, num_projections=64)
    return {"sliced_w2": jnp.sqrt(distance), "to_mode": jnp.sqrt(jnp.mean(to_center))}


def centers() -> jax.Array:
    """The modes `[8, 2]`."""
    angles = jnp.arange(8) * jnp.pi / 4
    return RADIUS * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def draw_points(key, number: int) -> jax.Array:
    """Clean points `[number, 2]`."""
    keys = jax.random.split(key)
    modes = centers()[jax.random.randint(keys[0], (number,), 0, 8)]
    return modes + SPREAD * jax.random.normal(keys[1], modes.shape)
