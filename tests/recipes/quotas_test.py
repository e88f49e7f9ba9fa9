"""Take as many examples of each cluster that is worth keeping, and none of the others.

Method: quotas of clusters (MiniPile)
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


@jax.jit
def recipe(clusters, dropped):
    sizes = jnp.bincount(clusters, length=10)
    quotas = selection.cluster_quotas(sizes, 90, by="equal", where=~dropped)
    return selection.quota_mask(0, clusters, quotas)


def test_each_digit_but_one_is_taken_as_often():
    labels = digits.train()["y"]
    taken = np.asarray(labels)[np.asarray(recipe(labels, jnp.arange(10) == 3))]
    assert np.bincount(taken, minlength=10).tolist() == [10] * 3 + [0] + [10] * 6
