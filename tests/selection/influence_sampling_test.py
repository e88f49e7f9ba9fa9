import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_influence": Case(
        lambda: selection.keep_by_influence(0.5, key=0), draws.surrogate_features, lowers_mass=None, tolerance=1e-5
    ),
}

RNG = np.random.default_rng(0)
LOGITS, FEATURES = RNG.normal(size=(9, 3)).astype(np.float32), RNG.normal(size=(9, 2)).astype(np.float32)
lengths = jax.jit(lambda *a, **k: selection.influence_lengths(*a, ridge=1e-2, **k))


def by_labels(logits, features, ridge, counted):
    """The expectation over labels, from the gradients and the Hessian of automatic differentiation in float64."""
    with jax.enable_x64(True):
        logits, features = jnp.asarray(logits, jnp.float64), jnp.asarray(features, jnp.float64)
        probabilities = jax.nn.softmax(logits)
        rows, classes, width = *logits.shape, features.shape[1]

        def loss(kernel, n, c):
            return -jax.nn.log_softmax(logits[n] + kernel.reshape(classes, width) @ features[n])[c]

        zero, everyone = jnp.zeros(classes * width), [(n, c) for n in range(rows) for c in range(classes)]
        gradients = {at: jax.grad(loss)(zero, *at) for at in everyone}
        hessian = sum(jax.hessian(loss)(zero, n, 0) for n in np.flatnonzero(counted)) / float(sum(counted))
        inverse = np.linalg.inv(np.asarray(hessian) + ridge * np.eye(len(zero)))
        gradients = {at: np.asarray(found) for at, found in gradients.items()}
        terms = {at: float(probabilities[at]) * gradients[at] @ inverse @ gradients[at] for at in everyone}
        return np.sqrt([sum(terms[n, c] for c in range(classes)) for n in range(rows)])


def test_lengths_are_expectations_over_the_labels_in_the_metric_of_the_hessian():
    counted = np.arange(9) != 4
    expected = np.where(counted, by_labels(LOGITS, FEATURES, 1e-2, counted), np.nan)
    np.testing.assert_allclose(lengths(LOGITS, FEATURES, where=jnp.asarray(counted)), expected, rtol=1e-4)


def test_two_classes_without_a_ridge_have_a_closed_form():
    logits = np.stack([np.zeros(9, np.float32), LOGITS[:, 0]], 1)
    p = 1 / (1 + np.exp(-LOGITS[:, 0].astype(np.float64)))
    spread, x = p * (1 - p), FEATURES.astype(np.float64)
    inverse = np.linalg.inv((spread[:, None] * x).T @ x / 9)
    expected = np.sqrt(spread * np.einsum("nd,de,ne->n", x, inverse, x))
    actual = selection.influence_lengths(jnp.asarray(logits), jnp.asarray(FEATURES), ridge=1e-7)
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_rows_that_cannot_be_measured_have_no_length_and_change_no_other():
    clean = lengths(LOGITS[:6], FEATURES[:6])
    features, logits = FEATURES.copy(), LOGITS.copy()
    features[6, 0], features[7, 1], logits[8, 0] = np.nan, 1e30, np.nan
    found = lengths(logits, features)
    assert np.isnan(found[6:]).all()
    np.testing.assert_allclose(found[:6], clean, rtol=1e-5)


def test_large_features_do_not_make_the_hessian_indefinite():
    assert np.isfinite(selection.influence_lengths(jnp.asarray(LOGITS), 1e4 * jnp.asarray(FEATURES))).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="ridge is 0"):
        selection.influence_lengths(LOGITS, FEATURES, ridge=0)
    with pytest.raises(ValueError, match="features has shape"):
        selection.influence_lengths(LOGITS, FEATURES[:3])
    with pytest.raises(ValueError, match="fraction is 2"):
        selection.keep_by_influence(2, key=0)
