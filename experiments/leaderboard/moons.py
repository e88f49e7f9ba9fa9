"""Eight Gaussians to two moons by flow matching: which coupling of source and data gives good samples in few steps.

Task: a flow in the plane from eight Gaussians on a circle to two moons, a network with three hidden layers, trained by
  Adam on pairs of 128 sources and 128 points of the moons. The scores are the 2-Wasserstein distance of 512 samples
  after 4 Euler steps to other points of the moons, and the energy of the paths over that of straight ones.
Rows: a coupling chooses pairs before the network sees them, so every method differentiates 128 rows, and equal compute
  is an equal number of updates; what the choice itself costs is in the seconds. The baseline takes pairs as they come.
Signals: the squared Euclidean cost. A pair is drawn for each point of the moons from the column of the plan. Of a
  method without a default, epsilon is 0.05 of the mean cost, the fraction of mass 0.8; `couple_hierarchical` assigns
  items within mini-batches, and mini-batches to each other.
Tuning: the learning rate is the best of 3e-4, 1e-3, 3e-3 and 1e-2 for the baseline, by the distance to a third draw of
  the moons, with seeds 100, 101 and 102 (`--validate`). Every method takes it, and its own default arguments.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.coupling._flows import TIME_FEATURES, squared_norm, trajectory, velocity
from experiments.coupling._toy_densities import far_modes, moons
from experiments.engine import gradient_arm, init_mlp, weighted_gradient
from experiments.leaderboard._race import Entry, Method, Outcome, made, name_of, race
from experiments.leaderboard._signals import missing_signals
from minibatch_jax import coupling
from minibatch_jax.coupling.costs import squared_euclidean_cost

NOUN = "coupling"
BASELINE = "pairs as they come"
ROWS = 128
TRAINING_POINTS, TEST_POINTS = 8192, 512
EULER_STEPS, FINE_STEPS = 4, 50
NEAR: dict[str, Any] = {"epsilon": 0.05, "relative_to": "mean"}
METHODS: tuple[Method, ...] = (
    coupling.couple_assignment,
    partial(coupling.couple_by_kernel, **NEAR),
    partial(coupling.couple_hierarchical, coupling.couple_assignment(), coupling.couple_assignment(), mini_batches=4),
    coupling.couple_independent,
    coupling.couple_nearest,
    partial(coupling.couple_partial, fraction=0.8),
    partial(coupling.couple_partial_sinkhorn, fraction=0.8, **NEAR),
    partial(coupling.couple_quantized, bits=8),
    partial(coupling.couple_sinkhorn, **NEAR),
    coupling.couple_transport,
    partial(coupling.couple_unbalanced, rho=1.0, **NEAR),
)
NO_ENTRY = {"couple_semidiscrete": "its potentials belong to the points of a fixed set, and each batch has others"}
"""factories of the noun that no signal would bring in"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every method."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/leaderboard/moons"
    arms: tuple[str, ...] = ()
    """names of the methods to run; empty: all"""
    budget: int = 576_000
    """compute of a run, in rows forwarded + 2 x rows differentiated: 1500 updates on 128 rows"""
    hidden: int = 64
    learning_rate: float = 1e-3
    """of Adam, decayed to 0 along a cosine"""
    validate: bool = False
    """test on another draw of the moons: for tuning"""


def main(config: Config) -> Outcome:
    """Run the methods whose signals the task has."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.budget // (3 * ROWS)))
    cost = jax.ShapeDtypeStruct((ROWS, ROWS), jnp.float32)
    missing = {name_of(m): missing_signals(made(m, 0), cost, {"cost": cost}) for m in METHODS}
    entries = {BASELINE: entry(config, optimizer, None)}
    entries |= {name_of(m): entry(config, optimizer, made(m, 0)) for m in METHODS if not missing[name_of(m)]}
    better = {f"w2_at_{EULER_STEPS}": "lower", "path_energy_ratio": "lower"}
    return Outcome(race(config, entries, partial(data, config), evaluate, baseline=BASELINE, better=better), missing)


def entry(config: Config, optimizer: optax.GradientTransformation, method: Any) -> Entry:
    """The arm and the costs of a coupling, of pairs as they come if it is None."""

    def start(key):
        params_key, key = jax.random.split(key)
        return {"params": init_mlp(params_key, (2 + TIME_FEATURES, *3 * (config.hidden,), 2)), "keys": key}

    def gradient(state, batch):
        key, mode_key, noise_key, pair_key, path_key = jax.random.split(state.keys, 5)
        angle = jax.random.randint(mode_key, (ROWS,), 0, 8) * (jnp.pi / 4)
        modes = 4 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        sources = modes + 0.3 * jax.random.normal(noise_key, (ROWS, 2))
        pairs = coupling.flow_matching_pairs(pair_key, sources, batch["point"], method, cost_fn=squared_euclidean_cost)
        path = coupling.conditional_path(path_key, pairs.x0, pairs.x1)
        _, grads = weighted_gradient(flow_losses)(state.params, path, pairs.weights)
        return grads, {"keys": key}, {}

    return Entry(gradient_arm(optimizer, start, gradient), ROWS, 3 * ROWS)


def flow_losses(params: Any, path: Any) -> jax.Array:
    """Squared error of the velocity of each pair `[B]`."""
    return squared_norm(velocity(params, path.xt, path.t) - path.ut)


def data(config: Config, seed: int) -> dict[str, Any]:
    """Points of the moons to train on and to compare with, and sources to sample from."""
    train, test = np.random.default_rng([seed, 1]), np.random.default_rng([3 if config.validate else 2])
    return {
        "train": {"point": moons(train, TRAINING_POINTS)},
        "test": moons(test, TEST_POINTS),
        "source": far_modes(test, TEST_POINTS),
    }


@jax.jit
def evaluate(state, data):
    """Distance of samples to the test points after few steps, and how straight the paths are after many."""
    test, source = jnp.asarray(data["test"]), jnp.asarray(data["source"])
    samples, _ = trajectory(state.params, source, EULER_STEPS)
    partner = test[coupling.assignment(squared_euclidean_cost(samples, test)).columns]
    end, velocities = trajectory(state.params, source, FINE_STEPS)
    energy = jnp.mean(squared_norm(velocities)) / jnp.mean(squared_norm(end - source))
    distance = jnp.sqrt(jnp.mean(squared_norm(samples - partner)))
    return {f"w2_at_{EULER_STEPS}": distance, "path_energy_ratio": energy}
