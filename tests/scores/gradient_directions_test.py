import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.scores import gradient_direction_error, gradient_direction_variance

variance, error = jax.jit(gradient_direction_variance), jax.jit(gradient_direction_error)


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / length if length else 0.0


@pytest.mark.parametrize("zero", [False, True])
def test_both_are_means_over_pairs_of_whole_gradients(zero):
    rng = np.random.default_rng(0)
    tree = {"w": rng.normal(size=(5, 3, 2)).astype(np.float32), "b": rng.normal(size=(5, 4)).astype(np.float32)}
    if zero:
        tree = jax.tree.map(lambda x: np.where(np.arange(5).reshape(5, *[1] * (x.ndim - 1)) == 2, 0, x), tree)
    full = jax.tree.map(lambda x: x[0] + 0.3, tree)
    flat = np.concatenate([tree["b"], tree["w"].reshape(5, -1)], axis=1).astype(np.float64)
    whole = np.concatenate([full["b"], full["w"].reshape(-1)]).astype(np.float64)
    pairs = [(1 - cosine(flat[i], flat[j])) / 2 for i in range(5) for j in range(i)]
    np.testing.assert_allclose(variance(tree), np.mean(pairs), rtol=1e-5)
    np.testing.assert_allclose(error(tree, full), np.mean([(1 - cosine(g, whole)) / 2 for g in flat]), rtol=1e-5)


@pytest.mark.parametrize("second, expected", [([2.0, 0.0], 0.0), ([-3.0, 0.0], 1.0), ([0.0, 1.0], 0.5)])
def test_the_ends_and_the_middle_of_the_scale(second, expected):
    gradients = jnp.array([[1.0, 0.0], second])
    assert float(variance(gradients)) == pytest.approx(expected, abs=1e-6)
    assert float(error(gradients[1:], gradients[0])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_cannot_be_measured_shows(bad):
    gradients = jnp.array([[1.0, 0.0], [bad, 1.0]])
    assert np.isnan(variance(gradients)) and np.isnan(error(gradients, jnp.ones(2)))
    assert np.isnan(error(jnp.ones((2, 2)), gradients[1]))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_the_length_of_a_gradient_does_not_matter(scale):
    rows = np.random.default_rng(1).normal(size=(4, 3))
    expected = np.mean([(1 - cosine(rows[i], rows[j])) / 2 for i in range(4) for j in range(i)])
    lengths = np.array([scale, 1, 1, scale])[:, None]
    np.testing.assert_allclose(variance(jnp.float32(rows * lengths)), expected, rtol=1e-5)
    expected = np.mean([(1 - cosine(row, rows[0])) / 2 for row in rows])
    np.testing.assert_allclose(error(jnp.float32(rows * lengths), jnp.float32(rows[0] * scale)), expected, rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="gradients has 1 row, wanted two or more"):
        gradient_direction_variance(jnp.ones((1, 3)))
    with pytest.raises(TypeError, match="gradients has dtype int32"):
        gradient_direction_variance(jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match="full_gradient has the structure"):
        gradient_direction_error({"w": jnp.ones((2, 3))}, jnp.ones(3))
    with pytest.raises(ValueError, match="full_gradient has shape"):
        gradient_direction_error(jnp.ones((2, 3)), jnp.ones(2))
