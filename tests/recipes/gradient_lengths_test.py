"""Label the images that would change the last layer most, whatever their label.

Method: expected gradient length (EGL, EGL-layer, EGL-word)
"""

import numpy as np

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, outputs, labeled, key):
    for seed in range(4):
        logits, hidden = outputs(fit(labeled))
        scores = selection.expected_gradient_length(logits, hidden)
        labeled = labeled + selection.topk_mask(scores, 20, where=labeled == 0, key=key + seed)
    return labeled


def test_labels_go_to_images_that_change_the_model_and_teach():
    labeled = recipe(labeling.fit, labeling.outputs, labeling.start(), 0)
    labeling.check(labeled)
    lengths = np.asarray(selection.expected_gradient_length(*labeling.outputs(labeling.fit(labeling.start()))))
    new, others = (np.asarray(labeled - labeling.start()) == x for x in (1, 0))
    assert lengths[new].mean() > lengths[others].mean()
