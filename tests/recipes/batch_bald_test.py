"""Label 20 images at a time whose labels tell most together about which of three networks is right.

Method: BatchBALD
"""

import jax
import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, outputs, labeled, key):
    select = selection.keep_by_batch_bald(20, key, num_samples=100)
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        members = [outputs(fit(labeled, seed))[0] for seed in range(3)]
        kept, state = update(1 - labeled, state, committee_logits=jnp.stack(members, axis=1))
        labeled = labeled + kept
    return labeled


def test_the_labels_teach():
    labeling.check(recipe(labeling.fit, labeling.outputs, labeling.start(), 0))
