"""Label the unsure images among the neighbors of a few anchors of each digit, 20 at a time.

Method: AnchorAL, the neighbors of anchors of each class
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(fit, outputs, images, y, labeled, key):
    sizes = {"num_classes": digits.CLASSES, "num_anchors": 3, "num_neighbors": 20}
    anchors = selection.keep_near_anchors(200, key, **sizes)
    select = optax.chain(anchors, selection.keep_uncertain(20, key + 1))
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        logits, _ = outputs(fit(labeled))
        known = {"reference_features": images, "reference_labels": jnp.where(labeled > 0, y, -1)}
        kept, state = update(1 - labeled, state, None, logits=logits, features=images, **known)
        labeled = labeled + kept
    return labeled


def test_labels_go_near_anchors_and_teach():
    x, y = labeling.images(), digits.train()["y"][: labeling.POOL]
    labeled = recipe(labeling.fit, labeling.outputs, x, y, labeling.start(), 0)
    labeling.check(labeled)
    unit = np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = np.sort(unit @ unit[: labeling.START].T, axis=1)[labeling.START :, -1]
    new = np.asarray(labeled)[labeling.START :] > 0
    assert nearest[new].mean() > nearest[~new].mean()
    assert len(set(np.asarray(y)[labeling.START :][new].tolist())) == 10, "no digit is left out"
