"""The loss through chosen pairs against the loss on all distances, and against a sharded batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from minibatch_jax import mining


def batch(seed, size=12):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(size, 3)), jnp.float32), jnp.asarray(rng.integers(0, 4, size))


def dense(x, labels, compare=mining.euclidean_distances, **options):
    return mining.triplet_loss(compare(x, x), mining.positive_mask(labels), mining.negative_mask(labels), **options)


def cosine_distances(x, r):
    return 1 - mining.cosine_similarity(x, r)


@pytest.mark.parametrize("smooth,reduction", [(False, "active_mean"), (True, "mean"), (False, "sum")])
@pytest.mark.parametrize("compare", [mining.euclidean_distances, mining.squared_euclidean_distances, cosine_distances])
@pytest.mark.parametrize("block_size", [4, 1024])
def test_value_and_gradient_equal_those_of_all_distances(compare, smooth, reduction, block_size):
    x, labels = batch(0)
    options = {"compare": compare, "smooth": smooth, "reduction": reduction, "margin": 0.3}
    loss = functools.partial(mining.mined_triplet_loss, block_size=block_size, **options)
    value, gradient = jax.jit(jax.value_and_grad(loss))(x, labels)
    expected, wanted = jax.jit(jax.value_and_grad(functools.partial(dense, mining="hard", **options)))(x, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(gradient).max() > 0.01


def test_against_other_references():
    (x, labels), (r, classes) = batch(1), batch(2, 7)
    step = jax.jit(jax.value_and_grad(mining.mined_triplet_loss, argnums=(0, 2)))
    value, gradient = step(x, labels, r, classes)
    masks = mining.positive_mask(labels, classes), mining.negative_mask(labels, classes)

    def whole(x, r):
        return mining.triplet_loss(mining.euclidean_distances(x, r), *masks, mining="hard")

    expected, wanted = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))(x, r)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for actual, right in zip(gradient, wanted):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-6)


def test_gradient_by_embeddings_and_margin():
    with jax.enable_x64(True):
        x, labels = batch(3)
        loss = jax.jit(lambda x, m: mining.mined_triplet_loss(x, labels, margin=m, smooth=True))
        check_grads(loss, (x.astype(jnp.float64), jnp.asarray(0.3)), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_in_no_triplet(fill):
    x, labels = batch(4)
    padded = jnp.concatenate([x, jnp.full((4, 3), fill)])
    step = jax.jit(jax.value_and_grad(mining.mined_triplet_loss))
    value, gradient = step(padded, jnp.concatenate([labels, labels[:4]]))
    expected, wanted = step(x, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:12], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(gradient[12:], 0)


def test_no_triplet_is_zero_not_nan():
    x, _ = batch(5)
    step = jax.jit(jax.value_and_grad(mining.mined_triplet_loss))
    for labels in (jnp.arange(12), jnp.zeros(12, jnp.int32)):
        value, gradient = step(x, labels)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_no_array_of_all_pairs_is_formed():
    step = jax.jit(jax.value_and_grad(functools.partial(mining.mined_triplet_loss, block_size=64)))
    shapes = jax.ShapeDtypeStruct((4096, 16), "float32"), jax.ShapeDtypeStruct((4096,), "int32")
    used = step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < 4 * 4096 * 4096 // 4


def test_bad_input_is_named():
    x, labels = batch(6)
    with pytest.raises(ValueError, match="block_size is 5, wanted a divisor of the number of embeddings 12"):
        mining.mined_triplet_loss(x, labels, block_size=5)
    with pytest.raises(ValueError, match="positive is 'far', wanted one of"):
        mining.mined_triplet_loss(x, labels, positive="far")
    with pytest.raises(ValueError, match="reduction is 'all'"):
        mining.mined_triplet_loss(x, labels, reduction="all")
    with pytest.raises(ValueError, match="margin is nan"):
        mining.mined_triplet_loss(x, labels, margin=float("nan"))
