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
    state, _ = jax.lax.scan(lambda s, batch: (selection.update_clusters(s, batch), None), state, batches)
    found = selection.assign_rows(images, state.centers, metric="cosine")
    return state, found, selection.cluster_report(images, found.indices, found.distances, 30, number=5)


def test_clusters_are_of_one_digit():
    data = digits.train()
    state, found, report = recipe(data["x"])
    labels, clusters = np.asarray(data["y"]), np.asarray(found.indices)
    majority = sum(np.bincount(labels[clusters == k], minlength=1).max() for k in range(30))
    assert majority / len(labels) > 0.7
    assert int(state.counts.sum()) == 1400 and int(report.sizes.sum()) == len(labels)
    shown = labels[np.asarray(report.examples)[:, :5]]
    assert np.mean(shown == shown[:, :1]) > 0.8
