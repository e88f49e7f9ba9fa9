"""Suggestions beside gains computed in float64 from the posterior, by enumeration, and on a toy with a known best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from minibatch_jax.mixing import recommend_mixture, suggest_mixture
from minibatch_jax.mixing.gaussian_process import posterior

N, M = 12, 21
COSTS = (1.0, 10.0)
SHARES = np.linspace(0, 1, M)
POOL = np.stack([SHARES, 1 - SHARES], axis=1)
SEEN = np.sqrt(POOL)  # what the process sees
BEST = 13  # share 0.65

both = jax.jit(functools.partial(suggest_mixture, costs=COSTS, num_starts=1, max_iterations=40, num_samples=256))
target = jax.jit(
    functools.partial(suggest_mixture, acquisition="expected_improvement", num_starts=1, max_iterations=40)
)
predict = jax.jit(posterior)


def score(row, level=1):
    p = SHARES[row]
    return -((p - 0.65) ** 2) - 0.1 * np.cos(6 * p - 3.9) ** 2 * (p < 0.4) - (1 - level) * (0.8 + 0.1 * p)


def suggest(rows, levels, scores=None, *, target_share=1e-6, key=0, pool=POOL):
    """A suggestion at two fidelities after runs of these rows of the pool, padded to N with what must not count."""
    count = len(rows)
    scores = score(np.array(rows, int), np.array(levels, int)) if scores is None else scores
    mixtures, fidelities, padded = np.full((N, 2), 0.5), np.ones(N, np.int32), np.full(N, 1e6)
    mixtures[:count], fidelities[:count], padded[:count] = POOL[np.array(rows, int)], levels, scores
    arrays = jnp.float32(mixtures), jnp.asarray(fidelities), jnp.float32(padded), jnp.float32(pool)
    return both(key, *arrays, mask=jnp.arange(N) < count, target_share=jnp.float32(target_share))


def suggest_at_target(rows):
    padded = np.pad(rows, (0, N - len(rows)))
    arrays = jnp.float32(POOL[padded]), jnp.zeros(N, jnp.int32), jnp.float32(score(padded)), jnp.float32(POOL)
    return target(0, *arrays, mask=jnp.arange(N) < len(rows))


def chosen(suggestion):
    return int(suggestion.row), int(suggestion.fidelity)


def gains_per_fidelity(process, draws=1500):
    """Mean over maxima of the loss of entropy about the maximum at the target, from one joint posterior covariance."""
    points = np.concatenate([SEEN, SEEN])
    values = np.repeat([COSTS[0] / COSTS[1], 1.0], M)
    found = predict(process, jnp.float32(points), jnp.float32(values))
    mean, covariance = np.asarray(found.mean, np.float64), np.asarray(found.covariance, np.float64)
    noise = float(process.hyperparameters.noise) * float(process.scale) ** 2
    rng = np.random.default_rng(0)
    at_target = covariance[M:, M:] + 1e-9 * np.eye(M)
    maxima = rng.multivariate_normal(mean[M:], at_target, draws, method="eigh").max(axis=1)
    deviation = np.sqrt(np.diag(covariance)[M:])
    gamma = ((maxima[None, :] - mean[M:, None]) / deviation[:, None])[:, :, None]
    z = np.linspace(-8, 8, 81)[None, None, :]
    gains = []
    for level in range(2):
        part = slice(level * M, (level + 1) * M)
        rho = np.diag(covariance[M:, part]) / deviation / np.sqrt(np.diag(covariance)[part] + noise)
        rho = np.minimum(rho, 0.99999)[:, None, None]
        cut = special.log_ndtr((gamma - rho * z) / np.sqrt(1 - rho**2)) - special.log_ndtr(gamma)
        log_density = -(z**2) / 2 - np.log(2 * np.pi) / 2 + cut
        inside = np.sum(np.exp(log_density) * log_density, axis=2) * (z[0, 0, 1] - z[0, 0, 0])
        gains.append(np.mean(np.log(2 * np.pi * np.e) / 2 + inside, axis=1))
    return np.array(gains)


def test_takes_the_largest_gain_for_its_cost():
    rows, levels = [2, 9, 18, 4, 16], [0, 0, 0, 1, 1]
    suggestion = suggest(rows, levels)
    gains = gains_per_fidelity(suggestion.process, draws=150)
    row, level = chosen(suggestion)
    assert float(suggestion.gain) == pytest.approx(gains[level, row], rel=0.15)
    merit = gains / np.array(COSTS)[:, None]
    merit[levels, rows] = 0
    assert merit[level, row] > 0.9 * merit.max()
    assert not bool(suggestion.guarded) and not bool(suggestion.exhausted)


def test_expected_improvement_takes_the_largest_at_the_target():
    rows = [3, 8, 17]
    suggestion = suggest_at_target(rows)
    found = predict(suggestion.process, jnp.float32(SEEN))
    mean, deviation = np.asarray(found.mean, np.float64), np.sqrt(np.diag(np.asarray(found.covariance, np.float64)))
    z = (mean - score(np.array(rows)).max()) / deviation
    improvement = deviation * (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) + z * special.ndtr(z))
    improvement[rows] = 0
    assert chosen(suggestion) == (int(np.argmax(improvement)), 0)
    assert float(suggestion.gain) == pytest.approx(np.log(improvement.max()), rel=0.02)


def test_finds_the_best_mixture_of_two_domains():
    rows = [2, 18]
    while BEST not in rows and len(rows) < N:
        rows.append(int(suggest_at_target(rows).row))
    assert len(rows) <= 8 and len(set(rows)) == len(rows)
    rows, levels = [2], [0]
    for step in range(N - 1):
        row, level = chosen(suggest(rows, levels, target_share=0.5, key=step))
        assert (row, level) not in zip(rows, levels)
        rows, levels = [*rows, row], [*levels, level]
    assert (BEST, 1) in zip(rows, levels) and 0 in levels[1:]


def test_the_guard_bounds_what_is_spent_below_the_target():
    for below, at, share in [(8, 0, 0.5), (9, 0, 0.5), (10, 0, 0.5), (10, 1, 0.5), (2, 0, 0.8), (3, 0, 0.8), (1, 0, 1)]:
        rows, levels = list(range(below + at)), [0] * below + [1] * at
        suggestion = suggest(rows, levels, target_share=share)
        allowed = below + 1 <= (1 - share) / share * (10 * at + 10) + 1e-3  # one more run below
        assert bool(suggestion.guarded) != allowed
        assert allowed or int(suggestion.fidelity) == 1


def test_what_was_run_is_not_suggested_again_also_if_it_failed():
    small = np.where(np.arange(M)[:, None] < 3, POOL, np.nan)  # three rows of the pool can be chosen
    rows, levels, scores = [0, 1, 2, 0, 1], [0, 0, 0, 1, 1], np.array([-1.0, np.nan, -0.5, -0.2, np.inf])
    suggestion = suggest(rows, levels, scores, pool=small)
    assert np.asarray(suggestion.process.rows.counted[:6]).tolist() == [True, False, True, True, False, False]
    assert chosen(suggestion) == (2, 1)
    done = suggest([*rows, 2], [*levels, 1], np.append(scores, -0.3), pool=small, target_share=0.5)
    assert chosen(done) == (-1, -1) and bool(done.exhausted)
    guarded = suggest([0, 1, 2], [1, 1, 1], pool=small, target_share=1)
    assert not bool(guarded.guarded) and int(guarded.fidelity) == 0  # nothing is open at the target


def test_without_runs_the_first_row_is_the_cheapest_and_padding_does_not_count():
    assert chosen(suggest([], [])) == (0, 0)
    assert chosen(suggest([], [], target_share=1)) == (0, 1)
    failed = suggest([0, 5], [0, 1], np.array([np.nan, np.nan]))
    assert chosen(failed) == (1, 0)


def test_recommends_the_largest_posterior_mean_at_the_target():
    process = suggest([0, 4, 9, 14, 20, 8], [1, 0, 0, 0, 0, 1]).process
    found = predict(process, jnp.float32(SEEN))
    best = jax.jit(recommend_mixture)(process, jnp.float32(np.where(np.arange(M)[:, None] == 20, np.nan, POOL)))
    row = int(np.argmax(np.asarray(found.mean)[:20]))
    assert int(best.row) == row and abs(row - BEST) <= 2
    assert float(best.mean) == pytest.approx(float(found.mean[row]), rel=1e-5)
    assert float(best.deviation) == pytest.approx(float(found.covariance[row, row]) ** 0.5, rel=1e-2)


def test_half_precision_is_computed_in_float32():
    rows, levels = np.pad([2, 9, 18, 4, 16], (0, N - 5)), np.pad([0, 0, 0, 1, 1], (0, N - 5))
    arrays = POOL[rows], score(rows, levels), np.round(64 * POOL) / 64
    found = []
    for cast in (lambda x: jnp.float16(x), lambda x: jnp.float32(jnp.float16(x))):
        mixtures, scores, pool = map(cast, arrays)
        mask, share = jnp.arange(N) < 5, jnp.float32(0.5)
        found.append(both(0, mixtures, jnp.asarray(levels), scores, pool, mask=mask, target_share=share))
    assert found[0].gain.dtype == jnp.float32
    for half, wide in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1])):
        np.testing.assert_allclose(half, wide, rtol=1e-5, atol=1e-6)


def test_improvement_at_the_target_is_exhausted_where_all_rows_were_run_there():
    """The other fidelity of every row is open, and no improvement can come of it."""
    rows, levels = jnp.float32(POOL[:2]), jnp.ones(2, jnp.int32)
    found = jax.jit(
        functools.partial(
            suggest_mixture, costs=COSTS, acquisition="expected_improvement", num_starts=1, max_iterations=1
        )
    )(0, rows, levels, jnp.arange(2.0), rows)
    assert found.exhausted and chosen(found) == (-1, -1)


def test_the_process_sees_powers_of_the_shares():
    found = suggest([2, 9, 18], [1, 1, 1]).process.rows.inputs[:3]
    np.testing.assert_allclose(found, SEEN[[2, 9, 18]], rtol=1e-6)


def test_bad_input():
    mixtures, levels, scores = jnp.float32(POOL[:3]), jnp.zeros(3, jnp.int32), jnp.zeros(3)
    pool = jnp.float32(POOL)
    wrong, process = pool.at[4, 0].set(0.7), suggest_at_target([2, 9, 18]).process
    for call, error, message in [
        (lambda: suggest_mixture(0, mixtures, levels, scores, wrong), ValueError, r"pool has a row .* of sum 1\.5"),
        (lambda: recommend_mixture(process, wrong), ValueError, r"pool has a row .* of sum 1\.5"),
        (lambda: suggest_mixture(0, 2 * mixtures, levels, scores, pool), ValueError, "mixtures has a row .* of sum 2"),
        (
            lambda: suggest_mixture(0, mixtures, levels, scores, pool, (2.0, 1.0)),
            ValueError,
            "costs is .2.0, 1.0., want",
        ),
        (lambda: suggest_mixture(0, mixtures, levels, scores, pool, ()), ValueError, "costs is .., wanted"),
        (lambda: suggest_mixture(0, mixtures, scores, scores, pool), TypeError, "fidelities has dtype float32"),
        (lambda: suggest_mixture(0, mixtures, levels + 1, scores, pool), ValueError, "fidelities has 1 to 1, wanted 0"),
        (lambda: suggest_mixture(0, mixtures, levels, scores[:2], pool), ValueError, r"scores has shape \[2\]"),
        (lambda: suggest_mixture(0, mixtures, levels, scores, pool[:, :1]), ValueError, r"mixtures has shape \[3, 2\]"),
        (
            lambda: suggest_mixture(0, mixtures, levels, scores, pool, acquisition="ei"),
            ValueError,
            "acquisition is 'ei'",
        ),
        (
            lambda: suggest_mixture(0, mixtures, levels, scores, pool, target_share=0.0),
            ValueError,
            "target_share is 0.0",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
