import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import expected_layer_gradient_length, expected_word_gradient_length

RNG = np.random.default_rng(0)
N, T, V, D, C = 9, 6, 7, 3, 4
FEATURES = RNG.normal(size=(N, D)).astype(np.float32)
KERNEL, BIAS = RNG.normal(size=(D, C)).astype(np.float32), RNG.normal(size=C).astype(np.float32)
OUT = RNG.normal(size=(D, C)).astype(np.float32)
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
WORDS = RNG.integers(0, V, (N, T))
WORDS[1, 3:], WORDS[2] = -1, -1


def expected(logits_of, norm, parameters, inputs):
    """The definition: a gradient of the cross-entropy for each label, and the norm of each."""

    def loss(parameters, x, label):
        return -jax.nn.log_softmax(logits_of(parameters, x))[label]

    def one(x):
        gradients = jax.vmap(lambda label: jax.grad(loss)(parameters, x, label))(jnp.arange(C))
        return jnp.sum(jax.nn.softmax(logits_of(parameters, x)) * jax.vmap(norm)(gradients))

    return jax.jit(jax.vmap(one))(inputs)


def of_all(tree, ord=2):
    return jnp.linalg.norm(jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]), ord)


def linear(layer, x):
    return x @ layer[0] + layer[1]


def first_of_two(layer, x):
    return jnp.tanh(x @ layer["w"] + layer["b"][None])[0] @ jnp.asarray(OUT)


def of_words(vectors, words):
    """Not the same in all places, so that a word that occurs twice has two gradients."""
    places = jnp.where(words >= 0, jnp.arange(1, T + 1), 0).astype(jnp.float32)
    return jnp.tanh(jnp.sum(places[:, None] * vectors, axis=0) / T) @ jnp.asarray(OUT)


@pytest.mark.parametrize("ord", [1, 2])
def test_the_last_layer_has_the_length_of_its_gradients(ord):
    layer = jnp.asarray(KERNEL), jnp.asarray(BIAS)
    logits = jnp.asarray(FEATURES) @ layer[0] + layer[1][None]
    found = selection.expected_gradient_length(logits, jnp.asarray(FEATURES), ord=ord)
    np.testing.assert_allclose(found, expected(linear, lambda g: of_all(g, ord), layer, FEATURES), rtol=2e-5)


@pytest.mark.parametrize("block_size", [4, 64])
def test_a_layer_has_the_length_of_its_gradients(block_size):
    layer = {"w": jnp.asarray(KERNEL[:, :D]), "b": jnp.asarray(BIAS[:D])}
    batch = jnp.asarray(FEATURES)[:, None]
    found = jax.jit(lambda x: expected_layer_gradient_length(first_of_two, layer, x, block_size=block_size))(batch)
    np.testing.assert_allclose(found, expected(first_of_two, of_all, layer, batch), rtol=2e-5)


def test_the_last_layer_is_one_of_the_layers():
    layer = jnp.asarray(KERNEL), jnp.asarray(BIAS)
    logits = jnp.asarray(FEATURES) @ layer[0] + layer[1][None]
    found = expected_layer_gradient_length(linear, layer, jnp.asarray(FEATURES))
    np.testing.assert_allclose(found, selection.expected_gradient_length(logits, jnp.asarray(FEATURES)), rtol=2e-5)


def test_the_word_with_the_longest_gradient_counts():
    def logits_of(table, words):
        return of_words(jnp.where(words[:, None] >= 0, table[words], 0), words)

    def longest(gradient):
        return jnp.max(jnp.linalg.norm(gradient, axis=1))

    found = jax.jit(lambda words: expected_word_gradient_length(of_words, jnp.asarray(TABLE), words, block_size=4))(
        WORDS
    )
    np.testing.assert_allclose(found, expected(logits_of, longest, jnp.asarray(TABLE), WORDS), rtol=2e-5)
    assert found[2] == 0 and any(len(set(row[row >= 0])) < np.sum(row >= 0) for row in WORDS)


def test_nearly_certain_rows_keep_their_order():
    logits = jnp.array([[40.0, 0.0], [30.0, 0.0], [50.0, 0.0]])
    lengths = selection.expected_gradient_length(logits, jnp.zeros((3, 2)))
    np.testing.assert_allclose(lengths, 2 * np.sqrt(2) * np.exp([-40.0, -30, -50]), rtol=1e-5)


def test_a_feature_that_is_not_finite_has_no_length():
    features = jnp.array([[1.0], [jnp.nan], [jnp.inf]])
    found = selection.expected_gradient_length(jnp.zeros((3, 2)), features)
    np.testing.assert_allclose(found, [np.sqrt(2) * np.sqrt(0.5), np.nan, np.nan], rtol=1e-6)
    table = jnp.asarray(TABLE).at[0, 0].set(jnp.nan)
    lengths = expected_word_gradient_length(of_words, table, jnp.array([[0, 1], [1, 2]]).repeat(3, axis=1))
    assert np.isnan(lengths[0]) and np.isfinite(lengths[1])


def test_bad_input_is_named():
    logits = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="ord is 3, wanted 1 or 2"):
        selection.expected_gradient_length(logits, logits, ord=3)
    with pytest.raises(ValueError, match=r"features has shape \[2, 2\]"):
        selection.expected_gradient_length(logits, logits[:2])
    with pytest.raises(ValueError, match=r"logits has shape \[3, 1\], wanted at least 2 classes"):
        selection.expected_gradient_length(logits[:, :1], logits)
    with pytest.raises(ValueError, match=r"logits_fn returned \[1\], wanted \[C\], C >= 2"):
        expected_layer_gradient_length(lambda w, x: x @ w, jnp.zeros((2, 1)), logits)
    with pytest.raises(TypeError, match="words has dtype float32"):
        expected_word_gradient_length(of_words, logits, logits)
