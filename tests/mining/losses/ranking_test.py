"""Smoothed measures of a ranking equal the measures where they are sharp."""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import mining
from tests.mining.losses.drawn import pairs


def test_sharp_smooth_ap_is_one_minus_average_precision():
    from sklearn.metrics import average_precision_score

    s, p, _ = (np.asarray(x) for x in pairs(8))
    rows = p.any(axis=1)
    expected = 1 - np.mean([average_precision_score(a, b) for a, b in zip(p[rows], s[rows])])
    actual = mining.smooth_ap_loss(*map(jnp.asarray, (s, p, ~p)), temperature=1e-4)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
