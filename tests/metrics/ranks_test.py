import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from minibatch_jax.metrics import rank_correlations


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_correlations_are_those_of_scipy_with_ties_and_without_values_that_are_not_finite(dtype):
    rng = np.random.default_rng(0)
    predicted, actual = rng.integers(0, 8, (2, 30, 5)) / 4
    actual = actual + predicted * [0, 1, -1, 0.5, 0]
    predicted[:, 4] = 3
    predicted[2, 1], actual[7, 1], actual[9, 2] = np.nan, np.inf, np.nan
    found = rank_correlations(jnp.asarray(predicted, dtype), jnp.asarray(actual, dtype))
    assert found.dtype == jnp.float32 and found[4] == 0
    for t in range(4):
        finite = np.isfinite(predicted[:, t]) & np.isfinite(actual[:, t])
        expected = spearmanr(predicted[finite, t], actual[finite, t])[0]
        assert found[t] == pytest.approx(expected, abs=1e-6)
    assert rank_correlations(jnp.asarray(predicted[:, 0]), jnp.asarray(actual[:, 0])) == pytest.approx(found[0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"actual has shape \[4\], wanted \[3\]"):
        rank_correlations(jnp.ones(3), jnp.ones(4))
