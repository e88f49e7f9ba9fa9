"""Find a mixture of domains by few training runs: small models say where, large ones decide.

Method: ADMIRE-BayesOpt
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import mixing

ROWS, RUNS, COSTS = 45, 12, (1.0, 20.0)


def recipe(train, pool, key):
    rows, sizes = jnp.zeros((2, RUNS), jnp.int32)
    scores = jnp.zeros(RUNS).at[0].set(train(pool[0], 0))

    def run(i, found):
        rows, sizes, scores = found
        k, made = jax.random.fold_in(key, i), jnp.arange(RUNS) < i
        new = mixing.suggest_mixture(k, pool[rows], sizes, scores, pool, COSTS, mask=made)
        score = train(pool[new.row], new.fidelity)
        return rows.at[i].set(new.row), sizes.at[i].set(new.fidelity), scores.at[i].set(score)

    rows, sizes, scores = jax.lax.fori_loop(1, RUNS, run, (rows, sizes, scores))
    fidelities = jnp.array(COSTS)[sizes] / COSTS[-1]
    process = mixing.fit_gaussian_process(key, pool[rows] ** 0.5, scores, fidelities)
    return mixing.recommend_mixture(process, pool).row, sizes


def minus_loss(mixture, size):
    """Of a model of two sizes: the small one has a higher loss, and likes the first domain a little more."""
    best = jnp.array([0.5, 0.25, 0.25])
    return -jnp.sum((mixture - best) ** 2) - jnp.where(size == 0, 1.0 - 0.1 * mixture[0], 0.0)


def test_twelve_runs_of_two_sizes_find_a_mixture_near_the_best():
    grid = np.array([(i, j, 8 - i - j) for i in range(9) for j in range(9 - i)], np.float32) / 8
    pool = jnp.asarray(grid[np.random.default_rng(0).permutation(ROWS)])
    row, sizes = jax.jit(lambda pool, key: recipe(minus_loss, pool, key))(pool, jax.random.key(0))
    distance = float(jnp.linalg.norm(pool[row] - jnp.array([0.5, 0.25, 0.25])))
    assert distance < 0.2  # of the pool, a tenth is as near
    assert 0 < int(jnp.sum(sizes == 0)) < RUNS
