"""Kernel CCA against generalized eigenproblems, linear CCA of the features of a kernel, and its random limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from minibatch_jax import modules


def views(rows, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, rows)
    x = np.stack([angle, rng.normal(size=rows)], 1) + 0.1 * rng.normal(size=(rows, 2))
    y = np.stack([np.cos(2 * angle), np.cos(angle), rng.normal(size=rows)], 1) + 0.1 * rng.normal(size=(rows, 3))
    return x, y


def centered(kernel):
    h = np.eye(len(kernel)) - 1 / len(kernel)
    return h @ kernel @ h


def eigenproblem(first, second, ridge, k):
    """Largest correlations of the regularized dual of two centered kernels of full rank but for the constant."""
    n = len(first)
    basis = scipy.linalg.null_space(np.ones((1, n)))
    a, b = (basis.T @ kernel @ basis for kernel in (first, second))
    r, s = (ridge * np.trace(kernel) / (n - 1) for kernel in (a, b))
    cross = a @ b / (n - 1)
    zeros = np.zeros_like(cross)
    left = np.block([[zeros, cross], [cross.T, zeros]])
    right = np.block([[a @ a / (n - 1) + r * a, zeros], [zeros, b @ b / (n - 1) + s * b]])
    return scipy.linalg.eigh(left, right, eigvals_only=True)[::-1][:k]


def test_correlations_are_those_of_the_generalized_eigenproblem():
    x, y = views(30)
    with jax.enable_x64(True):
        kernels = [modules.gaussian_kernel(jnp.asarray(v), jnp.asarray(v), bandwidth=0.5) for v in (x, y)]
        found = jax.jit(lambda a, b: modules.kernel_cca(a, b, num_components=4, ridge=0.01))(*kernels)
    expected = eigenproblem(*(np.asarray(k) for k in kernels), 0.01, 4)
    np.testing.assert_allclose(found.correlations, expected, rtol=1e-6)


@pytest.mark.parametrize("degree", [1, 2])
def test_polynomial_kernels_give_linear_cca_of_their_features(degree):
    x, y = views(50)
    features = [
        np.concatenate([v, *(v * np.roll(v, i, 1) for i in range(2))][: 1 + 2 * (degree - 1)], 1) for v in (x, y)
    ]
    ridge = 0.02
    with jax.enable_x64(True):
        kernels = [jnp.asarray(f @ f.T) for f in features]
        found = modules.kernel_cca(*kernels, num_components=2, ridge=ridge)
    covariances = [np.cov(f.T) for f in features]
    covariances = [c + ridge * np.trace(c) * np.eye(len(c)) for c in covariances]
    cross = np.cov(features[0].T, features[1].T)[: len(covariances[0]), len(covariances[0]) :]
    left = scipy.linalg.solve(covariances[0], cross) @ scipy.linalg.solve(covariances[1], cross.T)
    expected = np.sqrt(np.sort(scipy.linalg.eigvals(left).real)[::-1][:2])
    np.testing.assert_allclose(found.correlations, expected, rtol=1e-8)
    for kernel, maps, feature, covariance in zip(
        map(np.asarray, kernels), map(np.asarray, found[:2]), features, covariances, strict=True
    ):
        direction = feature.T @ maps  # the dual maps are combinations of the features of the rows
        np.testing.assert_allclose(direction.T @ covariance @ direction, np.eye(2), atol=1e-8)
        np.testing.assert_allclose(kernel @ maps, feature @ direction, atol=1e-8)


def test_projections_of_new_rows_correlate_less_without_a_ridge():
    (x, y), (new_x, new_y) = views(100), views(100, seed=1)

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / 2)

    def seen_and_unseen(ridge):
        found = solve(kernel(x, x), kernel(y, y), ridge)
        new = kernel(new_x, x), kernel(new_y, y)
        pairs = ((kernel(x, x), kernel(y, y)), new)
        return [np.corrcoef(*((k @ np.asarray(m))[:, 0] for k, m in zip(pair, found[:2])))[0, 1] for pair in pairs]

    with jax.enable_x64(True):
        solve = jax.jit(lambda a, b, ridge: modules.kernel_cca(a, b, num_components=1, ridge=ridge))
        (seen, unseen), (overfit_seen, overfit_unseen) = (seen_and_unseen(ridge) for ridge in (1e-2, 1e-7))
    assert unseen > 0.9
    assert abs(np.corrcoef(new_x[:, 0], new_y[:, 0])[0, 1]) < 0.2  # no linear map sees it
    assert overfit_seen > seen and overfit_unseen < unseen - 0.02


def test_random_features_approach_the_exact_solution():
    x, y = (jnp.asarray(v, jnp.float32) for v in views(60))
    ridge = 0.01

    @jax.jit
    def exact():
        kernels = [modules.gaussian_kernel(v, v, bandwidth=1.0) for v in (x, y)]
        return modules.kernel_cca(*kernels, num_components=3, ridge=ridge).correlations

    @functools.partial(jax.jit, static_argnums=0)
    def randomized(m):
        z = [
            modules.fourier_features(modules.init_fourier_features(seed, v.shape[1], m, bandwidth=1.0), v)
            for seed, v in enumerate((x, y))
        ]
        return modules.linear_cca(*z, ridge=m * ridge, num_components=3).correlations

    errors = [float(jnp.max(jnp.abs(randomized(m) - exact()))) for m in (20, 300)]
    assert errors[1] < 0.03 < errors[0]


def test_views_with_nothing_in_them_have_no_correlation():
    x = jnp.asarray(views(20)[0], jnp.float32)
    found = modules.kernel_cca(x @ x.T, jnp.ones((20, 20)), num_components=2)
    np.testing.assert_allclose(found.correlations, 0, atol=1e-6)
    assert all(np.all(np.isfinite(a)) for a in found)


def test_bad_input_is_named():
    k, x = jnp.eye(4), jnp.ones((4, 2))
    bad = [
        (lambda: modules.kernel_cca(k, jnp.eye(3), num_components=1), ValueError, r"second has shape \[3, 3\]"),
        (lambda: modules.kernel_cca(x, x, num_components=1), ValueError, r"first has shape \[4, 2\]"),
        (lambda: modules.kernel_cca(k, k, num_components=5), ValueError, "num_components is 5, wanted at most 4"),
        (lambda: modules.kernel_cca(k, k, num_components=1, ridge=0), ValueError, "ridge is 0"),
        (lambda: modules.kernel_cca(k.astype(int), k, num_components=1), TypeError, "first has dtype int32"),
        (lambda: modules.gaussian_kernel(x, k, bandwidth=1), ValueError, r"y has shape \[4, 4\]"),
        (lambda: modules.gaussian_kernel(x, x, bandwidth=0), ValueError, "bandwidth is 0"),
        (lambda: modules.init_fourier_features(0, 2, 2.0, bandwidth=1), TypeError, "num_features is 2.0"),
        (
            lambda: modules.fourier_features(modules.init_fourier_features(0, 3, 2, bandwidth=1), x),
            ValueError,
            r"x has shape \[4, 2\], wanted \[any size > 0, 3\]",
        ),
    ]
    for call, error, match in bad:
        with pytest.raises(error, match=match):
            call()
