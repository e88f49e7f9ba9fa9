import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.scores import gradient_alignments


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
        jax.jit(gradient_alignments, static_argnums=0)(losses_fn, params, x, direction), expected, rtol=1e-5
    )


def test_a_step_along_the_best_aligned_example_lowers_the_held_out_loss_most():
    rng = np.random.default_rng(1)
    x, held_out = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (8, 20))
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.ones(())}
    loss = lambda p: jnp.mean(losses_fn(p, held_out))  # noqa: E731
    aligned = gradient_alignments(losses_fn, params, x, jax.grad(loss)(params))
    jacobian = jax.jacobian(losses_fn)(params, x)
    after = [loss(jax.tree.map(lambda p, j, i=i: p - 1e-3 * j[i], params, jacobian)) for i in range(8)]
    assert int(jnp.argmax(aligned)) == int(np.argmin(np.asarray(after)))


def test_bad_input_is_named():
    params = {"w": jnp.ones(3), "b": jnp.ones(())}
    with pytest.raises(ValueError, match="direction has the structure"):
        gradient_alignments(losses_fn, params, jnp.ones((2, 3)), {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"losses has shape \[\]"):
        gradient_alignments(lambda p, b: losses_fn(p, b).sum(), params, jnp.ones((2, 3)), params)
