"""Label the least sure images until the predictions of all images are stable.

Method: stopping rules of active learning
"""

import jax
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(fit, outputs, labeled, key):
    select = selection.keep_uncertain(20, key)
    rule = selection.stop_by_kappa(window=2, threshold=0.9)
    update, state, watch = jax.jit(select.update), select.init(labeled), rule.init(len(labeled))
    stop = False
    while not stop:
        logits, _ = outputs(fit(labeled))
        stop, watch = rule.update(watch, logits)
        kept, state = update(1 - labeled, state, logits=logits)
        labeled = labeled + kept
    return labeled, watch


def test_labeling_ends_when_more_labels_change_little():
    labeled, watch = recipe(labeling.fit, labeling.outputs, labeling.start(), 0)
    assert np.mean(watch.values) >= 0.9 and 4 < int(watch.checks) < 30
    assert digits.accuracy(labeling.fit(labeled)) > 0.9
