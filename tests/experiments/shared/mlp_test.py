"""The shared model and label noise, against numpy."""

import jax
import numpy as np
import pytest

from experiments.datasets import batches
from experiments.engine import init_mlp, mlp, with_wrong_labels
from experiments.engine.loops import _batch_seed


def test_mlp_against_numpy():
    layers = init_mlp(jax.random.key(0), (5, 7, 3))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    (k0, b0), (k1, b1) = [(np.asarray(k), np.asarray(b) + 0.5) for k, b in layers]
    expected = np.maximum(x @ k0 + b0, 0) @ k1 + b1
    np.testing.assert_allclose(mlp([(k0, b0), (k1, b1)], x), expected, rtol=1e-5)


def test_init_has_the_variance_of_he():
    ((kernel, bias),) = init_mlp(jax.random.key(1), (400, 500))
    np.testing.assert_allclose(np.var(np.asarray(kernel)), 2 / 400, rtol=0.02)
    assert not np.any(np.asarray(bias))


@pytest.mark.parametrize("rate,wrong", [(0.0, 0), (0.4, 400), (1.0, 1000)])
def test_exactly_the_rate_of_labels_is_wrong(rate, wrong):
    labels = np.random.default_rng(0).integers(0, 10, 1000).astype(np.int32)
    noisy = with_wrong_labels(labels, rate, 10, seed=3)
    assert np.sum(noisy != labels) == wrong
    assert noisy.dtype == labels.dtype and noisy.min() >= 0 and noisy.max() <= 9
    np.testing.assert_array_equal(noisy, with_wrong_labels(labels, rate, 10, seed=3))


def test_all_other_classes_are_equally_likely():
    labels = np.zeros(90_000, np.int32)
    counts = np.bincount(with_wrong_labels(labels, 1.0, 10, seed=0), minlength=10)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 10_000, rtol=0.05)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_batches_are_independent_of_the_label_noise(seed):
    """NumPy's generators of [seed, 0] (the first epoch) and of seed (the noise) are the same."""
    wrong = with_wrong_labels(np.zeros(1000, np.int32), 0.4, 10, seed) != 0
    iterator = batches(1000, 100, _batch_seed(seed))
    shares = [wrong[next(iterator)["index"]].mean() for _ in range(10)]
    assert min(shares) > 0.2 and max(shares) < 0.6
