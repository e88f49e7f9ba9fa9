"""Entropic pairs and Brownian bridges learn the Schrödinger bridge, which between normal laws is known exactly.

Claim: flow matching on Brownian bridges between entropic pairs (SB-CFM) learns the Schrödinger bridge: its laws at all
  times and, with the score, its pairs. Independent and exact pairs learn other processes. As a generator it is between
  independent pairs and OT-CFM.
Data: in the plane. Normal law to a longer, narrower one; normal law to two moons.
Command: `python -m experiments schroedinger_bridge`
Minutes: 1.5 on one CPU core
Expected: mean ± standard error over 3 seeds, equal updates.
  Between normal laws all arms have bridges of sigma 1 and differ in their pairs. "Law" is the 2-Wasserstein distance of
  the flow to the bridge at four times, as normal laws; "end" that of the diffusion at its end, "pairs" the error of the
  covariance of its two ends. As many draws of the exact bridge give 0.036, 0.042 and 0.046.

  | normals     | law           | end           | pairs         |
  |-------------|---------------|---------------|---------------|
  | independent | 0.185 ± 0.006 | 0.054 ± 0.005 | 0.145 ± 0.011 |
  | exact       | 0.077 ± 0.003 | 0.056 ± 0.007 | 0.034 ± 0.003 |
  | entropic    | 0.039 ± 0.009 | 0.058 ± 0.004 | 0.039 ± 0.006 |

  Error of the covariance of pairs from plans of mini-batches, without training (pairs/table.md), by batch size:

  | plans    | 8             | 32            | 128           |
  |----------|---------------|---------------|---------------|
  | entropic | 0.395 ± 0.008 | 0.113 ± 0.004 | 0.029 ± 0.005 |
  | exact    | 0.129 ± 0.007 | 0.311 ± 0.003 | 0.454 ± 0.005 |

  Normal law to moons: path energy over that of straight paths, and sliced W2 to the moons by Euler steps.

  | moons                 | energy        | 1 step        | 2             | 5             | 50            |
  |-----------------------|---------------|---------------|---------------|---------------|---------------|
  | independent, straight | 1.371 ± 0.003 | 2.480 ± 0.026 | 1.423 ± 0.057 | 0.478 ± 0.008 | 0.216 ± 0.029 |
  | exact, straight       | 1.010 ± 0.000 | 0.351 ± 0.023 | 0.266 ± 0.022 | 0.221 ± 0.018 | 0.211 ± 0.015 |
  | bridge, 0.5           | 1.010 ± 0.001 | 0.407 ± 0.047 | 0.312 ± 0.048 | 0.243 ± 0.040 | 0.214 ± 0.024 |
  | bridge, 1             | 1.020 ± 0.001 | 0.488 ± 0.046 | 0.373 ± 0.053 | 0.268 ± 0.047 | 0.208 ± 0.026 |

  Entropic pairs give the laws of the bridge within the error of the draws, which exact and independent pairs do not.
  The diffusion has the pairs of the bridge with entropic and exact pairs alike; training on independent pairs, whose
  own error is 1.58, comes near too. In batches of 8 exact plans are nearer to the bridge than entropic ones, which are
  blurred by the batch; from 32 on they are not.
Verdict: partly: the laws are those of the bridge, but its pairs are found with exact pairs as well.
Cost: CPU of a step relative to independent pairs: bridges 2 to 3, exact pairs 8; the network is tiny.
Tuning: none.
Reference: Tong et al., Simulation-free Schrödinger bridges via score and flow matching, 2023 (arXiv 2307.03672).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.coupling._flow_report import by_x
from experiments.coupling._flows import TIME_FEATURES, sliced_distance, squared_norm, trajectory, velocity
from experiments.coupling._gaussian_bridge import Bridge, bures
from experiments.coupling._toy_densities import directions, moons
from experiments.engine import Arm, compare, gradient_arm, init_mlp, run, weighted_gradient
from experiments.shared.step_costs import print_step_costs
from minibatch_jax.coupling import (
    assignment_plan,
    bridge_path,
    conditional_path,
    couple_assignment,
    flow_matching_pairs,
    schroedinger_bridge_pairs,
    sinkhorn,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.flows.matching import FlowPairs

END = np.diag([4.0, 0.25])
MEAN = np.array([2.0, 0.0])
TIMES = (0.25, 0.5, 0.75, 1.0)
FINE_STEPS = 100
EULER_STEPS = (1, 2, 5, 50)
NUM_TRAIN = 20_000
NUM_TEST = 4000
NUM_PAIRS = 32_768


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every arm; none was tuned."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/schroedinger_bridge"
    sigma: float = 1.0
    """noise of the bridge between normal laws"""
    moon_sigmas: tuple[float, ...] = (0.5, 1.0)
    pair_batches: tuple[int, ...] = (8, 32, 128)
    """sizes of the batches whose plans are compared with the closed form, without training"""
    steps: int = 1000
    batch_size: int = 128
    evaluate_every: int = 1000
    checkpoint_every: int = 1000
    hidden: int = 64
    learning_rate: float = 2e-3
    """of Adam, decayed to 0 along a cosine"""


def main(config: Config):
    """Compare plans of batches with the closed form, train on normal laws and on moons, and report."""
    part = lambda name: dataclasses.replace(config, out=str(Path(config.out) / name))  # noqa: E731
    plans: dict[str, Any] = {
        "entropic": lambda cost: sinkhorn(cost, epsilon=2 * config.sigma**2).matrix,
        "exact": lambda cost: assignment_plan(cost, jnp.full(cost.shape, 1 / cost.size)),
    }
    errors: dict[str, Any] = {name: partial(pair_errors, config, plan) for name, plan in plans.items()}
    records = compare(part("pairs"), errors, xlabel="batch size", summary=by_x("error", "trace"))
    ends = jax.jit(partial(normal_ends, config))
    evaluate = lambda state, data: measure_normals(config, ends(state, data))  # noqa: E731
    records += train(part("normals"), normals, bridges(config), evaluate, ("law", "end", "pairs"))
    metrics = "path_energy_ratio", *(f"sliced_w2_at_{n}" for n in EULER_STEPS)
    records += train(part("moons"), to_moons, flows(config), jax.jit(measure_moons), metrics)
    batch = jax.tree.map(jnp.asarray, to_moons(np.random.default_rng(0), config.batch_size))
    arms = flows(config)
    print_step_costs(arms, batch, dict.fromkeys(arms, config.steps), Path(config.out) / "costs.md")
    return records


def train(
    config: Config, draw: Callable, arms: dict[str, Arm], evaluate: Callable, metrics: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Train all arms on pairs of laws."""

    def data(seed):
        train, test = (draw(np.random.default_rng(s), n) for s, n in ((seed, NUM_TRAIN), (2307, NUM_TEST)))
        return {"train": train, "test": test, "directions": directions(2)}

    better = dict.fromkeys(metrics, "lower")
    return run(config, arms, data, evaluate, steps_per_call=100, baseline=next(iter(arms)), better=better)


def make_arm(config: Config, path_of: Callable) -> Arm:
    """A network of the velocity and of the noise, trained on what `path_of` makes of a batch: a path and weights."""

    def start(key):
        key, params_key = jax.random.split(key)
        return {"params": init_mlp(params_key, (2 + TIME_FEATURES, *3 * (config.hidden,), 4)), "keys": key}

    def gradient(state, batch):
        key, path_key = jax.random.split(state.keys)
        path, weights = path_of(path_key, batch["x0"], batch["x1"])
        loss, grads = weighted_gradient(losses)(state.params, path, weights)
        return grads, {"keys": key}, {"loss": loss}

    return gradient_arm(optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps)), start, gradient)


def pairings(sigma: float) -> dict[str, Callable[..., FlowPairs]]:
    """How a batch of sources and targets is paired."""
    return {
        "independent": partial(flow_matching_pairs, coupling=None),
        "exact": partial(flow_matching_pairs, coupling=couple_assignment()),
        "entropic": partial(schroedinger_bridge_pairs, sigma=sigma),
    }


def bridges(config: Config) -> dict[str, Arm]:
    """The arms between normal laws: bridges of one noise between pairs of three kinds."""
    pairs = pairings(config.sigma)
    return {name: make_arm(config, partial(on_bridge, pair, config.sigma)) for name, pair in pairs.items()}


def flows(config: Config) -> dict[str, Arm]:
    """The arms for the moons: straight lines without noise, and Schrödinger bridges."""
    pairs = pairings(1.0)
    paths = {f"{name}, straight": partial(on_line, pairs[name]) for name in ("independent", "exact")}
    for sigma in config.moon_sigmas:
        paths[f"bridge, {sigma:g}"] = partial(on_bridge, pairings(sigma)["entropic"], sigma)
    return {name: make_arm(config, path_of) for name, path_of in paths.items()}


def on_bridge(pair: Callable, sigma: float, key: jax.Array, x0: jax.Array, x1: jax.Array):
    """A path on Brownian bridges between pairs, and the weights of the pairs."""
    pair_key, path_key = jax.random.split(key)
    pairs = pair(pair_key, x0, x1)
    return bridge_path(path_key, pairs.x0, pairs.x1, sigma), pairs.weights


def on_line(pair: Callable, key: jax.Array, x0: jax.Array, x1: jax.Array):
    """A path on straight lines between pairs, and the weights of the pairs."""
    pair_key, path_key = jax.random.split(key)
    pairs = pair(pair_key, x0, x1)
    return conditional_path(path_key, pairs.x0, pairs.x1), pairs.weights


def losses(params, path) -> jax.Array:
    """Squared error of the velocity `[B]` and, on bridges, of the noise."""
    found = velocity(params, path.xt, path.t)
    error = squared_norm(found[:, :2] - path.ut)
    return error + squared_norm(found[:, 2:] - path.noise) if hasattr(path, "noise") else error


def field(params, x: jax.Array, t: jax.Array) -> jax.Array:
    """The velocity `[B, 2]` that the network gives."""
    return velocity(params, x, t)[:, :2]


def normal_ends(config: Config, state, data) -> dict[str, jax.Array]:
    """Places of the flow and of the diffusion from the same test sources; steps begin at the middle of their times.

    The drift of the diffusion is the velocity plus `sigma^2 / 2` times the score, which is
    `-noise / (sigma sqrt(t (1 - t)))`.
    """
    x0, sigma = data["test"]["x0"], config.sigma

    def move(carry, step):
        flow, diffusion = carry
        time, key = step
        t = jnp.full(len(x0), time)
        slope, found = field(state.params, flow, t), velocity(state.params, diffusion, t)
        drift = found[:, :2] - sigma / 2 * found[:, 2:] / jnp.sqrt(time * (1 - time))
        shake = sigma * jax.random.normal(key, x0.shape) / FINE_STEPS**0.5
        carry = flow + slope / FINE_STEPS, diffusion + drift / FINE_STEPS + shake
        return carry, carry[0]

    times = (jnp.arange(FINE_STEPS) + 0.5) / FINE_STEPS
    keys = jax.random.split(jax.random.key(2307), FINE_STEPS)
    (_, diffused), way = jax.lax.scan(move, (x0, x0), (times, keys))
    return {"x0": x0, "flow": way, "diffusion": diffused}


def measure_normals(config: Config, found: dict[str, jax.Array]) -> dict[str, float]:
    """Errors of the laws on the way and of the pairs, against the closed form.

    `law` is the mean 2-Wasserstein distance of the flow at `TIMES`, as normal laws; `end` that of the diffusion at its
    end; `pairs` the error of the covariance of the two ends of a diffusion, in Frobenius norm, and `flow_pairs` that
    of the flow.
    """
    bridge = bridge_of(config)
    x0, way, diffused = (np.asarray(found[name], np.float64) for name in ("x0", "flow", "diffusion"))

    def off(x, t):
        return bures(x.mean(0), np.cov(x, rowvar=False), t * MEAN, bridge.covariance(t))

    def pairs(x):
        cross = (x0 - x0.mean(0)).T @ (x - x.mean(0)) / len(x)
        return float(np.linalg.norm(cross - bridge.cross_covariance()))

    laws = [off(way[round(t * FINE_STEPS) - 1], t) for t in TIMES]
    return {
        "law": float(np.mean(laws)),
        "end": off(diffused, 1.0),
        "pairs": pairs(diffused),
        "flow_pairs": pairs(way[-1]),
    }


def measure_moons(state, data) -> dict[str, jax.Array]:
    """Distances of samples to test targets by Euler steps, and the energy of the paths over that of straight ones."""
    x0, x1 = data["test"]["x0"], data["test"]["x1"]
    end, velocities = trajectory(state.params, x0, EULER_STEPS[-1], field)
    metrics = {"path_energy_ratio": jnp.mean(squared_norm(velocities)) / jnp.mean(squared_norm(end - x0))}
    for n in EULER_STEPS:
        samples = trajectory(state.params, x0, n, field)[0]
        metrics[f"sliced_w2_at_{n}"] = sliced_distance(samples, x1, data["directions"])
    return metrics


def normals(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Sources `x0` and targets `x1` `[size, 2]` of the two normal laws."""
    x0, z = rng.normal(size=(2, size, 2))
    return {"x0": x0.astype(np.float32), "x1": (MEAN + z @ np.sqrt(END)).astype(np.float32)}


def to_moons(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Normal sources `x0` and targets `x1` `[size, 2]` on two moons."""
    return {"x0": rng.normal(size=(size, 2)).astype(np.float32), "x1": moons(rng, size)}


def bridge_of(config: Config) -> Bridge:
    """The bridge between the two normal laws."""
    return Bridge(np.eye(2), END, MEAN, config.sigma)


def pair_errors(config: Config, plan: Callable[[jax.Array], jax.Array], seed: int) -> dict[int, dict[str, float]]:
    """Errors of the covariance of pairs, in mean over plans of many batches, by the size of a batch."""
    wanted = bridge_of(config).cross_covariance()

    @partial(jax.jit, static_argnums=1)
    def covariance(key, size):
        def one(key):
            x0, z = jax.random.normal(key, (2, size, 2))
            centered = z @ jnp.asarray(np.sqrt(END), jnp.float32)
            return x0.T @ plan(squared_euclidean_cost(x0, centered)) @ centered

        return jnp.mean(jax.lax.map(one, jax.random.split(key, NUM_PAIRS // size)), axis=0)

    found = {n: np.asarray(covariance(jax.random.key(seed), n)) for n in config.pair_batches}
    return {
        n: {"error": float(np.linalg.norm(c - wanted)), "trace": np.trace(c), "wanted_trace": np.trace(wanted)}
        for n, c in found.items()
    }
