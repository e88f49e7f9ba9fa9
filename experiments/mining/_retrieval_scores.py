"""How well embeddings of classes never seen find the other images of their class."""

import jax
import jax.numpy as jnp

from minibatch_jax.metrics import recall_at_k, retrieval_scores
from minibatch_jax.mining import normalize_embeddings


def scores(vectors: jax.Array) -> dict[str, float]:
    """Every vector of `[classes, 4, D]` is a query, all others are what it searches among, by cosine."""
    return {name: float(value) for name, value in _scores(vectors).items()}


@jax.jit
def _scores(vectors):
    labels = jnp.repeat(jnp.arange(vectors.shape[0]), vectors.shape[1])
    embeddings = normalize_embeddings(vectors.reshape(len(labels), -1))
    found = retrieval_scores(embeddings, labels, max_positives=vectors.shape[1] - 1)
    return {
        "map_at_r": found.map_at_r,
        "r_precision": found.r_precision,
        "recall_at_1": recall_at_k(embeddings, labels),
    }
