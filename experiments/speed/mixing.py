"""Online rules of mixing, 12 domains, under `lax.scan`: at most 20 microseconds a step, beside loops in NumPy.

A call runs many steps; ours and NumPy's take turns. The last mixtures of both must agree. Compiling is measured with
the compilation cache off. In training a rule is one small part of the step, so that its cost is that of the scan.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.speed import _mixing_numpy as peers
from experiments.speed._timing import milliseconds
from minibatch_jax import mixing

TARGET = 20.0
"""microseconds a step"""
Rule = tuple[optax.GradientTransformationExtraArgs, peers.Loop]


def rules(domains: int) -> dict[str, Rule]:
    """Name to the transformation and its peer."""
    graph = np.random.default_rng(1).uniform(0, 1, (domains, domains)).astype(np.float32)
    return {
        "ODM, averaged": (
            mixing.mix_by_odm(loss_scale=15.0, floor=0.03),
            peers.odm("averaged", scale=15.0, floor=0.03),
        ),
        "ODM, perplexity": (mixing.mix_by_odm("perplexity"), peers.odm("perplexity")),
        "ODM, cumulative": (mixing.mix_by_odm("cumulative", loss_scale=0.1), peers.odm("cumulative", scale=0.1)),
        "DoReMi": (mixing.mix_by_doremi(0.01, smoothing=0.01), peers.doremi(0.01, 0.01)),
        "DoGE": (mixing.mix_by_doge(0.001, smoothing=0.01), peers.doge(0.02, 0.01)),
        "Skill-It": (mixing.mix_by_skills(jnp.asarray(graph), 0.05), peers.skills(graph, 0.05, 3)),
    }


def training(steps: int, domains: int) -> tuple[np.ndarray, peers.Signals]:
    """A prior and the signals of a training: losses that fall to other floors, and one domain in eight not drawn."""
    rng = np.random.default_rng(0)
    floors, falls = rng.uniform(0.5, 2, domains), rng.uniform(0.5, 2, domains)
    losses = floors + falls / np.sqrt(np.arange(1, steps + 1))[:, None] + 0.1 * rng.normal(size=(steps, domains))
    signals = {
        "domain_losses": losses.astype(np.float32),
        "domain_counts": (rng.integers(0, 8, (steps, domains)) * 4).astype(np.int32),
        "domain_alignments": rng.normal(0.5, 1, (steps, domains)).astype(np.float32),
    }
    prior = rng.dirichlet(np.full(domains, 4.0))
    return prior.astype(np.float32), signals


def compiled(rule: optax.GradientTransformationExtraArgs, *arguments: Any) -> tuple[Callable[..., Any], float]:
    """Return the program of all steps and the seconds that it took to trace and compile."""

    def run(prior: jax.Array, signals: dict[str, jax.Array]) -> jax.Array:
        def step(carry: Any, now: dict[str, jax.Array]) -> tuple[Any, None]:
            return rule.update(prior, carry[1], **now), None

        return jax.lax.scan(step, (prior, rule.init(prior)), signals)[0]

    start = time.perf_counter()
    program = jax.jit(run).lower(*arguments).compile()
    return program, time.perf_counter() - start


def main(domains: int = 12, steps: int = 1000, repeats: int = 21) -> None:
    """Print one line for each rule."""
    jax.config.update("jax_enable_compilation_cache", False)
    prior, signals = training(steps, domains)
    on_device = jax.tree.map(jnp.asarray, (prior, signals))
    print(f"\nOnline rules, K = {domains}, microseconds a step, target {TARGET:.0f}", end=" ")
    print(f"(load average {os.getloadavg()[0]:.1f})")
    print(f"  {'':<18} {'compile s':>10} {'median':>8} {'min':>8} {'numpy':>8} {'min':>8} {'ours / numpy':>13}")
    for name, (rule, peer) in rules(domains).items():
        program, seconds = compiled(rule, *on_device)
        difference = np.abs(np.asarray(program(*on_device)[0]) - peer(prior, signals)).max()
        if difference > 1e-3:
            raise AssertionError(f"{name}: the mixtures differ by {difference:.2g}, wanted at most 0.001.")
        ours, theirs = [], []
        for _ in range(repeats):
            ours += milliseconds(lambda p=program: jax.block_until_ready(p(*on_device)), 1, warmup=0)
            theirs += milliseconds(lambda p=peer: p(prior, signals), 1, warmup=0)
        times = [1e3 * f(values) / steps for values in (ours, theirs) for f in (statistics.median, min)]
        cells = " ".join(f"{t:>8.2f}" for t in times)
        print(f"  {name:<18} {seconds:>10.2f} {cells} {times[0] / times[2]:>13.3f}")


if __name__ == "__main__":
    main()
