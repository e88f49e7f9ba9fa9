"""What the peer's values on one batch do not show; equality with them is in peer_test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining


def handicapped(cosines, **options):
    """The logit of the true class against a logit of 0: softplus inverted."""
    similarities = np.stack([cosines, np.zeros(len(cosines))], axis=1).astype(np.float32)
    positives = np.broadcast_to([[True, False]], similarities.shape)
    loss = functools.partial(mining.margin_softmax_loss, scale=1.0, reduction="none", **options)
    losses = np.asarray(jax.jit(loss)(similarities, positives, ~positives))
    return -np.log(np.expm1(losses))


@pytest.mark.parametrize("angle", [0.1, 0.5, 1.5])
def test_added_angle_on_the_whole_range(angle):
    cosines = np.cos(np.linspace(0.02, np.pi - 0.02, 60))
    theta = np.arccos(cosines)
    expected = np.where(theta <= np.pi - angle, np.cos(theta + angle), cosines - angle * np.sin(angle))
    np.testing.assert_allclose(handicapped(cosines, angle=angle), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("multiple", [2, 3, 4])
def test_multiplied_angle_falls_all_the_way(multiple):
    theta = np.linspace(0.02, np.pi - 0.02, 60)
    turns = np.floor(multiple * theta / np.pi)
    expected = (-1) ** turns * np.cos(multiple * theta) - 2 * turns
    actual = handicapped(np.cos(theta), multiple=multiple)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)
    assert np.all(np.diff(actual) < 1e-3)


def test_gradient_at_the_poles_is_finite():
    poles, mask = jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.eye(2, dtype=bool)
    for options in ({"angle": 0.5}, {"multiple": 4}, {"cosine": 0.3}):
        gradient = jax.grad(lambda s: mining.margin_softmax_loss(s, mask, ~mask, scale=2.0, **options))(poles)  # noqa: B023
        assert np.all(np.isfinite(gradient))


def test_sharp_centers_are_the_maximum():
    s = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(
        mining.losses.classification.soften_centers(s, temperature=1e-3), s.max(axis=2), rtol=1e-4
    )


def test_proxies_without_examples_only_push():
    s = jnp.array([[0.2, 0.4], [0.1, -0.3]])
    positives = jnp.array([[True, True], [False, False]])
    pull = np.log1p(np.exp(-8 * (s[0] - 0.1)).sum())
    push = np.log1p(np.exp(8 * (s[1] + 0.1)).sum()) / 2
    np.testing.assert_allclose(mining.proxy_anchor_loss(s, positives, ~positives, scale=8.0), pull + push, rtol=1e-5)


def test_bad_input_is_named():
    s, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"angle is 0\.5 and multiple is 4, wanted"):
        mining.margin_softmax_loss(s, mask, mask, angle=0.5, multiple=4)
    for angle in (np.float32(0.5), np.array(0.5), jnp.array(0.5), jnp.array(0.0)):
        with pytest.raises(ValueError, match=r"angle is 0\.\d and multiple is 4, wanted"):
            mining.margin_softmax_loss(s, mask, mask, angle=angle, multiple=4)
    with pytest.raises(ValueError, match="multiple is 4, wanted"):
        jax.jit(lambda angle: mining.margin_softmax_loss(s, mask, mask, angle=angle, multiple=4))(0.5)
    with pytest.raises(TypeError, match="multiple is 1.5"):
        mining.margin_softmax_loss(s, mask, mask, multiple=1.5)
    with pytest.raises(ValueError, match=r"similarities has shape \[2, 3\]"):
        mining.losses.classification.soften_centers(s)
    with pytest.raises(ValueError, match="scale is 0"):
        mining.proxy_anchor_loss(s, mask, mask, scale=0)
