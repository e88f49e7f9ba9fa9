"""The gradient of the cross-entropy of each example in its logits, which stands for its gradient in the parameters.

Methods that compare the gradients of examples (CRAIG, CREST, gradient-norm sampling) use it as features, because it
needs no backward pass. With the inputs of the last layer, it is all that the gradient of this layer depends on.

References:
  Katharopoulos & Fleuret, Not all samples are created equal, ICML 2018 (arXiv 1803.00942).
  Mirzasoleiman et al., Coresets for data-efficient training of machine learning models, ICML 2020 (arXiv 1906.01827).
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_integer, check_shape
from minibatch_jax._vector import as_index
from minibatch_jax.weights import weight_dtype


def last_layer_gradients(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the gradient of each example's cross-entropy in its logits: probabilities minus targets.

    Args:
      logits: `[B, C]`, floating point.
      labels: `[B]` int, in [0, C), or `[B, C]` floating point, at least 0, probabilities that sum to 1.

    Returns:
      `[B, C]`, `softmax(logits) - targets`, float32 (float64 if the logits are).

    Raises:
      TypeError: if the logits are not floating point, or labels `[B]` not integer, or labels `[B, C]` not floating
        point.
      ValueError: if shapes do not match.

    Examples:
      >>> last_layer_gradients(jnp.zeros((2, 2)), jnp.array([0, 1])).tolist()
      [[-0.5, 0.5], [0.5, -0.5]]
      >>> last_layer_gradients(jnp.zeros((1, 2)), jnp.array([[0.75, 0.25]])).tolist()
      [[-0.25, 0.25]]
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    logits = logits.astype(weight_dtype(logits.dtype))
    if jnp.ndim(labels) == 2:
        check_shape("labels", labels, logits.shape)
        check_floating("labels", labels)
        return jax.nn.softmax(logits) - labels.astype(logits.dtype)
    check_shape("labels", labels, logits.shape[:1])
    check_integer("labels", labels)
    return jax.nn.softmax(logits) - jax.nn.one_hot(as_index(labels), logits.shape[1], dtype=logits.dtype)
