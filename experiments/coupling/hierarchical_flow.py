"""Pairing noise with data makes a rectified flow of two or three levels good after few evaluations of its network.

Claim: in a hierarchical rectified flow (HRF2) the law of the velocity at a place and time is learnt by a second flow.
  Coupling noise and data in groups (HRF2-D) narrows that law, so that after few evaluations of the network samples are
  nearer to the data. Coupling velocity noise with velocities that a first stage draws at each place (HRF2-V) makes one
  or two evaluations enough. A third level (HRF3) learns the law of the acceleration.
Data: N(0, 1) to N(±1, 0.1) on a line (`two_modes`); N(0, I) to eight normals around a circle (`eight_modes`).
Command: `python -m experiments hierarchical_flow`
Minutes: 6 on one CPU core
Expected: mean ± standard error over 3 seeds, 4000 samples; 1-Wasserstein distance to the data on the line, sliced
  2-Wasserstein in the plane, by the number n of evaluations for a sample, all levels counted. All arms have networks
  of one width and equal numbers of updates and of rows in each; 5 and 100 are the groups of noise and data that are
  coupled exactly (in HRF2-DV 100).

  | line                | n = 1         | 2             | 4             | 8             |
  |---------------------|---------------|---------------|---------------|---------------|
  | CFM                 | 0.967 ± 0.007 | 0.453 ± 0.003 | 0.130 ± 0.003 | 0.076 ± 0.002 |
  | OT-CFM, 100         | 0.113 ± 0.001 | 0.060 ± 0.002 | 0.048 ± 0.003 | 0.046 ± 0.002 |
  | HRF2                | 0.831 ± 0.005 | 0.445 ± 0.010 | 0.147 ± 0.009 | 0.080 ± 0.012 |
  | HRF2-D, 5           | 0.508 ± 0.019 | 0.180 ± 0.006 | 0.075 ± 0.006 | 0.057 ± 0.005 |
  | HRF2-D, 100         | 0.177 ± 0.008 | 0.081 ± 0.007 | 0.053 ± 0.005 | 0.041 ± 0.005 |
  | HRF3                | 0.665 ± 0.019 | 0.501 ± 0.023 | 0.199 ± 0.020 | 0.074 ± 0.012 |
  | HRF3-D, 100         | 0.364 ± 0.023 | 0.141 ± 0.007 | 0.079 ± 0.003 | 0.044 ± 0.001 |
  | HRF2-V, two stages  | 0.465 ± 0.030 | 0.232 ± 0.013 | 0.135 ± 0.003 | 0.097 ± 0.002 |
  | HRF2-DV, two stages | 0.153 ± 0.008 | 0.077 ± 0.005 | 0.056 ± 0.003 | 0.047 ± 0.006 |

  | plane               | n = 1         | 2             | 4             | 8             |
  |---------------------|---------------|---------------|---------------|---------------|
  | CFM                 | 1.315 ± 0.003 | 0.467 ± 0.007 | 0.180 ± 0.002 | 0.130 ± 0.002 |
  | OT-CFM, 100         | 0.172 ± 0.004 | 0.121 ± 0.003 | 0.103 ± 0.003 | 0.095 ± 0.003 |
  | HRF2                | 1.152 ± 0.023 | 0.575 ± 0.010 | 0.241 ± 0.013 | 0.182 ± 0.001 |
  | HRF2-D, 5           | 0.702 ± 0.014 | 0.294 ± 0.015 | 0.177 ± 0.006 | 0.158 ± 0.004 |
  | HRF2-D, 100         | 0.266 ± 0.014 | 0.181 ± 0.005 | 0.145 ± 0.004 | 0.137 ± 0.006 |
  | HRF3                | 1.058 ± 0.033 | 0.728 ± 0.016 | 0.497 ± 0.013 | 0.344 ± 0.015 |
  | HRF3-D, 100         | 0.343 ± 0.022 | 0.227 ± 0.008 | 0.182 ± 0.008 | 0.170 ± 0.004 |
  | HRF2-V, two stages  | 0.704 ± 0.015 | 0.424 ± 0.016 | 0.280 ± 0.006 | 0.217 ± 0.004 |
  | HRF2-DV, two stages | 0.279 ± 0.025 | 0.196 ± 0.006 | 0.173 ± 0.004 | 0.165 ± 0.003 |

  Two draws of the data differ by 0.031 and 0.100.
  The law of the velocity at t = 1/2 on the line, without training: its variance is 1.80, 0.39 and 0.01 for groups of 1,
  5 and 100, its bimodality (Sarle) 0.90, 0.58 and 0.39 (normal 0.33, uniform 0.56).
  Reproduced: coupling the data narrows the law of the velocity, and HRF2-D gets better with the size of the groups at
  every n. Coupling velocities helps HRF2 with 1 and 2 evaluations (1: by 44 % and 39 %), not with 4 and 8, where the
  errors of the first stage remain. On top of HRF2-D it helps with 1 on the line (paired: by 0.024 ± 0.009) and is
  even or worse elsewhere.
  Not reproduced: HRF2 is better than CFM with 1 evaluation only, and worse in the plane with more. A third level is
  better than two with 1 evaluation only and without coupled data; else it is even or worse. With equal groups OT-CFM
  has the least distance everywhere but on the line at n = 8, where HRF2-D is ahead within the error.
  In the plane OT-CFM alone begins to separate the eight modes (samples.png).
Verdict: partly: coupled data always help and coupled velocities with 1 or 2 evaluations, but OT-CFM is best.
Cost: CPU time of a step relative to CFM: OT-CFM 6.5, HRF2 1.1, HRF2-D 1.6 (groups of 5) and 6.7 (100), HRF3 1.2, HRF3-D
  6.6; second stages 4.0 (V) and 9.5 (DV), where the first draws velocities. The network is tiny. Arms of equal CPU time
  were not tried; CFM could take 6 times as many steps for the price of OT-CFM or HRF2-D, 100.
Choices: of the ways to split n into steps of the levels, each model takes the best on validation draws. A last level of
  1 step is no level, unless velocities were coupled. A second stage starts from the network of the first, and each has
  half of the updates; it sees 10 places with 10 velocities each in a batch of 100.
Tuning: none; the number of steps was set by the time there was, before the first full run.
Reference: Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.coupling._hierarchical import (
    Method,
    depth_of,
    predict,
    print_stage_costs,
    splits,
    start,
    training_path,
)
from experiments.coupling._hierarchical_report import draw_samples
from experiments.coupling._toy_densities import DIMENSIONS, Task, density, directions
from experiments.engine import compare, gradient_arm, run
from experiments.engine.folders import chosen_arms
from minibatch_jax.coupling import grouped_sources, hierarchical_trajectories
from minibatch_jax.coupling.costs import squared_euclidean_cost

EVALUATIONS = (1, 2, 4, 8)
BETTER = {f"distance_at_{n}": "lower" for n in EVALUATIONS}
NUM_TRAIN = 20_000
NUM_TEST = 4000
NUM_BINS = 200
SHOWN_PATH = {1: (8,), 2: (4, 2), 3: (2, 2, 2)}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every arm; none was tuned."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/hierarchical_flow"
    task: Literal["all", "two_modes", "eight_modes"] = "all"
    arms: tuple[str, ...] = ()
    steps: int = 4000
    """of both stages together"""
    batch_size: int = 100
    """also the size of the large groups that are coupled"""
    evaluate_every: int = 4000
    checkpoint_every: int = 4000
    hidden: int = 128
    learning_rate: float = 1e-3
    """of Adam, decayed to 0 along a cosine, in each stage"""
    draws: int = 10
    """velocities of each place in a second stage"""
    draw_steps: int = 8
    """evaluations of the first stage for each of them"""


class Draws(NamedTuple):
    """What models are measured with: noise `[N, d]`, a key for the velocity noise, and items of the data `[N, d]`."""

    noise: jax.Array
    key: jax.Array
    items: jax.Array


def main(config: Config):
    """Measure the law of the velocities, train all arms on all tasks, and report."""
    tasks: tuple[Task, ...] = tuple(DIMENSIONS) if config.task == "all" else (config.task,)
    records = []
    for task in tasks:
        here = dataclasses.replace(config, task=task, out=str(Path(config.out) / task))
        if task == "two_modes":
            laws: dict[str, Any] = {f"groups of {g}": partial(velocity_law, g) for g in (1, 5, config.batch_size)}
            better = {"variance": "lower", "bimodality": "lower"}
            law = dataclasses.replace(here, out=str(Path(config.out) / "law"), arms=())
            records += compare(law, laws, baseline="groups of 1", better=better)
        records += train(here, task)
    return records


def methods(config: Config) -> dict[str, Method]:
    """The arms."""
    full = config.batch_size
    return {
        "CFM": Method((1,)),
        f"OT-CFM, {full}": Method((full,)),
        "HRF2": Method((1, 1)),
        "HRF2-D, 5": Method((5, 1)),
        f"HRF2-D, {full}": Method((full, 1)),
        "HRF3": Method((1, 1, 1)),
        f"HRF3-D, {full}": Method((full, 1, 1)),
        "HRF2-V, two stages": Method((1, 1), draws=config.draws),
        "HRF2-DV, two stages": Method((full, 1), draws=config.draws),
    }


def baselines(config: Config) -> dict[str, str]:
    """What each arm is compared with: the flow of one level, or what it adds a level or pairs to."""
    data = f"HRF2-D, {config.batch_size}"
    own = {data: "HRF2", f"OT-CFM, {config.batch_size}": "CFM", "HRF2": "CFM", "HRF2-DV, two stages": data}
    own[f"HRF3-D, {config.batch_size}"] = data
    return {name: own.get(name, "HRF2") for name in methods(config) if name != "CFM"}


def train(config: Config, task: Task) -> list[dict[str, Any]]:
    """Train all arms on a task."""
    out, dimension = Path(config.out), DIMENSIONS[task]

    def data(seed):
        rng = np.random.default_rng(seed)
        return {
            "train": {"x": density(task, rng, NUM_TRAIN)},
            "validation": draws(task, 1, rng),
            "test": draws(task, 2, np.random.default_rng(2507)),
            "directions": directions(dimension),
        }

    def arm(method):
        def gradient(state, batch):
            key, path_key = jax.random.split(state.keys)
            path, teacher = training_path(config, method, path_key, batch["x"], state, predict)
            loss, grads = jax.value_and_grad(loss_fn)(state.params, path)
            return grads, {"keys": key, "selection_state": teacher}, {"loss": loss}

        schedule = method.schedule(config.learning_rate, config.steps)
        return gradient_arm(optax.adam(schedule), partial(start, method, dimension, 2 * (config.hidden,)), gradient)

    arms = {name: arm(method) for name, method in methods(config).items()}
    measure_jit = jax.jit(measure)
    shown = {}

    def evaluate(state, data):
        return measure_jit(state.params, data)[0]

    def finish(name, seed, state, data):
        if seed == config.seeds[0]:
            samples = measure_jit(state.params, data)[1]
            noise = jnp.linspace(-2.5, 2.5, 40)[:, None] * jnp.ones(dimension)[None, :]
            steps = SHOWN_PATH[depth_of(state.params, dimension)]
            paths = hierarchical_trajectories(8, partial(predict, state.params), noise, steps=steps)
            shown[name] = {n: np.asarray(x) for n, x in samples.items()}, np.asarray(paths)

    options: dict[str, Any] = {"summary": summary, "finish": finish, "baseline": baselines(config), "better": BETTER}
    records = run(config, arms, data, evaluate, steps_per_call=100, **options)
    first = data(config.seeds[0])
    draw_samples(shown, np.asarray(first["test"].items), out / "samples.png")
    floor = distance_to(first["validation"].items, first["test"].items, first["directions"])
    print(f"Distance between two draws of {task}: {float(floor):.3f}")
    if dimension == 1:
        batch = {"x": jnp.asarray(first["train"]["x"][: config.batch_size])}
        print_stage_costs(config, methods(config), chosen_arms(config, arms), batch, out / "costs.md")
    return records


def loss_fn(params, path) -> jax.Array:
    """Mean squared error of the network on one path."""
    found = predict(params, path.states, path.times)
    return jnp.mean(jnp.sum((found - path.target) ** 2, axis=1))


def measure(params, data) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Distances to the test items and samples, by number of evaluations, each with the split that validation chose."""
    metrics, samples = {}, {}
    depth = depth_of(params, data["test"].noise.shape[1])
    for n in EVALUATIONS:
        found = {}
        for name in ("validation", "test"):
            noise, key, _ = data[name]
            ends = [
                hierarchical_trajectories(key, partial(predict, params), noise, steps=steps)[-1]
                for steps in splits(n, depth)
            ]
            found[name] = jnp.stack(ends)
        distance = partial(distance_to, directions=data["directions"])
        validation = jnp.stack([distance(x, data["validation"].items) for x in found["validation"]])
        best = jnp.argmin(validation)
        samples[str(n)] = found["test"][best]
        metrics[f"distance_at_{n}"] = distance(samples[str(n)], data["test"].items)
        metrics[f"outer_steps_at_{n}"] = jnp.array([steps[0] for steps in splits(n, depth)])[best]
    return metrics, samples


def distance_to(x: jax.Array, items: jax.Array, directions: jax.Array) -> jax.Array:
    """Distance of two sets of equally many points: 1-Wasserstein on a line, else sliced 2-Wasserstein."""
    p = 1 if x.shape[1] == 1 else 2
    gaps = jnp.sort(x @ directions, axis=0) - jnp.sort(items @ directions, axis=0)
    return jnp.mean(jnp.abs(gaps) ** p) ** (1 / p)


def velocity_law(group: int, seed: int) -> dict[str, float]:
    """The law of the velocity given the place at t = 1/2, in bins of equally many places, when groups are coupled.

    `variance` is its mean variance, `bimodality` the mean of Sarle's coefficient: 1/3 for a normal law, 5/9 for a
    uniform one, 1 for two points.
    """
    rng = np.random.default_rng(seed)
    x1, x0 = density("two_modes", rng, NUM_TRAIN), rng.normal(size=(NUM_TRAIN, 1)).astype(np.float32)
    x0 = x0[np.asarray(jax.jit(grouped_sources, static_argnums=(0, 3))(squared_euclidean_cost, x0, x1, group))]
    order = np.argsort((x0 + x1)[:, 0])
    v = (x1 - x0)[order, 0].reshape(NUM_BINS, -1)
    z = (v - v.mean(1, keepdims=True)) / v.std(1, keepdims=True)
    sarle = ((z**3).mean(1) ** 2 + 1) / (z**4).mean(1)
    return {"variance": v.var(1).mean(), "bimodality": sarle.mean()}


def draws(task: Task, key: int, rng: np.random.Generator) -> Draws:
    """Noise and items to measure with."""
    noise_key, velocity_key = jax.random.split(jax.random.key(key))
    noise = jax.random.normal(noise_key, (NUM_TEST, DIMENSIONS[task]))
    return Draws(noise, velocity_key, jnp.asarray(density(task, rng, NUM_TEST)))


def summary(records) -> dict[str, float]:
    """The numbers of the table."""
    final = records[-1]["metrics"]
    return {name: value for name, value in final.items() if name != "loss"}
