"""Label 20 images at a time that are unsure and differ, by their gradients in the last layer.

Method: BADGE
"""

import jax

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(fit, outputs, labeled, key):
    select = selection.keep_by_badge(20, key)
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        logits, hidden = outputs(fit(labeled))
        kept, state = update(1 - labeled, state, logits=logits, features=hidden)
        labeled = labeled + kept
    return labeled


def test_more_is_learned_than_from_random_images():
    labeled = recipe(labeling.fit, labeling.outputs, labeling.start(), 0)
    labeling.check(labeled)
    assert digits.accuracy(labeling.fit(labeled)) > labeling.random_accuracy()
