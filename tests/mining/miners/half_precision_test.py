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


def rows(dtype):
    rng = np.random.default_rng(7)
    distances = jnp.asarray(rng.uniform(0.05, 1.6, (24, 40)), dtype)
    kind = rng.integers(0, 2, (24, 40))
    return distances, jnp.asarray(kind == 0), jnp.asarray(kind == 1)


CHOICES = {
    "distance_weighted_logits": lambda d, p, n: mining.distance_weighted_logits(d, n, 512),
    "hardest_pair_masks": mining.hardest_pair_masks,
    "margin_pair_masks": mining.margin_pair_masks,
    "multi_similarity_pair_masks": mining.multi_similarity_pair_masks,
    "random_triplet_weights": lambda d, p, n: mining.random_triplet_weights(0, d, p, n),
    "range_pair_masks": lambda d, p, n: mining.range_pair_masks(d, p, n, (0.1, 0.9), (0.3, 1.2)),
    "rank_pair_masks": lambda d, p, n: mining.rank_pair_masks(d, p, n, (0, 5), (-5, -1)),
    "soft_ranks": lambda d, p, n: mining.losses.ranking.soft_ranks(d, n),
    "triplet_choice": mining.triplet_choice,
    "triplet_pair_weights": mining.losses.triplets.triplet_pair_weights,
}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_in_half_precision_is_that_of_the_same_values_in_float32(name, dtype):
    pairs = rows(dtype)
    actual, expected = CHOICES[name](*pairs), CHOICES[name](pairs[0].astype(jnp.float32), *pairs[1:])
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_bins_of_half_precision_are_those_of_float32(dtype):
    distances, mask, _ = rows(dtype)
    weights = mining.uniform_distance_weights(distances, mask)
    assert weights.dtype == dtype
    expected = mining.uniform_distance_weights(distances.astype(jnp.float32), mask)
    np.testing.assert_array_equal(weights, expected.astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_draws_reach_every_column_in_half_precision(dtype):
    counts = mining.sample_negative_counts(jax.random.key(0), jnp.zeros((1, 2000), dtype), jnp.array([20000]), 20000)
    assert counts.dtype == dtype and np.all(np.asarray(counts) > 0)
    counts = np.asarray(counts, np.float64)
    assert counts.sum() == 20000 and abs(counts.std() - 10**0.5) < 0.3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_pairs_of_no_similarity_hide_no_other_pair(dtype):
    similarities = jnp.array([[0.5, 0.45, jnp.nan]], dtype)
    masks = jnp.array([[True, False, True]]), jnp.array([[False, True, False]])
    kept = mining.multi_similarity_pair_masks(similarities, *masks)
    assert [mask.tolist() for mask in kept] == [[[True, False, False]], [[False, True, False]]]
