"""Label the images whose two likeliest digits are nearly as likely, 20 at a time.

Method: uncertainty sampling (margin, entropy, least confidence)
"""

import jax
import numpy as np

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, outputs, labeled, key):
    select = selection.keep_uncertain(20, key)
    update, state = jax.jit(select.update), select.init(labeled)
    for _ in range(4):
        logits, _ = outputs(fit(labeled))
        kept, state = update(1 - labeled, state, logits=logits)
        labeled = labeled + kept
    return labeled


def test_labels_go_to_unsure_images_and_teach():
    labeled = recipe(labeling.fit, labeling.outputs, labeling.start(), 0)
    labeling.check(labeled)
    before = np.sort(labeling.outputs(labeling.fit(labeling.start()))[0], axis=1)
    new, others = (np.asarray(labeled - labeling.start()) == x for x in (1, 0))
    margins = before[:, -1] - before[:, -2]
    assert margins[new].mean() < 0.6 * margins[others].mean()
