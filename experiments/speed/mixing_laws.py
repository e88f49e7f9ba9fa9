"""A mixing law fitted to 512 runs of 17 domains from 16 starts in less than a second, beside scipy; compile time apart.

The losses are those of another law, as real ones are, so that the fit is not exact. The peers minimize the same sum:
scipy's L-BFGS with the gradient by JAX, from as many random starts, one after another, and BFGS of JAX, vmapped over
them. The last lines say by how much of the loss each minimum is above the lowest of the three. Repetitions are
interleaved.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.optimize
import numpy as np
import optax
import scipy.optimize

from experiments.speed._timing import print_ratios
from minibatch_jax.mixing import fit_mixing_law

DELTA = 0.05


def made_runs(runs: int, domains: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures with many small proportions, and losses that fall with powers of two of them, as real losses do."""
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.full(domains, 0.2), runs).astype(np.float32)
    shares = np.maximum(mixtures, 1e-3)
    losses = 4 * shares[:, 0] ** -0.05 * shares[:, 1] ** -0.01 + 0.02 * rng.normal(size=runs)
    return mixtures, losses.astype(np.float32)


def objective(params: jax.Array, mixtures: jax.Array, losses: jax.Array) -> jax.Array:
    """Sum of Huber losses of `exp(log c) + exp(t . r)`."""
    predicted = jnp.exp(params[0]) + jnp.exp(mixtures @ params[1:])
    return jnp.sum(optax.losses.huber_loss(predicted, losses, delta=DELTA))


def random_starts(starts: int, domains: int) -> np.ndarray:
    """`[S, 1 + K]` around c = 1 and k = 1."""
    return 0.5 * np.random.default_rng(1).normal(size=(starts, 1 + domains)).astype(np.float32)


def scipy_fit(mixtures: np.ndarray, losses: np.ndarray, starts: int) -> Callable[[], float]:
    """Least loss by L-BFGS of scipy, one start after another."""
    both = jax.jit(jax.value_and_grad(objective))

    def function(params: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = both(jnp.asarray(params, jnp.float32), mixtures, losses)
        return float(value), np.asarray(gradient, float)

    def call() -> float:
        found = (
            scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B")
            for start in random_starts(starts, mixtures.shape[1])
        )
        return min(float(each.fun) for each in found)

    return call


def jax_fit(mixtures: np.ndarray, losses: np.ndarray, starts: int, steps: int) -> Callable[[], float]:
    """Least loss by BFGS of JAX from all starts at once."""
    data = jnp.asarray(mixtures), jnp.asarray(losses)

    def one(params: jax.Array) -> jax.Array:
        found = jax.scipy.optimize.minimize(objective, params, data, method="BFGS", options={"maxiter": steps})
        return found.fun

    fit = jax.jit(lambda params: jnp.nanmin(jax.vmap(one)(params)))
    return lambda: float(fit(jnp.asarray(random_starts(starts, mixtures.shape[1]))))


def ours(mixtures: np.ndarray, losses: np.ndarray, starts: int) -> Callable[[], float]:
    """Least loss by this library."""
    fit = jax.jit(functools.partial(fit_mixing_law, key=0, num_starts=starts, delta=DELTA))
    return lambda: float(fit(jnp.asarray(mixtures), jnp.asarray(losses)).loss)


def main(runs: int = 512, domains: int = 17, starts: int = 16, steps: int = 200, repeats: int = 9) -> None:
    """Print seconds of the first call, which compiles, and milliseconds of the later ones."""
    jax.config.update("jax_enable_compilation_cache", False)
    data = made_runs(runs, domains)
    calls = {
        "minibatch_jax": ours(*data, starts),
        "scipy L-BFGS-B, jitted gradient": scipy_fit(*data, starts),
        f"JAX BFGS, {steps} steps, vmapped": jax_fit(*data, starts, steps),
    }
    losses, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        began = time.perf_counter()
        losses[name] = call()
        print(f"  {name:<44} first call {time.perf_counter() - began:.2f} s, with compiling")
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    print_ratios(f"A mixing law, {runs} x {domains}, {starts} starts", times, "minibatch_jax")
    least = min(losses.values())
    for name, loss in losses.items():
        print(f"  {name:<44} loss {loss:.6f}, above the least by {(loss - least) / least:.1e} of it")
    assert statistics.median(times["minibatch_jax"]) < 1000


if __name__ == "__main__":
    main()
