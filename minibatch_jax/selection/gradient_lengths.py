"""Which unlabeled examples to label next: those that would change the model most, whatever their label (EGL).

The length of the gradient is averaged over the labels, by the probabilities that the model gives them. It is that of
the last layer, which needs no backward pass, of any one layer, or of the embedding of the word that changes most.

References:
  Settles, Craven & Ray, Multiple-instance active learning, NeurIPS 2007.
  Zhang, Lease & Wallace, Active discriminative text representation learning, AAAI 2017 (arXiv 1606.04212).

Method: expected gradient length (EGL, EGL-layer, EGL-word)
Paper: 1606.04212
Experiment: active_texts, speed strategies
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import finite_rows, product, root
from minibatch_jax.selection.uncertainty import class_probabilities, without_top
from minibatch_jax.weights import weight_dtype


def expected_gradient_length(logits: jax.Array, features: jax.Array, *, ord: int = 2) -> jax.Array:
    """Return the length that the gradient of the last layer has on average, over the label that the model expects.

    The layer is `logits = features @ kernel + bias` under the cross-entropy. The gradient for the label c is the outer
    product of `softmax(logits) - onehot(c)` with the features and a 1, so its norm needs no backward pass.

    Args:
      logits: `[N, C]`, floating point, C >= 2.
      features: `[N, D]`, floating point, inputs of the last layer.
      ord: 2 for the Euclidean norm, 1 for the sum of the absolute entries.

    Returns:
      `[N]`, float32 (float64 if one of the two is); not finite where a softmax or a feature is not, or where the
      squared norm of the features overflows.

    Raises:
      TypeError: if logits or features are not floating point.
      ValueError: if shapes do not match, there is only one class or the order is neither 1 nor 2.

    References:
      Settles, Craven & Ray, NeurIPS 2007.

    Examples:
      >>> expected_gradient_length(jnp.zeros((1, 2)), jnp.zeros((1, 3)), ord=1).tolist()
      [1.0]
    """
    if isinstance(ord, bool) or ord not in (1, 2):
        raise ValueError(f"ord is {ord!r}, wanted 1 or 2.")
    probabilities = class_probabilities(logits)
    check_shape("features", features, (logits.shape[0], None))
    check_floating("features", features)
    inputs, finite = finite_rows(features)
    dtype = jnp.promote_types(probabilities.dtype, inputs.dtype)
    probabilities, inputs = probabilities.astype(dtype), inputs.astype(dtype)
    rest = without_top(probabilities)
    missing = jnp.sum(rest, axis=1)
    if ord == 1:
        in_logits = jnp.sum(2 * probabilities * jnp.where(rest == probabilities, 1 - rest, missing[:, None]), axis=1)
        in_inputs = 1 + jnp.sum(jnp.abs(inputs), axis=1)
    else:
        scaled = rest / nonzero(missing)[:, None]  # squares of tiny probabilities would be 0
        of_top = missing * jnp.sqrt(1 + jnp.sum(scaled**2, axis=1))
        squares = jnp.sum(probabilities**2, axis=1, keepdims=True) - 2 * probabilities + 1
        lengths = jnp.where(rest == probabilities, jnp.sqrt(jnp.maximum(squares, 0)), of_top[:, None])
        in_logits = jnp.sum(probabilities * lengths, axis=1)
        in_inputs = jnp.sqrt(1 + jnp.sum(inputs**2, axis=1))
    return jnp.where(finite, in_logits * in_inputs, jnp.nan)


def expected_layer_gradient_length(
    logits_fn: Callable[[Any, Any], jax.Array], layer: Any, batch: Any, *, block_size: int = 64
) -> jax.Array:
    """Return the length that the gradient of one layer has on average, over the label that the model expects.

    The gradients of the C logits of an example are computed once; that of the cross-entropy for a label is a sum of
    them, so its norm needs only their products. O(block_size C P) memory for P parameters.

    Args:
      logits_fn: `logits_fn(layer, example) -> [C]`; other parameters are its own. Pass the same function object each
        time: outside of `jit` each new one compiles.
      layer: parameters of the layer, a pytree of floating-point arrays.
      batch: examples, a pytree of arrays with N rows.
      block_size: examples at a time, static.

    Returns:
      `[N]`, float32 (float64 if the logits are); not finite where a gradient or a softmax is not.

    Raises:
      TypeError: if the block size is not a static int.
      ValueError: if it is below 1, or the logits are not `[C]` with C >= 2.

    References:
      Zhang, Lease & Wallace, AAAI 2017 (arXiv 1606.04212).

    Examples:
      >>> def logits_fn(kernel, x):
      ...   return x @ kernel
      >>> lengths = expected_layer_gradient_length(logits_fn, jnp.zeros((1, 2)), jnp.array([[0.0], [2.0]]))
      >>> [round(x, 4) for x in lengths.tolist()]
      [0.0, 1.4142]
    """
    check_count("block_size", block_size)
    return map_rows(bind(given(_layer_length, logits_fn), layer), batch, block_size=block_size)


def expected_word_gradient_length(
    logits_fn: Callable[[jax.Array, jax.Array], jax.Array],
    embeddings: jax.Array,
    words: jax.Array,
    *,
    block_size: int = 64,
) -> jax.Array:
    """Return the length of the gradient of the word that would change most, averaged over the labels (EGL-word).

    For each label, it is the largest norm among the words of the text of the gradient of the cross-entropy by the
    embedding of the word; a word that occurs several times has the sum of the gradients of all places.
    O(block_size T (T + C D)) memory.

    Args:
      logits_fn: `logits_fn(vectors [T, D], words [T]) -> [C]`, with the embeddings of the words of one text; its
        parameters are its own. Pass the same function object each time: outside of `jit` each new one compiles.
      embeddings: `[V, D]`, floating point, one row for each word.
      words: `[N, T]` int, numbers of the words of each text; a negative one is padding.
      block_size: texts at a time, static.

    Returns:
      `[N]`, float32 (float64 if the embeddings are); 0 for a text without a word; not finite where a gradient or a
      softmax is not.

    Raises:
      TypeError: if the embeddings are not floating point, the words not integers or the block size is not a static int.
      ValueError: if a shape does not match, the block size is below 1 or the logits are not `[C]` with C >= 2.

    References:
      Zhang, Lease & Wallace, AAAI 2017 (arXiv 1606.04212).

    Examples:
      >>> def logits_fn(vectors, words):
      ...   return jnp.sum(jnp.where(words[:, None] >= 0, vectors, 0), axis=0)
      >>> words = jnp.array([[0, 1, 1], [0, 1, -1], [-1, -1, -1]])
      >>> lengths = expected_word_gradient_length(logits_fn, jnp.zeros((2, 2)), words)
      >>> [round(x, 4) for x in lengths.tolist()]
      [1.4142, 0.7071, 0.0]
    """
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    check_shape("words", words, (None, None))
    check_integer("words", words)
    check_count("block_size", block_size)
    return map_rows(bind(given(_word_length, logits_fn), embeddings), words, block_size=block_size)


def _layer_length(logits_fn, layer, example):
    def named(layer):
        logits = logits_fn(layer, example)
        _check_logits(logits)
        return logits, logits

    gradients, logits = jax.jacrev(named, has_aux=True)(layer)
    dtype = weight_dtype(logits.dtype)
    flat = [x.reshape(logits.shape[0], -1).astype(dtype) for x in jax.tree.leaves(gradients)]
    inner = jnp.sum(jnp.stack([product(x, x.T) for x in flat]), axis=0)
    probabilities = jax.nn.softmax(logits.astype(dtype))
    residuals = probabilities[None] - jnp.eye(logits.shape[0], dtype=dtype)
    squares = jnp.sum(product(residuals, inner) * residuals, axis=1)
    return jnp.sum(probabilities * root(jnp.maximum(squares, 0)))


def _word_length(logits_fn, embeddings, words):
    def named(vectors):
        logits = logits_fn(vectors, words)
        _check_logits(logits)
        return logits, logits

    real = words >= 0
    vectors = jnp.where(real[:, None], embeddings[jnp.where(real, words, 0)], 0)
    gradients, logits = jax.jacrev(named, has_aux=True)(vectors)  # [C, T, D]
    dtype = weight_dtype(logits.dtype)
    same = ((words[:, None] == words[None]) & real[:, None] & real[None]).astype(dtype)
    gradients = jnp.where(real[None, :, None], gradients, 0).astype(dtype)
    probabilities = jax.nn.softmax(logits.astype(dtype))
    residuals = probabilities[None] - jnp.eye(logits.shape[0], dtype=dtype)
    of_places = jnp.einsum("kc,ctd->ktd", residuals, gradients, precision="highest")
    of_words = jnp.einsum("st,ktd->ksd", same, of_places, precision="highest")
    return jnp.sum(probabilities * jnp.max(root(jnp.sum(of_words**2, axis=2)), axis=1))


def _check_logits(logits: jax.Array) -> None:
    """Raise unless a function returned the class scores of one example, of at least two classes."""
    if jnp.ndim(logits) != 1 or logits.shape[0] < 2:
        raise ValueError(f"logits_fn returned {list(jnp.shape(logits))}, wanted [C], C >= 2 scores of one example.")
