"""Label the images that are predicted to have too many or too few of four properties, and are unsure.

Method: label cardinality inconsistency, adaptive active learning
"""

import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, logits_of, properties, labeled, key):
    for seed in range(4):
        mean_labels = jnp.vdot(labeled, jnp.sum(properties, axis=1)) / jnp.sum(labeled)
        scores = selection.adaptive_inconsistency(logits_of(fit(labeled)), mean_labels)
        labeled = labeled + selection.topk_mask(scores, 20, where=labeled == 0, key=key + seed)
    return labeled


def test_properties_are_learned():
    parts = labeling.fit_properties, labeling.property_logits, labeling.properties()
    labeled = recipe(*parts, labeling.start(), 0)
    assert int(labeled.sum()) == labeling.LABELS
    before, after = (labeling.property_accuracy(parts[0](mask)) for mask in (labeling.start(), labeled))
    assert after > before + 0.05
