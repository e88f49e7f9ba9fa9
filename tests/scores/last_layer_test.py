import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.scores import last_layer_gradients


def draw(dtype=np.float32):
    rng = np.random.default_rng(0)
    return jnp.asarray(4 * rng.normal(size=(6, 5)), dtype), jnp.asarray(rng.integers(0, 5, 6))


def test_it_is_the_gradient_of_the_cross_entropy():
    logits, labels = draw()
    soft = jax.nn.softmax(logits[::-1])
    hard_losses = lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels).sum()  # noqa: E731
    soft_losses = lambda z: optax.softmax_cross_entropy(z, soft).sum()  # noqa: E731
    np.testing.assert_allclose(last_layer_gradients(logits, labels), jax.grad(hard_losses)(logits), atol=1e-6)
    np.testing.assert_allclose(last_layer_gradients(logits, soft), jax.grad(soft_losses)(logits), atol=1e-6)


def test_narrow_labels_and_low_precision_are_computed_in_float32():
    logits, labels = draw(jnp.bfloat16)
    found = last_layer_gradients(logits, labels.astype(jnp.int8))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, last_layer_gradients(logits.astype(jnp.float32), labels), rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="labels has dtype float32, wanted an integer"):
        last_layer_gradients(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(TypeError, match="labels has dtype int32, wanted a floating"):
        last_layer_gradients(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"labels has shape \[2, 4\], wanted \[2, 3\]"):
        last_layer_gradients(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"logits has shape \[2\]"):
        last_layer_gradients(jnp.ones(2), jnp.zeros(2, int))
