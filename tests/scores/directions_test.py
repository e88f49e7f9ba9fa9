import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.scores import alignment, last_layer_alignment, last_layer_gradients


def losses_fn(params, x):
    return jnp.logaddexp(0, x @ params["w"]) + params["b"] ** 2 * x[:, 0]


def test_alignments_are_inner_products_with_the_gradients_of_the_examples():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    draw = lambda: {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.asarray(rng.normal(), jnp.float32)}  # noqa: E731
    params, direction = draw(), draw()
    jacobian = jax.jacobian(losses_fn)(params, x)
    expected = jacobian["w"] @ direction["w"] + jacobian["b"] * direction["b"]
    np.testing.assert_allclose(
        jax.jit(alignment, static_argnums=0)(losses_fn, params, x, direction), expected, rtol=1e-5
    )


def test_a_step_along_the_best_aligned_example_lowers_the_held_out_loss_most():
    rng = np.random.default_rng(1)
    x, held_out = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (8, 20))
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.ones(())}
    loss = lambda p: jnp.mean(losses_fn(p, held_out))  # noqa: E731
    aligned = alignment(losses_fn, params, x, jax.grad(loss)(params))
    jacobian = jax.jacobian(losses_fn)(params, x)
    after = [loss(jax.tree.map(lambda p, j, i=i: p - 1e-3 * j[i], params, jacobian)) for i in range(8)]
    assert int(jnp.argmax(aligned)) == int(np.argmin(np.asarray(after)))


def test_bad_input_is_named():
    params = {"w": jnp.ones(3), "b": jnp.ones(())}
    with pytest.raises(ValueError, match="direction has the structure"):
        alignment(losses_fn, params, jnp.ones((2, 3)), {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"direction has shape \[2\], wanted \[3\]"):
        alignment(losses_fn, params, jnp.ones((2, 3)), {"w": jnp.ones(2), "b": jnp.ones(())})
    with pytest.raises(TypeError, match="direction has dtype bfloat16, wanted float32"):
        alignment(losses_fn, params, jnp.ones((2, 3)), {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(())})
    with pytest.raises(ValueError, match=r"losses has shape \[\]"):
        alignment(lambda p, b: losses_fn(p, b).sum(), params, jnp.ones((2, 3)), params)


def test_the_last_layer_has_the_alignment_of_forward_mode_differentiation():
    rng = np.random.default_rng(2)
    features, labels = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), jnp.arange(6) % 3

    def draw():
        kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
        return {"w": jnp.asarray(kernel, jnp.float32), "b": jnp.asarray(bias, jnp.float32)}

    params, direction = draw(), draw()

    def cross_entropies(params, batch):
        logits = batch["x"] @ params["w"] + params["b"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    expected = alignment(cross_entropies, params, {"x": features, "y": labels}, direction)
    residuals = last_layer_gradients(features @ params["w"] + params["b"][None], labels)
    np.testing.assert_allclose(
        last_layer_alignment(residuals, features, direction["w"], direction["b"]), expected, rtol=1e-5, atol=1e-6
    )


def test_bad_input_of_the_last_layer_is_named():
    with pytest.raises(ValueError, match=r"kernel has shape \[4, 2\], wanted \[4, 3\]"):
        last_layer_alignment(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=r"bias has shape \[1\], wanted \[3\]"):
        last_layer_alignment(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((4, 3)), jnp.ones(1))
    with pytest.raises(TypeError, match="features has dtype int32"):
        last_layer_alignment(jnp.ones((2, 3)), jnp.ones((2, 4), jnp.int32), jnp.ones((4, 3)))
