"""Keep one image of each group of nearly equal ones, with the weight of the group, found inside clusters.

Method: near-duplicates of embeddings (SemDeDup)
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from minibatch_jax.selection.minhash import weights_of_distinct
from tests.recipes import digits


@jax.jit
def recipe(images):
    state = selection.init_clusters(images, 10, key=0)
    state = selection.update_clusters(state, images)
    clusters = selection.assign_rows(images, state.centers, metric="cosine").indices
    found = selection.near_duplicates_by_cosine(images, 0.99, clusters=clusters)
    return found, weights_of_distinct(jnp.ones(len(images)), found, "represented")


def test_a_brighter_copy_is_represented_by_the_first():
    images = digits.train()["x"][:400]
    found, weights = recipe(jnp.concatenate([images, 1.1 * images[:100]]))
    keep = np.asarray(found.keep)
    assert not keep[400:].any() and keep[:400].mean() > 0.8
    assert float(weights.sum()) == 500 and np.all(np.asarray(weights)[:100][keep[:100]] >= 2)
