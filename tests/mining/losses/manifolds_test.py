"""Random walks equal their power series; the manifold loss pads and differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from minibatch_jax import mining
from tests.mining.unit_vectors import batch


def test_random_walks_equal_their_power_series():
    x, _ = batch(6)
    s = x @ x.T
    weights = np.exp(np.maximum(s, 0) / 0.5) * (1 - np.eye(9))
    step = weights / np.sqrt(np.outer(weights.sum(0), weights.sum(0)))
    series = 0.3 * sum(np.linalg.matrix_power(0.7 * step, t) for t in range(80))
    actual = mining.random_walk_similarity(jnp.asarray(s, jnp.float32), restart=0.3)
    np.testing.assert_allclose(actual, series, rtol=1e-4)


def test_random_walks_at_any_temperature_and_precision():
    x, _ = batch(6)
    s = jnp.asarray(x @ x.T, jnp.float32)
    cold = np.asarray(mining.random_walk_similarity(s, temperature=0.01))
    with jax.enable_x64(True):
        exact = mining.random_walk_similarity(jnp.asarray(s, jnp.float64), temperature=0.01)
    np.testing.assert_allclose(cold, exact, rtol=1e-3, atol=1e-5)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = mining.random_walk_similarity(s.astype(dtype))
        assert half.dtype == dtype
        np.testing.assert_allclose(half.astype(jnp.float32), mining.random_walk_similarity(s), atol=0.01)


def test_manifold_loss_pads_and_differentiates():
    x, proxies = batch(7)[0], batch(8, 3)[0]
    own = jnp.arange(9)[:, None] % 3 == jnp.arange(3)[None]

    def loss(x, p, n):
        together = jnp.concatenate([x, jnp.asarray(proxies, x.dtype)])
        return mining.manifold_loss(mining.cosine_similarity(together), p, n)

    step = jax.jit(jax.value_and_grad(loss))
    value, gradient = step(jnp.asarray(x, jnp.float32), own, ~own)
    empty = jnp.zeros((2, 3), bool)
    for fill in (1e6, jnp.nan):
        padded = jnp.concatenate([jnp.asarray(x, jnp.float32), jnp.full((2, 3), fill)])
        again, slopes = step(padded, jnp.concatenate([own, empty]), jnp.concatenate([~own, empty]))
        np.testing.assert_allclose(again, value, rtol=1e-5)
        np.testing.assert_allclose(slopes, jnp.pad(gradient, ((0, 2), (0, 0))), rtol=1e-4, atol=1e-6)
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda x: loss(x, own, ~own)), (jnp.asarray(x),), order=1, modes=["rev"], eps=1e-7)


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"similarities has shape \[2, 3\], wanted \[5, 5\]"):
        mining.manifold_loss(d, mask, mask)
    with pytest.raises(ValueError, match=r"negatives has shape \[2, 2\], wanted \[2, 3\]"):
        mining.manifold_loss(jnp.ones((5, 5)), mask, mask[:, :2])
    with pytest.raises(ValueError, match="restart is 0"):
        mining.random_walk_similarity(jnp.ones((3, 3)), restart=0)
