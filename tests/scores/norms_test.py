"""Exact norms against those of gradients formed by vmap(grad)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from minibatch_jax import scores, selection, value_and_grad

B = 6


def oracle(loss_fn, params, batch):
    def loss(p, row):
        return loss_fn(p, jax.tree.map(lambda x: x[None], row))[0]

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, batch)
    squares = sum(np.sum(np.asarray(g, np.float64).reshape(B, -1) ** 2, 1) for g in jax.tree.leaves(gradients))
    return np.sqrt(squares)


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, padding="VALID")(x))
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Transformer(nn.Module):
    """Embedding, attention (DenseGeneral), LayerNorm, dense layers over time: by both closed forms."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(5, 4)(ids)
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(2)(x, x))
        x = nn.Dense(40)(x)
        x = nn.Dense(2, use_bias=False)(nn.gelu(x))
        return nn.Dense(3)(x.mean(1))


def linen_problem(model, x):
    variables = jax.jit(model.init)(jax.random.key(0), x)
    rest = {name: value for name, value in variables.items() if name != "params"}
    labels = jnp.arange(B, dtype=jnp.int32) % 3

    def loss_fn(params, batch):
        logits = model.apply({"params": params, **rest}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    return loss_fn, variables["params"], {"x": x, "y": labels}


MODELS = {
    "dense": (nn.Sequential([nn.Dense(7), nn.tanh, nn.Dense(3)]), normal((B, 5))),
    "convolutional": (Convolutional(), normal((B, 8, 8, 2))),
    "transformer": (Transformer(), jnp.asarray(np.random.default_rng(0).integers(0, 5, (B, 7)))),
}


@pytest.mark.parametrize(("model", "x"), MODELS.values(), ids=MODELS)
def test_linen_norms_are_those_of_the_gradients(model, x):
    loss_fn, params, batch = linen_problem(model, x)
    expected = oracle(loss_fn, params, batch)
    for norms in (scores.linen_gradient_norms, scores.gradient_norms):
        actual = jax.jit(norms, static_argnums=0)(loss_fn, params, batch)
        np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_chunks_change_nothing(chunk_size):
    loss_fn, params, batch = linen_problem(*MODELS["dense"])
    norms = jax.jit(scores.gradient_norms, static_argnames=("loss_fn", "block_size"))
    actual = norms(loss_fn, params, batch, block_size=chunk_size)
    np.testing.assert_allclose(actual, oracle(loss_fn, params, batch), rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 9])
def test_plain_layers_with_taps(steps):
    """Few positions go by the products of pairs of them, many by the kernel's gradient; the sum is linear in both."""
    ids = jnp.asarray(np.random.default_rng(1).integers(0, 4, (B, steps)))
    params = {"table": normal((4, 3)), "w": normal((3, 5), 1), "b": normal(5, 2), "s": normal(5, 3)}

    def loss_fn(params, ids, tap=None):
        x = params["table"][ids]
        x = x if tap is None else scores.tap_embedding(tap, ids, x)
        y = x @ params["w"] + params["b"][None, None]
        y = jnp.tanh(y if tap is None else scores.tap_dense(tap, x, y))
        z = params["s"][None, None] * y
        z = z if tap is None else scores.tap_layer(tap, lambda s, x: s[None, None] * x, params["s"], y, z)
        return jnp.sum(jnp.sin(z), (1, 2))

    actual = jax.jit(lambda p: scores.ghost_gradient_norms(lambda tap: loss_fn(p, ids, tap), B))(params)
    np.testing.assert_allclose(actual, oracle(loss_fn, params, ids), rtol=1e-5)


def test_a_bad_row_spoils_only_its_own_norm_and_is_not_drawn():
    loss_fn, params, batch = linen_problem(*MODELS["dense"])
    spoilt = batch | {"x": batch["x"].at[2].set(jnp.nan)}
    norms = jax.jit(scores.linen_gradient_norms, static_argnums=0)(loss_fn, params, spoilt)
    expected = oracle(loss_fn, params, batch)
    np.testing.assert_allclose(np.delete(norms, 2), np.delete(expected, 2), rtol=1e-5)
    assert not np.isfinite(norms[2])
    tx = selection.keep_by_gradient_norm(4, key=0, threshold=0.0)
    (_, aux), grads, _ = value_and_grad(loss_fn, tx)(params, spoilt, tx.init(jnp.zeros(B)), gradient_norms=norms)
    assert aux.weights[2] == 0 and aux.weights.sum() > 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_draw_has_the_least_variance_of_any():
    """Mean squared error of the sampled gradient over keys: below uniform draws, near its closed form."""
    loss_fn, params, batch = linen_problem(*MODELS["dense"])
    norms = jax.jit(scores.linen_gradient_norms, static_argnums=0)(loss_fn, params, batch)
    gradients = jax.jit(jax.jacobian(lambda p: loss_fn(p, batch)))(params)
    rows = np.concatenate([np.asarray(g).reshape(B, -1) for g in jax.tree.leaves(gradients)], 1)
    k, weights = 3, jnp.full(B, 1 / B)

    def draw(key):
        tx = selection.keep_by_gradient_norm(k, key, threshold=0.0)
        return tx.update(weights, tx.init(weights), gradient_norms=norms)[0]

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)))
    mean = rows.mean(0)
    error = np.mean(np.sum((drawn @ rows - mean) ** 2, 1))
    p = np.asarray(norms) / np.sum(norms)
    closed = (np.sum(np.asarray(norms) ** 2 / p) / B**2 - np.sum(mean**2)) / k
    uniform = (np.mean(np.asarray(norms) ** 2) - np.sum(mean**2)) / k
    assert closed < uniform
    np.testing.assert_allclose(error, closed, rtol=0.1)


class Tied(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(5, 4)
        return embed.attend(nn.Dense(4)(embed(ids).mean(1)))


class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x) * self.param("scale", nn.initializers.ones, (3,))[None]


class Training(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(x))


REFUSED = {
    "a module called twice": (Tied(), jnp.zeros((B, 2), jnp.int32), "used twice"),
    "parameters beside submodules": (Mixed(), normal((B, 3)), r"\['scale'\].* used by no module"),
    "rematerialized": (nn.Sequential([nn.remat(nn.Dense)(4), nn.Dense(3)]), normal((B, 3)), "lifted transformation"),
    "batch statistics": (Training(), normal((B, 3)), "BatchNorm is training"),
}


@pytest.mark.parametrize(("model", "x", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_exact_form_is_refused(model, x, message):
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss_fn(params, x):
        out = model.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]
        return jnp.sum(out, 1)

    with pytest.raises(ValueError, match=message):
        scores.linen_gradient_norms(loss_fn, variables["params"], x)


def test_bad_input_is_named():
    loss_fn, params, batch = linen_problem(*MODELS["dense"])
    with pytest.raises(ValueError, match=r"batch\['y'\] has shape \[3\]"):
        scores.gradient_norms(loss_fn, params, batch | {"y": batch["y"][:3]})
    with pytest.raises(TypeError, match="block_size is 0.5"):
        scores.gradient_norms(loss_fn, params, batch, block_size=0.5)
    with pytest.raises(ValueError, match=r"losses has shape \[\]"):
        scores.ghost_gradient_norms(jnp.sum, B)
    with pytest.raises(ValueError, match=r"outputs has shape \[6, 2\]"):
        scores.tap_dense(jnp.zeros(B), jnp.ones((B, 4, 3)), jnp.ones((B, 2)))
    with pytest.raises(TypeError, match="ids has dtype float32"):
        scores.tap_embedding(jnp.zeros(B), jnp.ones(B), jnp.ones((B, 2)))
    with pytest.raises(TypeError, match="k is 1.5"):
        selection.keep_by_gradient_norm(1.5, key=0)
