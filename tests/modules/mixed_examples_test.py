"""Mixed examples against loops in NumPy, from the shares and partners that were drawn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from minibatch_jax.modules import mixup, mosaic

B, C, H, W = 10, 4, 6, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, H, W)).astype(np.float32)
Y = np.eye(C, dtype=np.float32)[RNG.integers(0, C, B)]
PADDING = np.where(np.arange(B) % 4 == 1, 0, 0.1).astype(np.float32)
FUNCTIONS = {
    (function, per_row): jax.jit(lambda key, w, x=X, f=function, p=per_row: f(key, {"x": x}, Y, per_row=p, weights=w))
    for function in (mixup, mosaic)
    for per_row in (False, True)
}
both = pytest.mark.parametrize(("function", "per_row"), FUNCTIONS)


@both
def test_targets_are_means_by_share_and_rows_are_in_permutations_of_all_but_padding(function, per_row):
    for seed in range(5):
        mixed = jax.device_get(FUNCTIONS[function, per_row](seed, PADDING))
        assert (np.ptp(mixed.shares, axis=0).max() > 0) == per_row
        np.testing.assert_allclose(mixed.shares.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(mixed.partners[:, 0], np.arange(B))
        for partners in mixed.partners.T:
            assert sorted(partners) == list(range(B))
            np.testing.assert_array_equal(partners[PADDING == 0], np.flatnonzero(PADDING == 0))
        expected = np.einsum("bm,bmc->bc", mixed.shares, Y[mixed.partners])
        np.testing.assert_allclose(mixed.targets, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(mixed.inputs["x"][PADDING == 0], X[PADDING == 0], rtol=1e-5)


@pytest.mark.parametrize("per_row", [False, True])
def test_mixup_averages_two_rows_and_its_shares_are_beta(per_row):
    function = FUNCTIONS[mixup, per_row]
    mixed = jax.device_get(function(3, PADDING))
    for i in range(B):
        j, share = mixed.partners[i, 1], mixed.shares[i, 0]
        np.testing.assert_allclose(mixed.inputs["x"][i], share * X[i] + (1 - share) * X[j], rtol=1e-4, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 500)
    alphas = jnp.full(500, 0.4).at[:3].set(jnp.array([0, -1, jnp.nan]))
    draw = jax.vmap(lambda key, alpha: mixup(key, jnp.ones((2, 1)), alpha=alpha, per_row=per_row).shares[0, 0])
    shares = jax.jit(draw)(keys, alphas)
    assert np.all(shares[:3] == 1)  # no mixture without a distribution of shares
    assert stats.kstest(shares[3:], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    with jax.enable_x64(True):
        assert jax.eval_shape(lambda: mixup(0, X, per_row=per_row)).shares.dtype == jnp.float32  # one draw in both


def test_the_loss_of_mixup_is_that_of_both_labels_by_their_shares():
    mixed = FUNCTIONS[mixup, True](1, PADDING)
    logits = jnp.asarray(RNG.normal(size=(B, C)).astype(np.float32))
    whole = np.asarray(optax.softmax_cross_entropy(logits, mixed.targets))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    labels = np.argmax(Y, axis=1)[mixed.partners]
    np.testing.assert_allclose(whole, -np.sum(mixed.shares * np.take_along_axis(log_p, labels, axis=1), axis=1), 1e-5)


@pytest.mark.parametrize("per_row", [False, True])
def test_mosaic_pastes_four_quadrants_whose_areas_are_the_shares(per_row):
    corners = set()
    for seed in range(30):
        mixed = jax.device_get(FUNCTIONS[mosaic, per_row](seed, PADDING))
        for image, partners, shares in zip(mixed.inputs["x"], mixed.partners, mixed.shares):
            top, left = shares[0] + shares[1], shares[0] + shares[2]
            y, x = round(top * H), round(left * W)
            assert np.allclose([top * H, left * W], [y, x], atol=1e-4)
            corners.add((y, x))
            quadrants = [slice(0, y), slice(y, H)], [slice(0, x), slice(x, W)]
            for part, (rows, columns) in enumerate((r, c) for r in quadrants[0] for c in quadrants[1]):
                np.testing.assert_array_equal(image[rows, columns], X[partners[part], rows, columns])
                assert np.isclose(shares[part], image[rows, columns].size / (H * W), rtol=1e-5)
    expected = {(y, x) for y in range(2, 5) for x in range(2, 7)}  # a fifth of 6 and of 8, rounded up
    assert corners == expected if per_row else corners < expected


def test_mosaic_takes_integers_and_colors_and_padding_may_be_anything():
    images = RNG.integers(0, 255, (B, H, W, 3)).astype(np.uint8)
    mixed = jax.jit(lambda x: mosaic(2, {"image": x, "mask": x[..., 0]}, min_fraction=0.5))(images)
    assert mixed.inputs["image"].dtype == np.uint8 and mixed.targets is None
    np.testing.assert_array_equal(mixed.inputs["image"][..., 0], mixed.inputs["mask"])
    np.testing.assert_array_equal(mixed.inputs["mask"][:, 3:, :4], images[mixed.partners[:, 2], 3:, :4, 0])
    spoilt = np.where(PADDING[:, None, None] == 0, np.nan, X)
    for function in FUNCTIONS.values():
        assert np.all(np.isfinite(function(0, PADDING, spoilt).inputs["x"][PADDING > 0]))


NUMBER: Any = 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mixup(0, X, Y[:3]), ValueError, r"targets has shape \[3, 4\], wanted \[10, 4\]"),
        (lambda: mixup(0, X, Y, alpha=0.0), ValueError, "alpha is 0.0, wanted a number in"),
        (lambda: mixup(0, X, Y, alpha=float("inf")), ValueError, r"alpha is inf, wanted a number in \(0, inf\)"),
        (lambda: mixup(0, X, Y, alpha=jnp.ones(B)), ValueError, r"alpha has shape \[10\], wanted \[\]"),
        (lambda: mixup(0, X, np.ones(B, np.int32)), TypeError, "targets has dtype int32, wanted a floating"),
        (lambda: mixup(0, {}), ValueError, "inputs has no array"),
        (lambda: mixup(0, X, per_row=NUMBER), TypeError, "per_row is 1, wanted a bool"),
        (lambda: mosaic(0, X[:, 0, 0]), ValueError, r"images has shape \[10\], wanted \[B, H, W, ...\]"),
        (lambda: mosaic(0, (X, X[:, :2])), ValueError, r"images has shape \[10, 2, 8\], wanted \[10, 6, 8\]"),
        (lambda: mosaic(0, X, min_fraction=0.7), ValueError, "min_fraction is 0.7, wanted a number in"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
