"""Entropies of domains, and the mixture in proportion to them, for which nothing is trained.

The paper recommends the conditional entropy of a token given the one before. All entropies are in nats. From few
tokens they come out too low: take samples of equal size from all domains, and the correction of Miller and Madow.

References:
  Ge et al., BiMix: a bivariate data mixing law for language model pretraining, 2024 (arXiv 2405.14908).
  Miller, Note on the bias of information estimates, 1955.

Method: BiMix
Paper: 2405.14908
Experiment: mixture_laws
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_floating, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.weights import weight_dtype


def shannon_entropy(counts: jax.Array, *, corrected: bool = False) -> jax.Array:
    """Return the entropy of the tokens of each domain.

    Args:
      counts: `[K, V]`, how often each domain has each token: numbers at least 0; others count as 0.
      corrected: add (number of tokens that occur - 1) / (2 number counted), the correction of Miller and Madow.

    Returns:
      `[K]`, float32 (float64 if the counts are); 0 for a domain without tokens.

    Raises:
      ValueError: if the counts have another rank.

    Examples:
      >>> print(*(f"{h:.4f}" for h in shannon_entropy(jnp.array([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]])).tolist()))
      0.6931 0.0000
    """
    check_shape("counts", counts, (None, None))
    counts = _numbers(counts)
    total = jnp.sum(counts, axis=1)
    shares = counts / nonzero(total)[:, None]
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0), axis=1)
    entropy = jnp.maximum(entropy, 0)
    if not corrected:
        return entropy
    support = jnp.sum(counts > 0, axis=1, dtype=jnp.int32).astype(entropy.dtype)
    return entropy + jnp.where(total > 0, (support - 1) / (2 * nonzero(total)), 0)


def joint_entropy(counts: jax.Array, *, corrected: bool = False) -> jax.Array:
    """Return the entropy of pairs of consecutive tokens of each domain.

    Args:
      counts: `[K, V, V]`, how often each domain has the second token after the first: numbers at least 0.
      corrected: as in `shannon_entropy`, over pairs.

    Returns:
      `[K]`, float32 (float64 if the counts are).

    Raises:
      ValueError: if the counts have another rank.

    Examples:
      >>> print(f"{joint_entropy(jnp.ones((1, 2, 2)))[0]:.4f}")
      1.3863
    """
    check_shape("counts", counts, (None, None, None))
    return shannon_entropy(counts.reshape(counts.shape[0], -1), corrected=corrected)


def conditional_entropy(counts: jax.Array, *, corrected: bool = False) -> jax.Array:
    """Return the entropy of a token given the one before: that of pairs less that of their first tokens.

    Args:
      counts: `[K, V, V]`, how often each domain has the second token after the first: numbers at least 0.
      corrected: correct both entropies as in `shannon_entropy`.

    Returns:
      `[K]`, float32 (float64 if the counts are).

    Raises:
      ValueError: if the counts have another rank.

    References:
      Ge et al., 2024 (arXiv 2405.14908).

    Examples:
      >>> print(f"{conditional_entropy(jnp.array([[[2.0, 2.0], [0.0, 4.0]]]))[0]:.4f}")
      0.3466
    """
    check_shape("counts", counts, (None, None, None))
    counts = _numbers(counts)
    joint = joint_entropy(counts, corrected=corrected)
    return joint - shannon_entropy(jnp.sum(counts, axis=2), corrected=corrected)


def von_neumann_entropy(matrices: jax.Array) -> jax.Array:
    """Return the entropy of the eigenvalues of each domain's covariance of embeddings, divided by their sum.

    Args:
      matrices: `[K, d, d]`, floating point, symmetric, no negative eigenvalue beyond rounding.

    Returns:
      `[K]`, float32 (float64 if the matrices are).

    Raises:
      TypeError: if the matrices are not floating point.
      ValueError: if they are not square.

    Examples:
      >>> print(f"{von_neumann_entropy(jnp.diag(jnp.array([3.0, 3.0, 0.0]))[None])[0]:.4f}")
      0.6931
    """
    check_shape("matrices", matrices, (None, matrices.shape[-1], None))
    check_floating("matrices", matrices)
    return shannon_entropy(jnp.linalg.eigvalsh(matrices.astype(weight_dtype(matrices.dtype))))


def entropy_mixture(entropies: jax.Array, mode: str = "softmax") -> jax.Array:
    """Return proportions that grow with the entropies of domains.

    Args:
      entropies: `[K]`, floating point, in nats; a domain whose entropy is not finite gets proportion 0.
      mode: static, "softmax" for exp(H) / sum exp(H), "linear" for H / sum H, where negative entropies count as 0.

    Returns:
      `[K]`, sums to 1; uniform if every domain would get 0.

    Raises:
      TypeError: if the entropies are not floating point.
      ValueError: if their shape or the mode is another.

    References:
      Ge et al., 2024 (arXiv 2405.14908).

    Examples:
      >>> entropies = jnp.array([0.0, 0.6931472])
      >>> for mode in ("softmax", "linear"):
      ...     print(*(f"{share:.4f}" for share in entropy_mixture(entropies, mode).tolist()))
      0.3333 0.6667
      0.0000 1.0000
    """
    check_shape("entropies", entropies, (None,))
    check_floating("entropies", entropies)
    check_choice("mode", mode, ("softmax", "linear"))
    entropies = entropies.astype(weight_dtype(entropies.dtype))
    known = jnp.isfinite(entropies)
    if mode == "linear":
        shares = jnp.where(known, jnp.maximum(entropies, 0), 0)
    else:
        largest = jnp.max(jnp.where(known, entropies, -jnp.inf))
        largest = jnp.where(jnp.isfinite(largest), largest, 0)
        shares = jnp.where(known, jnp.exp(jnp.where(known, entropies, 0) - largest), 0)
    total = jnp.sum(shares)
    return jnp.where(total > 0, shares / nonzero(total), 1 / entropies.shape[0])


def _numbers(counts: jax.Array) -> jax.Array:
    """Return counts in the dtype to compute in, 0 for those that are negative or not finite."""
    counts = counts.astype(weight_dtype(counts.dtype))
    return jnp.where((counts > 0) & jnp.isfinite(counts), counts, 0)
