"""Cluster digits as they stream by, a batch at a time, and look at the nearest and the farthest of each cluster.

Method: streaming spherical k-means
"""

import jax
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


@jax.jit
def recipe(images):
    batches = images[:1400].reshape(7, 200, -1)
    state = selection.init_clusters(batches[0], 30, key=0)
    step = lambda state, batch: (selection.update_clusters(state, batch), None)  # noqa: E731
    state, _ = jax.lax.scan(step, state, batches)
    found = selection.assign_rows(images, state.centers, metric="cosine")
    report = selection.cluster_report(images, found.indices, found.distances, 30, number=5)
    return state, found, report


def test_clusters_are_of_one_digit():
    data = digits.train()
    state, found, report = recipe(data["x"])
    labels, clusters = np.asarray(data["y"]), np.asarray(found.indices)
    majority = sum(np.bincount(labels[clusters == k], minlength=1).max() for k in range(30))
    assert majority / len(labels) > 0.7
    assert int(state.counts.sum()) == 1400 and int(report.sizes.sum()) == len(labels)
    shown = labels[np.asarray(report.examples)[:, :5]]
    assert np.mean(shown == shown[:, :1]) > 0.8
