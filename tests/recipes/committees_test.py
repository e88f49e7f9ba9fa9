"""Label the images on which three networks, from different starts, disagree most.

Method: query by committee, BALD
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, outputs, labeled, key):
    select = selection.keep_disputed(20, key)
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        members = [outputs(fit(labeled, seed))[0] for seed in range(3)]
        kept, state = update(1 - labeled, state, committee_logits=jnp.stack(members, axis=1))
        labeled = labeled + kept
    return labeled


def test_labels_go_to_images_on_which_networks_disagree():
    labeled = recipe(labeling.fit, labeling.outputs, labeling.start(), 0)
    labeling.check(labeled)
    votes = [np.argmax(labeling.outputs(labeling.fit(labeling.start(), seed))[0], axis=1) for seed in range(3)]
    disputed = (votes[0] != votes[1]) | (votes[0] != votes[2])
    new = np.asarray(labeled - labeling.start()) == 1
    assert disputed[new].mean() > disputed.mean() + 0.1
