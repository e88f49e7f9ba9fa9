"""Label the images whose properties are predicted unlike those of labeled images, and are unsure.

Method: category vector inconsistency and ranking (CVIRS)
"""

import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import labeling


def recipe(fit, logits_of, properties, labeled, key):
    for seed in range(4):
        rows = jnp.argsort(-labeled)[: labeling.LABELS]
        known = {"reference_mask": labeled[rows] > 0, "where": labeled == 0}
        scores = selection.cvirs_scores(logits_of(fit(labeled)), properties[rows] > 0, **known)
        labeled = labeled + selection.topk_mask(scores, 20, where=labeled == 0, key=key + seed)
    return labeled


def test_properties_are_learned():
    parts = labeling.fit_properties, labeling.property_logits, labeling.properties()
    labeled = recipe(*parts, labeling.start(), 0)
    assert int(labeled.sum()) == labeling.LABELS
    before, after = (labeling.property_accuracy(parts[0](mask)) for mask in (labeling.start(), labeled))
    assert after > before + 0.05
