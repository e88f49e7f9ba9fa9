"""Label the images that are predicted unlike the labeled images that look like them.

Method: contrastive active learning (CAL)
"""

import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, outputs, labeled, key):
    for seed in range(4):
        logits, hidden = outputs(fit(labeled))
        rows = jnp.argsort(-labeled)[: labeling.LABELS]
        references = logits[rows], hidden[rows]
        known = labeled[rows] > 0
        scores = selection.contrastive_scores(logits, hidden, *references, reference_mask=known)
        labeled = labeled + selection.topk_mask(scores, 20, where=labeled == 0, key=key + seed)
    return labeled


def test_labels_go_to_images_with_few_labeled_neighbors_of_one_mind():
    labeling.check(recipe(labeling.fit, labeling.outputs, labeling.start(), 0))
