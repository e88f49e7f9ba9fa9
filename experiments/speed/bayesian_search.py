"""One suggestion over a pool of 256 mixtures of 17 domains after 64 runs at two sizes, beside scikit-learn's fit alone.

Target: a tenth of the time of scikit-learn, which fits the same kind of process at one size, by L-BFGS from as many
starts, and suggests nothing. On a busy machine of two cores it was 33 ms of 376 ms (0.09; least times 31 and 335 ms), a
fit at one size alone 16 ms. Compiling is measured with the compilation cache off: 8 s of CPU time.
"""

import os
import time
import warnings
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax.mixing import fit_gaussian_process, suggest_mixture

OURS = "suggest_mixture, two sizes"
COSTS = (0.001, 0.06)


def problem(rows: int, runs: int, domains: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A pool, and the rows, sizes and scores of runs: losses that fall with a power of each share."""
    rng = np.random.default_rng(seed)
    pool = rng.dirichlet(np.full(domains, 0.3), rows).astype(np.float32)
    chosen, sizes = rng.choice(rows, runs, replace=False), rng.integers(0, 2, runs)
    scores = pool[chosen] ** 0.3 @ rng.random(domains) + sizes + 0.01 * rng.normal(size=runs)
    return pool, chosen, sizes, scores.astype(np.float32)


def peer_fit(inputs: np.ndarray, scores: np.ndarray, starts: int) -> GaussianProcessRegressor:
    """Fit scikit-learn's process with one length-scale for each input and learnt noise."""
    lengths = Matern(np.ones(inputs.shape[1]), (1e-2, 1e3), nu=2.5)  # pyright: ignore[reportArgumentType]
    kernel = ConstantKernel() * lengths + WhiteKernel(1e-3, (1e-8, 1.0))
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=starts - 1, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(inputs, scores)


def main(
    rows: int = 256, runs: int = 64, domains: int = 17, starts: int = 4, rounds: int = 3, repeats: int = 2
) -> None:
    """Print the seconds to compile, the ratios, and how often our fits converged."""
    jax.config.update("jax_enable_compilation_cache", False)
    pool, chosen, sizes, scores = problem(rows, runs, domains, 0)
    suggest = jax.jit(partial(suggest_mixture, costs=COSTS, num_starts=starts))
    fit = jax.jit(partial(fit_gaussian_process, num_starts=starts))
    arrays = 0, jnp.asarray(pool[chosen]), jnp.asarray(sizes), jnp.asarray(scores), jnp.asarray(pool)
    start, busy = time.perf_counter(), time.process_time()
    program = suggest.lower(*arrays).compile()
    seconds = time.perf_counter() - start, time.process_time() - busy
    print(f"\nsuggest_mixture compiles in {seconds[0]:.1f} s, {seconds[1]:.1f} s of CPU time")
    times, converged = defaultdict(list), []
    for seed in range(rounds):
        pool, chosen, sizes, scores = problem(rows, runs, domains, seed)
        inputs, values = jnp.asarray(pool[chosen]), jnp.asarray(scores)
        arrays = seed, inputs, jnp.asarray(sizes), values, jnp.asarray(pool)
        calls = {
            OURS: lambda a=arrays: jax.block_until_ready(program(*a)),
            "fit_gaussian_process, one size": lambda a=(seed, inputs, values): jax.block_until_ready(fit(*a)),
            "scikit-learn fit, one size": lambda x=pool[chosen], y=scores: peer_fit(x, y, starts),
        }
        for name, call in calls.items():
            times[name] += milliseconds(call, repeats)
        converged.append(bool(program(*arrays).process.converged))
    print_ratios(f"A pool of {rows}, {runs} runs, {domains} domains, {starts} starts", times, OURS)
    print(f"  fits that converged: {sum(converged)} of {len(converged)}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
