"""The stored batch and values of pytorch-metric-learning (see pml_reference.py), and a comparison with them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import mining

PEER = json.loads((Path(__file__).parent / "pml_reference.json").read_text())
X, LABELS = np.array(PEER["embeddings"]), np.array(PEER["labels"])
MEMORY, MEMORY_LABELS = np.array(PEER["references"]), np.array(PEER["reference_labels"])


def euclidean(x, r=None):
    return mining.euclidean_distances(*(v if v is None else mining.normalize_embeddings(v) for v in (x, r)))


def squared(x, r=None):
    return euclidean(x, r) ** 2


def check(step, expected, tolerance=1e-5):
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(step))(jnp.asarray(X))
    if expected["value"] is not None:
        np.testing.assert_allclose(value, expected["value"], rtol=tolerance)
    peer = np.array(expected["gradient"])
    np.testing.assert_allclose(gradient, peer, atol=tolerance * np.abs(peer).max(), rtol=0)
    assert np.abs(peer).max() > 0


def masks():
    labels = jnp.asarray(LABELS)
    return mining.positive_mask(labels), mining.negative_mask(labels)
