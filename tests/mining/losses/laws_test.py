"""What holds for all losses of pairs: only masked pairs matter, gradients are right, bad input is named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from minibatch_jax import mining
from tests.mining.losses.drawn import pairs

LOSSES = {
    "angular": mining.angular_loss,
    "binomial_deviance": mining.binomial_deviance_loss,
    "circle": functools.partial(mining.circle_loss, scale=8.0),
    "fast_ap": mining.fast_ap_loss,
    "generalized_lifted_structure": mining.generalized_lifted_structure_loss,
    "hard_negative": mining.hard_negative_loss,
    "histogram": mining.histogram_loss,
    "intra_pair_variance": mining.intra_pair_variance_loss,
    "lifted_structure": mining.lifted_structure_loss,
    "margin": functools.partial(mining.margin_loss, boundary=0.5),
    "orthogonal_pair": mining.orthogonal_pair_loss,
    "orthogonal_projection": mining.orthogonal_projection_loss,
    "pnp": functools.partial(mining.pnp_loss, temperature=0.1),
    "ranked_list": functools.partial(mining.ranked_list_loss, boundary=0.8, margin=0.6),
    "sigmoid": functools.partial(mining.sigmoid_loss, scale=4.0, bias=-2.0),
    "similarity_regression": mining.similarity_regression_loss,
    "smooth_ap": functools.partial(mining.smooth_ap_loss, temperature=0.1),
    "threshold_consistent": mining.threshold_consistent_loss,
    "tuplet_margin": functools.partial(mining.tuplet_margin_loss, scale=8.0),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@each_loss
def test_only_masked_pairs_matter_and_none_is_zero(loss):
    s, p, n = pairs()
    step = jax.jit(jax.value_and_grad(loss))
    expected = step(s, p, n)
    assert expected[0] > 0 and np.all(np.isfinite(expected[1]))
    if loss is not mining.angular_loss:  # which compares positives with the negatives of the anchor
        np.testing.assert_array_equal(jnp.where(p | n, 0, expected[1]), 0)
        for fill in (jnp.nan, 0.7):
            filled = step(jnp.where(p | n, s, fill), p, n)
            np.testing.assert_allclose(filled[0], expected[0], rtol=1e-6)
            np.testing.assert_allclose(filled[1], expected[1], rtol=1e-5, atol=1e-6)
        bad = jnp.asarray(np.random.default_rng(1).random(s.shape) < 0.2)
        spoilt, clean = step(jnp.where(bad, jnp.nan, s), p, n), step(s, p & ~bad, n & ~bad)
        np.testing.assert_allclose(spoilt[0], clean[0], rtol=1e-6)
        np.testing.assert_allclose(spoilt[1], clean[1], rtol=1e-5, atol=1e-6)
    nothing = jnp.zeros_like(p)
    value, gradient = step(s, nothing, nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("circle", "angular")])
def test_gradients(name):
    s, p, n = pairs(1)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda s: LOSSES[name](s, p, n)), (s.astype(jnp.float64),), order=1, modes=["rev"], eps=1e-6
        )


def test_bad_input_is_named():
    s, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="angle is 2"):
        mining.angular_loss(s[:, :2], mask[:, :2], mask[:, :2], angle=2.0)
    with pytest.raises(ValueError, match=r"reference_similarities has shape \[2, 3\]"):
        mining.angular_loss(s, mask, mask)
    with pytest.raises(ValueError, match="penalty is 'O', wanted one of"):
        mining.pnp_loss(s, mask, mask, penalty="O")
    with pytest.raises(ValueError, match="power is 3, wanted 1 or 2"):
        mining.orthogonal_pair_loss(s, mask, mask, power=3)
    with pytest.raises(ValueError, match="prior is 1"):
        mining.hard_negative_loss(s, mask, mask, prior=1)
    with pytest.raises(ValueError, match="num_bins is 0"):
        mining.fast_ap_loss(s, mask, mask, num_bins=0)
    with pytest.raises(ValueError, match="scale is 0"):
        mining.circle_loss(s, mask, mask, scale=0)
    with pytest.raises(ValueError, match="imbalance is 2"):
        mining.ranked_list_loss(s, mask, mask, imbalance=2)
    with pytest.raises(TypeError, match="counted has dtype float32|positives has dtype float32"):
        mining.losses.ranking.soft_ranks(s, s)
