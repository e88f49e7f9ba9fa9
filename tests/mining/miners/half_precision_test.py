"""Every miner keeps the dtype of the weights, and in half precision the pairs that it keeps in float32."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining

MINERS = {
    name: make
    for name, make in inspect.getmembers(mining, inspect.isfunction)
    if name.startswith("mine_") and "Transformation" in str(inspect.signature(make).return_annotation)
}
ARGUMENTS = {
    "mine_distance_weighted": (3, 0),
    "mine_random": (0,),
    "mine_ranges": ((0.2, 0.9), (0.3, 1.2)),
    "mine_ranks": ((0, 2), (1, 3)),
}


def mined(name, dtype, distance_dtype):
    """Distances are multiples of 1/32 below 2 and weights 1/2, 1 or 2, exact in every dtype."""
    rng = np.random.default_rng(4)
    apart = rng.permutation(66)[:45] / 32  # no ties, as their order could hide a difference
    distances = np.zeros((10, 10))
    distances[np.triu_indices(10, 1)] = apart
    distances += distances.T
    weights = jnp.asarray(2.0 ** rng.integers(-1, 2, (10, 10)), dtype)
    tx = MINERS[name](*ARGUMENTS.get(name, ()))
    signals = {"distances": jnp.asarray(distances, distance_dtype), "labels": jnp.arange(10) % 4}
    return jax.jit(tx.update)(weights, tx.init(weights), **signals)[0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", MINERS)
def test_half_precision_keeps_its_dtype_and_the_pairs_of_float32(name, dtype):
    expected = np.asarray(mined(name, jnp.float32, jnp.float32))
    assert np.any(expected > 0)
    for distance_dtype in (dtype, jnp.float32):
        actual = mined(name, dtype, distance_dtype)
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual.astype(jnp.float32), expected, rtol=2**-8)


@pytest.mark.parametrize("name", MINERS)
def test_weights_and_distances_may_differ_in_width(name):
    with jax.enable_x64(True):
        for dtype, distance_dtype in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            actual = mined(name, dtype, distance_dtype)
            assert actual.dtype == dtype and np.any(np.asarray(actual) > 0)
