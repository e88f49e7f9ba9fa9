import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from minibatch_jax import coupling
from minibatch_jax.compose import effective_sample_size
from minibatch_jax.coupling import (
    couple_by_kernel,
    couple_nearest,
    couple_quantized,
    gibbs_weights,
    immiscible_noise,
    nearest_noise,
)
from minibatch_jax.coupling.flows.immiscible import quantize_cost
from tests.case import Case
from tests.coupling import draws

CASES = {
    "couple_quantized": Case(
        lambda: coupling.couple_quantized(8), draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-6
    ),
    "couple_nearest": Case(coupling.couple_nearest, draws.cost, draws.pairs, lowers_mass=False, tolerance=1e-6),
    "couple_by_kernel": Case(
        lambda: coupling.couple_by_kernel(0.5, relative_to="mean", normalization="batch"),
        draws.cost,
        draws.pairs,
        lowers_mass=False,
        tolerance=1e-5,
    ),
}


def images(seed=0, n=16, shape=(4, 4)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)), jnp.float32)


@pytest.mark.parametrize("bits", [None, 10])
def test_noise_is_the_same_set_handed_out_at_the_least_distance(bits):
    x1 = images()
    noise = np.asarray(jax.jit(lambda k, x: immiscible_noise(k, x, bits=bits))(jax.random.key(3), x1)).reshape(16, -1)
    plain = np.asarray(jax.random.normal(jax.random.key(3), x1.shape)).reshape(16, -1)
    np.testing.assert_array_equal(noise[np.lexsort(noise.T)], plain[np.lexsort(plain.T)])
    distances = cdist(np.asarray(x1).reshape(16, -1), plain)
    best = distances[linear_sum_assignment(distances)].sum()
    total = np.linalg.norm(np.asarray(x1).reshape(16, -1) - noise, axis=1).sum()
    np.testing.assert_allclose(total, best, rtol=1e-6 if bits is None else 1e-3)


@pytest.mark.parametrize("bits", [None, 10])
def test_labels_keep_the_noise_of_each_class_and_hand_it_out_at_the_least_distance(bits):
    x1, labels = images(1), np.arange(16) % 3
    noise = np.asarray(jax.jit(lambda x: immiscible_noise(3, x, bits=bits, labels=labels))(x1)).reshape(16, -1)
    plain = np.asarray(jax.random.normal(jax.random.key(3), x1.shape)).reshape(16, -1)
    flat = np.asarray(x1).reshape(16, -1)
    for label in range(3):
        rows = labels == label
        distances = cdist(flat[rows], plain[rows])
        best = distances[linear_sum_assignment(distances)].sum()
        np.testing.assert_array_equal(np.sort(noise[rows], axis=None), np.sort(plain[rows], axis=None))
        found = np.linalg.norm(flat[rows] - noise[rows], axis=1).sum()
        np.testing.assert_allclose(found, best, rtol=1e-6 if bits is None else 1e-3)


def test_a_known_permutation_is_found():
    order = np.random.default_rng(0).permutation(16)
    x1 = jax.random.normal(jax.random.key(5), (16, 8))[order] + 0.01
    np.testing.assert_allclose(immiscible_noise(5, x1), x1 - 0.01, atol=1e-5)


def test_a_bad_image_does_not_reach_the_others():
    x1 = images().at[3].set(jnp.nan)
    noise = immiscible_noise(0, x1)
    assert jnp.all(jnp.isfinite(noise))


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_quantized_assignment_is_exact_on_whole_numbers(bits):
    cost = np.random.default_rng(0).uniform(-3, 5, (12, 12)).astype(np.float32)
    levels = np.asarray(quantize_cost(cost, bits))
    np.testing.assert_array_equal(levels, np.round(levels))
    assert levels.min() == 0 and levels.max() == 2**bits - 1
    weights = jnp.ones((12, 12)) / 144
    tx = couple_quantized(bits)
    plan = np.asarray(tx.update(weights, tx.init(weights), cost=jnp.asarray(cost))[0])
    assert np.sum(levels[plan > 0]) == levels[linear_sum_assignment(levels)].sum()


def test_nearest_noise_is_the_nearest_of_its_candidates():
    x1 = images()
    keys = jax.random.split(jax.random.key(7), 5)
    candidates = np.stack([jax.random.normal(k, x1.shape) for k in keys], 1)
    distances = np.sum((candidates - np.asarray(x1)[:, None]) ** 2, (2, 3))
    expected = candidates[np.arange(16), distances.argmin(1)]
    np.testing.assert_array_equal(nearest_noise(7, x1, 5), expected)
    np.testing.assert_array_equal(nearest_noise(7, x1, 1), candidates[:, 0])
    weights = jnp.ones((16, 5)) / 80
    tx = couple_nearest()
    plan = np.asarray(tx.update(weights, tx.init(weights), cost=jnp.asarray(distances, jnp.float32))[0])
    np.testing.assert_array_equal(plan.argmax(1), distances.argmin(1))
    np.testing.assert_allclose(plan.sum(1), 1 / 16, rtol=1e-6)


def test_nearest_noise_breaks_the_marginal_as_documented_and_assignment_does_not():
    d = 1024
    x1 = np.asarray(images(n=256, shape=(d,)))
    x1 = np.float32(0.5 * np.sqrt(d)) * x1 / np.linalg.norm(x1, axis=1, keepdims=True)
    along = lambda noise: np.mean(np.sum(noise * x1, 1) / np.linalg.norm(x1, axis=1))  # noqa: E731
    shorter = lambda noise: (np.mean(np.sum(np.square(noise), 1)) - d) / np.sqrt(2 * d)  # noqa: E731
    nearest = np.asarray(jax.jit(lambda x: nearest_noise(0, x, 4))(x1))
    np.testing.assert_allclose([along(nearest), shorter(nearest)], [0.6, -0.95], atol=0.2)
    assigned = np.asarray(jax.jit(lambda x: immiscible_noise(0, x))(x1))
    plain = np.asarray(jax.random.normal(jax.random.key(0), x1.shape))
    np.testing.assert_allclose(shorter(assigned), shorter(plain), atol=1e-4)


@pytest.mark.parametrize("shape", [(9,), (5, 7)])
def test_kernel_weights_are_a_softmax_of_the_costs(shape):
    rng = np.random.default_rng(0)
    cost, weights = rng.gamma(2.0, size=shape), rng.uniform(size=shape)
    expected = weights * np.exp(-cost / 0.3)
    expected *= weights.sum() / expected.sum()
    actual = gibbs_weights(jnp.asarray(cost, jnp.float32), jnp.asarray(weights, jnp.float32), epsilon=0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_kernel_limits_and_effective_sample_size():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000, 64))
    cost = jnp.asarray(np.linalg.norm(x - y, axis=1), jnp.float32)
    weights = jnp.full(2000, 1 / 2000, jnp.float32)
    np.testing.assert_allclose(gibbs_weights(cost, weights, epsilon=1e6), weights, rtol=1e-4)
    share = [effective_sample_size(gibbs_weights(cost, weights, epsilon=8 * kappa)) / 2000 for kappa in (0.05, 0.2, 1)]
    np.testing.assert_allclose(share, [0.045, 0.69, 0.98], atol=0.05)
    far = gibbs_weights(cost + 1e4, weights, epsilon=0.5)
    assert jnp.all(jnp.isfinite(far))
    np.testing.assert_allclose(jnp.sum(far), 1, rtol=1e-5)


def test_normalizations():
    rng = np.random.default_rng(1)
    costs = jnp.asarray(rng.gamma(2.0, size=(3, 8)), jnp.float32)
    weights = jnp.full(8, 1 / 8, jnp.float32)
    plain = couple_by_kernel(1.0, normalization="none")
    ema = couple_by_kernel(1.0, normalization="ema", decay=0.5)
    state, level = ema.init(weights), None
    for cost in costs:
        kernel = np.exp(-np.asarray(cost, np.float64)) / 8
        kept, _ = plain.update(weights, plain.init(weights), cost=cost)
        np.testing.assert_allclose(kept, kernel, rtol=1e-5)
        new = np.log(kernel.sum())
        level = new if level is None else 0.5 * level + 0.5 * new
        kept, state = ema.update(weights, state, cost=cost)
        np.testing.assert_allclose(kept, kernel / np.exp(level), rtol=1e-5)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="bits is 13, wanted at most 12"):
        couple_quantized(13)
    with pytest.raises(ValueError, match=r"labels has shape \[15\], wanted \[16\]"):
        immiscible_noise(0, images(), labels=jnp.arange(15))
    with pytest.raises(TypeError, match="labels has dtype float32"):
        immiscible_noise(0, images(), labels=jnp.ones(16))
    with pytest.raises(ValueError, match="k is 0"):
        nearest_noise(0, images(), 0)
    with pytest.raises(ValueError, match="normalization is 'sum'"):
        couple_by_kernel(1.0, normalization="sum")
    with pytest.raises(ValueError, match="epsilon is 0"):
        couple_by_kernel(0.0)
    with pytest.raises(ValueError, match=r"cost has shape \[3\]"):
        gibbs_weights(jnp.ones(3), jnp.ones(4), epsilon=1.0)
    with pytest.raises(ValueError, match="relative_to is 'median', wanted one of 'mean', 'std', 'max'"):
        gibbs_weights(jnp.ones(3), jnp.ones(3), epsilon=1.0, relative_to="median")
    with pytest.raises(ValueError, match="epsilon is -1"):
        gibbs_weights(jnp.ones(3), jnp.ones(3), epsilon=-1.0)


@pytest.mark.parametrize(
    ("cost", "options", "expected"),
    [
        ([3e38, 2.9e38], {"epsilon": 0.5}, [0, 1]),
        ([3e38, np.inf], {"epsilon": 1.5, "relative_to": "max"}, [1, 0]),
        ([1e10, 2e10], {"epsilon": 1e-35}, [1, 0]),
        ([1e-37, 2e-37], {"epsilon": 0.01, "relative_to": "mean"}, [1, 0]),
    ],
)
def test_kernels_at_the_edges_of_float32_give_weights(cost, options, expected):
    weights = jnp.ones(2) / 2
    mass = np.sum(np.isfinite(cost)) / 2
    actual = gibbs_weights(jnp.array(cost), weights, **options)
    np.testing.assert_allclose(actual, mass * np.array(expected), atol=1e-3)
