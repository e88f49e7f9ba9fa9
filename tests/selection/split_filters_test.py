"""The multifilter against a plain list of weight vectors in numpy, and against the bounds of its theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.selection.list_decodable_test import error, mixture

regressions = jax.jit(selection.multifilter_regressions, static_argnames=("fraction", "max_iterations"))


def variance(values, weights):
    return np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)


def plain_multifilter(weights, values, spread, fraction, number):
    """One or two weight vectors, by trying all pairs of cuts between neighbors."""
    rows = [i for i in np.argsort(values, kind="stable") if weights[i] > 0]
    tail, total = fraction * number / 8, weights.sum()
    first = next(values[i] for at, i in enumerate(rows) if weights[rows[: at + 1]].sum() > tail)
    last = next(values[rows[at]] for at in reversed(range(len(rows))) if weights[rows[at:]].sum() > tail)
    first, last = min(first, last), max(first, last)
    inner = (values >= first) & (values <= last) & (weights > 0)
    if variance(values[inner], weights[inner]) > spread / 2:
        best, cuts = 0.0, None
        for low in range(1, len(rows)):
            for high in range(low, len(rows)):
                losses = weights[rows[:low]].sum(), weights[rows[high:]].sum()
                radius = (values[rows[high]] - values[rows[low - 1]]) / 2
                if sum((total - loss) ** 2 for loss in losses) <= total**2:
                    score = min(losses) / total * radius**2
                    if score > best:
                        best, cuts = score, (low, high)
        if cuts and best >= spread / 4:
            left, right = np.zeros(len(weights)), np.zeros(len(weights))
            left[rows[: cuts[1]]], right[rows[cuts[0] :]] = weights[rows[: cuts[1]]], weights[rows[cuts[0] :]]
            return [left, right]
        return [weights]
    distance = np.maximum(np.maximum(first - values, values - last), 0) ** 2 * (weights > 0)
    return [weights * (1 - distance / distance.max()) if distance.max() > 0 else weights]


def plain_fit(x, y, weights):
    """Huber fit by reweighted least squares, clipped at the weighted median residual."""

    def level(w):
        residuals = np.abs(x @ w - y)
        pairs = sorted(zip(residuals.ravel(), np.repeat(weights, y.shape[1])))
        sums = np.cumsum([mass for _, mass in pairs])
        return residuals, pairs[int(np.argmax(sums >= sums[-1] / 2))][0]

    def least_squares(rows):
        rows = rows.ravel() / rows.sum()
        flat = x.reshape(-1, x.shape[2])
        gram = flat.T @ (rows[:, None] * flat) + 1e-6 * np.eye(x.shape[2])
        return np.linalg.solve(gram, flat.T @ (rows * y.ravel()))

    found = least_squares(np.repeat(weights[:, None], y.shape[1], 1))
    for _ in range(12):
        residuals, clip = level(found)
        found = least_squares(weights[:, None] * np.minimum(1, clip / residuals))
    return found, level(found)[1]


def plain_regressions(x, y, fraction):
    """Leaves of the tree of weight vectors, as pairs of a regressor and the weights."""
    number, waiting, leaves = len(x), [np.ones(len(x))], []
    while waiting:
        weights = waiting.pop()
        w, clip = plain_fit(x, y, weights)
        residuals = x @ w - y
        clipped = np.clip(residuals, -clip, clip)
        gradients = np.mean(x * clipped[..., None], axis=1)
        direction = np.linalg.eigh(np.cov(gradients.T, aweights=weights, ddof=0))[1][:, -1]
        for samples in (np.abs(clipped), (x @ direction) * clipped):
            within = sorted(zip(samples.var(1, ddof=1), weights))
            sums = np.cumsum([mass for _, mass in within])
            quantile = within[int(np.argmax(sums >= (1 - fraction / 2) * sums[-1]))][0]
            spread, values = 2 * min(quantile, clip**2) / x.shape[1], samples.mean(1)
            if variance(values, weights) > spread:
                branches = plain_multifilter(weights, values, spread, fraction, number)
                if len(branches) == 2 or not np.array_equal(branches[0], weights):
                    waiting += [branch for branch in branches if branch.sum() >= fraction * number / 2]
                    break
        else:
            leaves.append((w, weights))
    return leaves


def test_the_list_is_that_of_the_plain_algorithm():
    with jax.enable_x64(True):
        for seed in (0, 1):
            x, y, _ = mixture(seed, share=0.3, n=24, sources=40)
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            leaves = plain_regressions(x, y, 0.3)
            found = regressions(jnp.asarray(x), jnp.asarray(y), fraction=0.3)
            assert len(leaves) > 1 and found.valid.sum() == len(leaves) and found.valid.shape == (44,)
            for w, weights in leaves:
                same = np.abs(np.asarray(found.weights) - weights).max(1).argmin()
                np.testing.assert_allclose(found.weights[same], weights, rtol=1e-6, atol=1e-8)
                np.testing.assert_allclose(found.parameters[same], w, rtol=1e-5, atol=1e-7)


def test_weights_only_fall_squares_do_not_grow_and_a_branch_keeps_the_genuine():
    """The bounds for one step, on values where two thirds are chosen by an adversary: near the genuine, and far off."""
    rng = np.random.default_rng(0)
    step = jax.jit(selection.multifilter, static_argnames="fraction")
    splits = 0
    for trial in range(40):
        genuine = rng.normal(size=20)
        genuine = (genuine - genuine.mean()) / genuine.std()
        others = rng.choice([0, 3, 8, 20, 100]) * rng.choice([-1, 1, 1.5], size=40) + rng.normal(size=40)
        values = jnp.asarray(np.concatenate([genuine, others]), jnp.float32)
        weights = jnp.asarray(rng.uniform(0.5, 1, size=60) if trial % 2 else np.ones(60), jnp.float32)
        made = np.asarray(step(weights, values, 1.0, fraction=1 / 3))
        before = np.asarray(weights)
        assert np.all(made <= before) and np.all(made >= 0)
        assert np.sum(made.sum(1) ** 2) <= before.sum() ** 2 * (1 + 1e-6)
        lost = 1 - made[:, :20].sum(1) / before[:20].sum()
        lost_of_all = 1 - made.sum(1) / before.sum()
        if made[1].any():
            splits += 1
            assert np.all(lost_of_all > 0) and lost.min() < 0.15
    assert 5 < splits < 35


def test_one_entry_is_right_and_keeps_the_genuine_sources_and_the_list_is_bounded():
    for seed in range(3):
        x, y, truth = mixture(seed, share=0.3, n=32)
        found = regressions(x, y, fraction=0.3)
        pooled = np.linalg.lstsq(np.reshape(x, (-1, 4)), np.reshape(y, -1))[0]
        assert error(found, truth[0]) < 0.1 < 0.8 < np.linalg.norm(pooled - truth[0])
        genuine = np.mean((np.einsum("mnd,d->mn", x, truth[0]) - y) ** 2, axis=1) < 0.5
        kept = np.asarray(found.weights)[:, genuine].mean(1).max()
        assert genuine.sum() == 30 and kept > 0.75, kept
        masses = np.asarray(found.weights)[np.asarray(found.valid)].sum(1)
        assert masses.min() >= 15 and np.sum(masses**2) <= 100**2 and found.valid.shape == (44,)
        assert not np.asarray(found.weights)[~np.asarray(found.valid)].any()


def test_without_impostors_all_sources_stay():
    x, y, truth = mixture(1, share=1.0, n=32, sources=30)
    found = regressions(x, y, fraction=1.0)
    assert found.valid.tolist() == [True, False, False, False]
    assert found.weights[0].sum() > 27 and np.linalg.norm(found.parameters[0] - truth[0]) < 0.05


def test_sources_that_are_not_finite_influence_nothing():
    x, y, _ = mixture(2, share=0.3, n=32)
    x = x.at[0, 0, 0].set(jnp.nan)
    found = regressions(x, y.at[1, 3].set(jnp.inf), fraction=0.3)
    other = regressions(x.at[0, 1:].set(1e6), y.at[1].set(-jnp.inf), fraction=0.3)
    jax.tree.map(np.testing.assert_array_equal, found, other)
    assert found.valid.any() and not np.asarray(found.weights)[:, :2].any()
    step = selection.multifilter(jnp.ones(3), jnp.array([0.0, jnp.nan, 9.0]), 1.0, 0.5)
    assert not step[:, 1].any()


def test_bad_input_is_named():
    x, y = jnp.ones((3, 2, 1)), jnp.ones((3, 2))
    with pytest.raises(ValueError, match="fraction is 0"):
        selection.multifilter_regressions(x, y, 0.0)
    with pytest.raises(ValueError, match="slack is 0"):
        selection.multifilter_regressions(x, y, 0.5, slack=0)
    with pytest.raises(ValueError, match="targets has shape"):
        selection.multifilter_regressions(x, y[:2], 0.5)
    with pytest.raises(TypeError, match="inputs has dtype int32"):
        selection.multifilter_regressions(jnp.ones((3, 2, 1), int), y, 0.5)
    with pytest.raises(ValueError, match="values has shape"):
        selection.multifilter(jnp.ones(3), jnp.ones(2), 1.0, 0.5)
