"""Label the unsure images among the neighbors of labeled ones, 20 at a time.

Method: SEALS, the neighbors of labeled examples
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(fit, outputs, images, y, labeled, key):
    select = optax.chain(selection.keep_near_labeled(5), selection.keep_uncertain(20, key))
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        logits, _ = outputs(fit(labeled))
        known = {"reference_features": images, "reference_labels": jnp.where(labeled > 0, y, -1)}
        kept, state = update(1 - labeled, state, None, logits=logits, features=images, **known)
        labeled = labeled + kept
    return labeled


def test_labels_go_to_neighbors_and_teach():
    x, y = labeling.images(), digits.train()["y"][: labeling.POOL]
    labeled = recipe(labeling.fit, labeling.outputs, x, y, labeling.start(), 0)
    labeling.check(labeled)
    unit, labeled = np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True), np.asarray(labeled) > 0
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)  # nobody is a neighbor of itself
    nearest = cosines[labeling.START :][:, labeled].max(1)
    new = labeled[labeling.START :]
    assert nearest[new].mean() > nearest[~new].mean()
