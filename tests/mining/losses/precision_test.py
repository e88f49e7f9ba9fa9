"""Every loss of pairs in half and single precision against float64, for spread values and sharp settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining import catalog

SIZE, CLASSES = 96, 8
SHARP = {
    "angular_loss": {"angle": 1.5},
    "hard_negative_loss": {"temperature": 0.02},
    "info_nce_loss": {"temperature": 0.02},
    "margin_softmax_loss": {"cosine": 0.35},
    "ntxent_loss": {"temperature": 0.02},
    "ranked_list_loss": {"boundary": 6.0, "positive_temperature": 10.0},
    "supcon_loss": {"temperature": 0.02},
}
LOSSES = {
    **{loss.__name__: loss for loss in (*catalog.ON_SIMILARITIES, *catalog.WITHOUT_REDUCTION)},
    **{loss.__name__: loss for loss in catalog.ON_DISTANCES},
    **catalog.TRIPLET_LOSSES,
    "margin_softmax_loss": mining.margin_softmax_loss,
}
OF_DISTANCES = {*(loss.__name__ for loss in catalog.ON_DISTANCES), *catalog.TRIPLET_LOSSES}
DTYPES = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 1e-3}
CLOSE_TO_ZERO = 1e-6
LOUD = 1024  # small slopes would underflow in float16


def values(name, spread):
    drawn = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE)) * spread
    return drawn + spread if name in OF_DISTANCES else drawn


def value_and_slopes(loss, x, masks, options):
    value, pull_back = jax.vjp(lambda x: loss(x, *masks, **options), x)
    return value, pull_back(jnp.asarray(LOUD, value.dtype))[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_dtype_agrees_with_float64(name):
    masks = catalog.all_pairs(np.arange(SIZE) % CLASSES)
    step = jax.jit(functools.partial(value_and_slopes, LOSSES[name]))
    for spread in (0.3, 4.0):
        for options in ({}, SHARP.get(name, {})):
            for dtype, tolerance in DTYPES.items():
                x = jnp.asarray(values(name, spread), dtype)
                value, slopes = step(x, masks, options)
                with jax.enable_x64(True):
                    right_value, right_slopes = step(x.astype(jnp.float64), masks, options)
                assert value.dtype == slopes.dtype == x.dtype
                assert np.isfinite(right_value) and np.all(np.isfinite(right_slopes))
                value, slopes, right_slopes = (np.asarray(v, np.float64) for v in (value, slopes, right_slopes))
                np.testing.assert_allclose(value, right_value, rtol=tolerance, atol=CLOSE_TO_ZERO)
                scale = np.abs(right_slopes).max() + CLOSE_TO_ZERO
                np.testing.assert_allclose(slopes / scale, right_slopes / scale, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", catalog.REDUCTIONS)
def test_reductions_add_up_in_single_precision(reduction, dtype):
    losses = jnp.asarray(np.random.default_rng(1).uniform(-0.02, 0.1, (512, 512)), dtype)
    valid = jnp.asarray(np.random.default_rng(2).random((512, 512)) < 0.9).at[3].set(False)
    x = np.where(valid, np.asarray(losses, np.float64), np.nan)
    x[3] = 0
    counted = np.where(x > 0, x, np.nan) if reduction == "active_mean" else np.where(valid, x, np.nan)
    right = {
        "mean": lambda: np.nanmean(counted),
        "active_mean": lambda: np.nanmean(counted),
        "sum": lambda: np.nansum(counted),
        "anchor_mean": lambda: np.nanmean(np.nanmean(np.delete(counted, 3, axis=0), axis=1)),
        "anchors": lambda: np.nanmean(x, axis=1),
        "none": lambda: np.nan_to_num(x),
    }[reduction]()
    actual = mining.reduce_losses(losses, valid, reduction)
    assert actual.dtype == losses.dtype
    np.testing.assert_allclose(np.asarray(actual, np.float64), right, rtol=DTYPES[dtype], atol=1e-7)


def test_a_mean_of_many_halves_is_one_half():
    for size in (256, 512):
        for dtype in (jnp.float16, jnp.bfloat16):
            mask = jnp.ones((size, size), bool)
            assert float(mining.reduce_losses(jnp.full((size, size), 0.5, dtype), mask)) == 0.5


def test_active_mean_is_of_positive_losses_and_shows_nan():
    valid = jnp.ones(3, bool)
    assert float(mining.reduce_losses(jnp.array([-1.0, 2.0, 4.0]), valid, "active_mean")) == 3
    assert np.isnan(mining.reduce_losses(jnp.array([-1.0, 2.0, jnp.nan]), valid, "active_mean"))


def test_orthogonal_pairs_of_many_pairs_in_float16():
    embeddings = jnp.asarray(np.random.default_rng(0).normal(size=(300, 16)), jnp.float16)
    masks = catalog.all_pairs(np.arange(300) % 30)
    value, gradient = jax.value_and_grad(lambda e: mining.orthogonal_pair_loss(mining.cosine_similarity(e), *masks))(
        embeddings
    )
    assert abs(float(value) - 0.092) < 5e-4
    assert np.all(np.isfinite(gradient)) and np.mean(np.asarray(gradient) != 0) > 0.9


def test_sharp_hard_negatives_equal_the_closed_form():
    positives = jnp.array([[True, False, False]])
    loss = functools.partial(mining.hard_negative_loss, temperature=0.01, concentration=0.0, prior=0.0)
    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 3)), positives, ~positives)
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-200 / 3, 100 / 3, 100 / 3]], rtol=1e-5)


@pytest.mark.parametrize("boundary,pull", [(6.0, 0.5), (10.0, 0.0), (100.0, 0.0)])
def test_a_far_boundary_of_ranked_lists(boundary, pull):
    positives = jnp.array([[True, False, False]])
    gradient = jax.grad(mining.ranked_list_loss)(jnp.array([[9.0, 1.0, 2.0]]), positives, ~positives, boundary=boundary)
    np.testing.assert_allclose(gradient, [[pull, -0.5002, 0.0002]], atol=1e-4)


def test_a_wide_margin_of_walks_is_finite():
    positives = jnp.array([[True, False]])
    similarities = mining.cosine_similarity(jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
    loss = mining.manifold_loss(similarities, positives, ~positives, margin=200.0, context=0.0)
    assert 199 < float(loss) < 200
