"""The Gaussian process beside its formulas in float64, scikit-learn and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import fit_gaussian_process
from minibatch_jax.mixing.gaussian_process import Hyperparameters, fidelity_kernel, log_marginal_likelihood, posterior

N, D, M = 12, 3, 5
MEAN_VARIANCE = 10.0
THETA = {
    "lengths": np.array([0.3, 0.7, 1.5]),
    "variance": np.array(1.3),
    "noise": np.array(0.02),
    "bias_lengths": np.array([0.9, 0.4, 2.0]),
    "bias_variance": np.array(0.4),
    "power": np.array(1.7),
}

fit_all = jax.jit(functools.partial(fit_gaussian_process, num_starts=2, max_iterations=60))
predict = jax.jit(posterior)
likelihood = jax.jit(log_marginal_likelihood)


def problem(seed=0, size=N):
    rng = np.random.default_rng(seed)
    x = rng.dirichlet(np.ones(D), size)
    s = rng.choice([0.02, 0.3, 1.0], size)
    return x, np.sin(5 * x[:, 0]) + x[:, 1] ** 2 - 0.7 * (1 - s) + 0.05 * rng.normal(size=size), s


def single(x):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), x)


def fit(x, y, s=None, mask=None, tolerance=0.1):
    """One program for each number of fidelities."""
    mask = jnp.ones(N, bool) if mask is None else jnp.asarray(mask)
    x, y, s = single((x, y, s))
    return fit_all(0, x, y, s, mask=mask, tolerance=jnp.float32(tolerance))


def matern(x, y, lengths):
    r = np.sqrt(5 * np.sum(((x[:, None] - y[None]) / lengths) ** 2, axis=2))
    return (1 + r + r**2 / 3) * np.exp(-r)


def covariance(theta, x, y, s, t):
    s, t = s[:, None], t[None, :]
    bias = (1 - s) * (1 - t) * (1 + s * t) ** theta["power"] * theta["bias_variance"]
    mean = MEAN_VARIANCE * (1 + (1 - s) * (1 - t))
    return mean + theta["variance"] * matern(x, y, theta["lengths"]) + bias * matern(x, y, theta["bias_lengths"])


def direct(theta, x, y, s, points, at):
    """Mean, covariance and log likelihood of textbook formulas, the mean being two more terms of the kernel."""
    k = covariance(theta, x, x, s, s) + theta["noise"] * np.eye(len(x))
    cross = covariance(theta, x, points, s, at)
    mean = cross.T @ np.linalg.solve(k, y)
    left = covariance(theta, points, points, at, at) - cross.T @ np.linalg.solve(k, cross)
    return mean, left, -(y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(y) * np.log(2 * np.pi)) / 2


def test_likelihood_and_kernel_are_those_of_the_formulas():
    x, y, s = problem()
    of = Hyperparameters(**single(THETA))
    _, _, expected = direct(THETA, x, y, s, x[:2], s[:2])
    assert float(likelihood(of, *single((x, y, s)))) == pytest.approx(expected, rel=1e-4)
    known = covariance(THETA, x, x[:M], s, s[:M]) - MEAN_VARIANCE * (1 + np.outer(1 - s, 1 - s[:M]))
    np.testing.assert_allclose(fidelity_kernel(of, *single((x, x[:M], s, s[:M]))), known, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_likelihood_is_that_of_finite_differences():
    x, y, s = problem()
    gradient = jax.grad(lambda logs: likelihood(Hyperparameters(**jax.tree.map(jnp.exp, logs)), *single((x, y, s))))
    found = gradient(single({k: np.log(v) for k, v in THETA.items()}))
    for name, entry in [(name, i) for name, value in THETA.items() for i in range(value.size)]:
        ends = []
        for sign in (-1, 1):
            moved = {k: v.copy() for k, v in THETA.items()}
            moved[name].reshape(-1)[entry] *= np.exp(sign * 1e-5)
            ends.append(direct(moved, x, y, s, x[:1], s[:1])[2])
        expected = (ends[1] - ends[0]) / 2e-5
        assert float(found[name].reshape(-1)[entry]) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_a_fitted_process_predicts_by_the_formulas_in_units_of_the_scores():
    x, y, s = problem()
    points, at = problem(1)[0][:M], problem(1)[2][:M]
    process = fit(x, 40 + 3 * y, s)
    assert bool(process.converged) and bool(process.positive_definite)
    theta = {k: np.asarray(v, np.float64) for k, v in process.hyperparameters._asdict().items()}
    theta["noise"] = theta["noise"] + 1e-5 * theta["variance"]  # the jitter
    scores = 40 + 3 * y
    mean, left, value = direct(theta, x, (scores - scores.mean()) / scores.std(), s, points, at)
    found = predict(process, *single((points, at)))
    np.testing.assert_allclose(found.mean, scores.mean() + scores.std() * mean, rtol=1e-4)
    np.testing.assert_allclose(found.covariance, scores.var() * left, rtol=2e-3, atol=2e-3)
    assert float(process.log_likelihood) == pytest.approx(value, rel=1e-3)


def test_posterior_and_likelihood_of_one_fidelity_are_those_of_scikit_learn():
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    kernels = gaussian_process.kernels
    x, y, _ = problem()
    points = problem(1)[0][:M]
    process = fit(x, y)
    lengths, variance, noise = (np.asarray(a, np.float64) for a in process.hyperparameters[:3])
    kernel = kernels.ConstantKernel(MEAN_VARIANCE) + kernels.ConstantKernel(variance) * kernels.Matern(lengths, nu=2.5)
    scores = (y - y.mean()) / y.std()
    alpha = noise + 1e-5 * variance
    peer = gaussian_process.GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None).fit(x, scores)
    mean, left = peer.predict(points, return_cov=True)
    found = predict(process, *single((points,)))
    np.testing.assert_allclose(found.mean, y.mean() + y.std() * mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.covariance, y.var() * left, rtol=1e-2, atol=1e-4)
    assert float(process.log_likelihood) == pytest.approx(peer.log_marginal_likelihood_value_, rel=1e-3)


def test_the_fit_is_a_maximum_of_likelihood_and_prior():
    x, y, s = problem()
    process = fit(x, y, s)
    spread = x.std(axis=0) * np.sqrt(D)
    center = {
        "lengths": np.log(2 * spread), "variance": 0.0, "noise": np.log(1e-3),
        "bias_lengths": np.log(4 * spread), "bias_variance": np.log(0.1), "power": 0.0,
    }  # fmt: skip
    width = {"lengths": 1.0, "variance": 1.0, "noise": 1.5, "bias_lengths": 1.0, "bias_variance": 1.5, "power": 0.5}
    logs = {k: np.log(np.asarray(v, np.float64)) for k, v in process.hyperparameters._asdict().items()}
    scores = (y - y.mean()) / y.std()

    def density(logs):
        off = sum(np.sum(((logs[k] - center[k]) / width[k]) ** 2) for k in logs)
        return direct({k: np.exp(v) for k, v in logs.items()}, x, scores, s, x[:1], s[:1])[2] - off / 2

    best = density(logs)
    assert best > density({k: center[k] * np.ones(v.shape) for k, v in logs.items()}) + 0.1
    for name, change in [(name, sign * 0.3 * width[name]) for name in logs for sign in (-1, 1)]:
        assert density({k: v + change * (k == name) for k, v in logs.items()}) < best


def test_rows_that_do_not_count_change_nothing():
    x, y, s = problem(size=9)
    places = np.array([0, 1, 3, 4, 5, 7, 8, 9, 11])
    padded = [np.full((N, D), 7.0), np.full(N, -1e6), np.full(N, 0.5)]
    for whole, part in zip(padded, (x, y, s)):
        whole[places] = part
    padded[1][2], padded[0][6, 1] = np.nan, np.inf
    mask = np.isin(np.arange(N), [*places, 2, 6])  # those two are in the mask and not finite
    process = fit(*padded, mask=mask)
    assert np.asarray(process.rows.counted).tolist() == np.isin(np.arange(N), places).tolist()
    theta = {k: np.asarray(v, np.float64) for k, v in process.hyperparameters._asdict().items()}
    theta["noise"] = theta["noise"] + 1e-5 * theta["variance"]
    mean, _, value = direct(theta, x, (y - y.mean()) / y.std(), s, x[:M] * 0.9, s[:M])
    found = predict(process, *single((x[:M] * 0.9, s[:M])))
    np.testing.assert_allclose(found.mean, y.mean() + y.std() * mean, rtol=1e-4, atol=1e-4)
    assert float(process.log_likelihood) == pytest.approx(value, rel=1e-3)
    others = [padded[0] * np.where(mask, 1, 3)[:, None], padded[1] * np.where(mask, 1, -2), padded[2]]
    for a, b in zip(jax.tree.leaves(process), jax.tree.leaves(fit(*others, mask=mask))):
        np.testing.assert_array_equal(a, b)
    first = np.r_[places, 2, 6, 10]  # in another place
    moved = predict(fit(*(a[first] for a in padded), mask=mask[first]), *single((x[:M] * 0.9, s[:M])))
    np.testing.assert_allclose(moved.mean, found.mean, rtol=1e-3, atol=1e-3)


def test_no_rows_give_the_prior_and_equal_scores_no_division_by_zero():
    x, y, s = problem()
    nothing = fit(x, y, s, mask=np.zeros(N, bool))
    found = predict(nothing, *single((x[:M], np.ones(M))))
    np.testing.assert_allclose(found.mean, np.zeros(M), atol=1e-6)
    np.testing.assert_allclose(np.diag(found.covariance), np.full(M, 1 + MEAN_VARIANCE), rtol=1e-4)
    equal = predict(fit(x, np.full(N, 3.0), s), *single((x[:M], s[:M])))
    np.testing.assert_allclose(equal.mean, np.full(M, 3.0), rtol=1e-4)


def test_a_fit_that_does_not_converge_says_so():
    process = fit(*problem(), tolerance=0)
    assert not bool(process.converged) and bool(process.positive_definite)


def test_a_covariance_that_is_not_positive_definite_is_marked_and_predicts_nothing():
    x, y, s = problem()
    process = fit(0 * x + 1e30, y, s)  # squared distances overflow
    assert not bool(process.positive_definite) and not bool(process.converged)
    assert np.isnan(predict(process, *single((x[:M], s[:M]))).mean).all()


def test_bad_input():
    x, y, s = single(problem())
    for call, message in [
        (lambda: fit_gaussian_process(0, x, y[:2]), r"scores has shape \[2\], wanted \[12\]"),
        (lambda: fit_gaussian_process(0, x, y, s[:2]), r"fidelities has shape \[2\], wanted \[12\]"),
        (lambda: fit_gaussian_process(0, x, y, s + 1), r"fidelities has .* to 2, wanted numbers in \[0, 1\]"),
        (lambda: fit_gaussian_process(0, x, y, num_starts=0), "num_starts is 0, wanted at least 1"),
        (lambda: fit_gaussian_process(0, x, y, s, start=Hyperparameters(x[0], y[0], y[0])), "start has other fields"),
        (lambda: fit_gaussian_process(0, x, y, spread=jnp.ones(2)), r"spread has shape \[2\], wanted \[3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
