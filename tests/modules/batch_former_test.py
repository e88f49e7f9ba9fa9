import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minibatch_jax import modules


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)


def module(**options):
    return modules.BatchFormer(8, rngs=nnx.Rngs(0), **({"dropout": 0.0} | options))


def test_the_plain_half_is_untouched_and_the_other_is_equivariant(x):
    step = nnx.jit(lambda m, x: m(x))
    m, order = module(), np.random.default_rng(1).permutation(6)
    out = step(m, x)
    np.testing.assert_array_equal(out[:6], x)
    np.testing.assert_allclose(step(m, x[order])[6:], out[6:][order], rtol=1e-4, atol=1e-5)


def test_with_output_projections_zero_it_is_two_layer_norms(x):
    m = module()
    for layer in (m.attention.out, m.contract):
        layer.kernel[...], layer.bias[...] = jnp.zeros_like(layer.kernel[...]), jnp.zeros_like(layer.bias[...])
    unit = (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(m(x)[6:], unit, rtol=1e-3, atol=1e-4)


def test_each_loss_reaches_every_example_only_while_training(x):
    m = module()
    others = nnx.jit(lambda m, x: jax.jacobian(lambda x: m.encode(x)[:, 0])(x))(m, x)
    assert np.all(np.abs(others).max(axis=2) > 0)
    m.eval()
    np.testing.assert_array_equal(m(x), x)
    alone = nnx.jit(lambda m, x: jax.jacobian(lambda x: m(x).sum(axis=1))(x))(m, x)
    np.testing.assert_array_equal(np.abs(alone).max(axis=2) > 0, np.eye(6))


@pytest.mark.parametrize("fill", [0.0, 1e6, np.nan])
def test_padding_is_attended_by_nobody(x, fill):
    m, mask = module(), np.arange(6) < 4
    encode = nnx.jit(lambda m, x, mask=None: m.encode(x, mask))
    filled = np.where(mask[:, None], x, np.float32(fill))
    padded = encode(m, filled, mask)
    np.testing.assert_allclose(padded[:4], encode(m, x[:4]), rtol=1e-4, atol=1e-5)
    slope = np.asarray(nnx.jit(lambda m, x: jax.grad(lambda x: m.encode(x, mask)[:4].sum())(x))(m, filled))
    np.testing.assert_array_equal(slope[4:], 0)
    assert np.all(np.isfinite(slope))


def test_dropout_draws_anew(x):
    m = module(dropout=0.5)
    assert not np.array_equal(m(x)[6:], m(x)[6:])


@pytest.fixture
def tokens():
    return jnp.asarray(np.random.default_rng(2).normal(size=(6, 5, 8)), jnp.float32)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_place_is_the_form_without_places(x, dropout):
    step = nnx.jit(lambda m, x: m(x))
    np.testing.assert_array_equal(step(module(dropout=dropout), x[:, None])[:, 0], step(module(dropout=dropout), x))


@pytest.mark.parametrize("mask", [None, np.arange(6) < 4])
def test_each_place_is_attended_by_itself_with_the_same_weights(tokens, mask):
    m, step = module(), nnx.jit(lambda m, x, mask=None: m(x, mask))
    out = step(m, tokens, mask)
    assert out.shape == (12, 5, 8)
    np.testing.assert_array_equal(out[:6], tokens)
    for place in range(5):
        np.testing.assert_allclose(out[:, place], step(m, tokens[:, place], mask), rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(1).permutation(5)
    np.testing.assert_allclose(step(m, tokens[:, order], mask), out[:, order], rtol=1e-4, atol=1e-5)


def test_examples_reach_each_other_at_one_place_only_and_not_after_eval(tokens):
    m = module()
    slope = nnx.jit(lambda m, x: jax.jacobian(lambda x: m(x)[:, :, 0])(x))
    attended = np.abs(slope(m, tokens)[6:]).max(axis=4)  # [example, place, example, place]
    np.testing.assert_array_equal(attended > 0, np.broadcast_to(np.eye(5)[None, :, None], (6, 5, 6, 5)))
    m.eval()
    np.testing.assert_array_equal(m(tokens), tokens)


@pytest.mark.parametrize("fill", [0.0, 1e6, np.nan])
def test_padding_is_attended_at_no_place(tokens, fill):
    m, mask = module(), np.arange(6) < 4
    encode = nnx.jit(lambda m, x, mask=None: m.encode(x, mask))
    filled = np.where(mask[:, None, None], tokens, np.float32(fill))
    np.testing.assert_allclose(encode(m, filled, mask)[:4], encode(m, tokens[:4]), rtol=1e-4, atol=1e-5)
    slope = np.asarray(nnx.jit(lambda m, x: jax.grad(lambda x: m.encode(x, mask)[:4].sum())(x))(m, filled))
    assert np.all(np.isfinite(slope)) and not np.any(slope[4:])


def test_the_library_does_not_import_flax():
    code = "import sys, minibatch_jax; assert 'flax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_input_is_named(x):
    with pytest.raises(ValueError, match="num_heads is 3, wanted a divisor"):
        module(num_heads=3)
    with pytest.raises(ValueError, match=r"x has shape \[6, 7\]"):
        module()(x[:, :7])
    with pytest.raises(ValueError, match=r"x has shape \[6, 1, 7\], wanted \[any size > 0, any size > 0, 8\]"):
        module()(x[:, None, :7])
    with pytest.raises(ValueError, match=r"x has shape \[1, 1, 6, 8\], wanted \[any size > 0, 8\]"):
        module()(x[None, None])
    with pytest.raises(ValueError, match=r"mask has shape \[6, 1\], wanted \[6\]"):
        module()(x[:, None], jnp.ones((6, 1), bool))
    with pytest.raises(ValueError, match=r"mask has shape \[5\]"):
        module()(x, jnp.ones(5, bool))
    with pytest.raises(ValueError, match="dropout is 2"):
        module(dropout=2)
