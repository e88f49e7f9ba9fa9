import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining import draws

CASES = {
    "mine_hardest_pairs": draws.case(mining.mine_hardest_pairs),
    "mine_ranks": draws.case(lambda: mining.mine_ranks((0, 2), (1, -1))),
    "mine_uniform_distances": draws.case(lambda: mining.mine_uniform_distances(6)),
}


def pairs(seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, (9, 7))
    return rng.normal(size=(9, 7)).astype(np.float32), kind == 0, kind == 1


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 1.0])
def test_hardest_pairs_equal_sorting(fraction):
    d, p, n = pairs()
    kept = jax.jit(mining.hardest_pair_masks)(d, p, n, fraction)
    for mask, actual, sign in ((p, kept[0], 1), (n, kept[1], -1)):
        k = math.ceil(Fraction(str(fraction)) * int(mask.sum()))
        expected = mask & (sign * d >= np.sort(sign * d[mask])[-k])
        np.testing.assert_array_equal(actual, expected)
        assert actual.sum() == k


def test_a_fraction_is_rounded_up_only_if_it_has_to_be():
    distances, positives = jnp.arange(100.0)[None], jnp.ones((1, 100), bool)
    kept = jax.jit(lambda fraction: mining.hardest_pair_masks(distances, positives, ~positives, fraction)[0])
    assert [int(kept(k / 100).sum()) for k in range(1, 101)] == list(range(1, 101))


def test_pairs_of_no_distance_are_as_if_not_there():
    d, p, n = pairs(3)
    broken = np.random.default_rng(4).random(d.shape) < 0.2
    unknown = np.where(broken, np.nan, d)
    for choose in (mining.hardest_pair_masks, lambda *a: mining.rank_pair_masks(*a, (0, 2), (1, 3))):
        for found, expected in zip(choose(unknown, p, n), choose(d, p & ~broken, n & ~broken)):
            np.testing.assert_array_equal(found, expected)
    found, expected = mining.uniform_distance_weights(unknown, p), mining.uniform_distance_weights(d, p & ~broken)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ranks", [(0, None), (0, 1), (1, 3), (2, None), (-1, None), (0, -2), (-3, -1), (9, None)])
def test_ranks_equal_slices_of_sorted_lists(ranks):
    d, p, n = pairs(2)
    kept = jax.jit(mining.rank_pair_masks, static_argnums=(3, 4))(d, p, n, ranks, ranks)
    for mask, actual, sign in ((p, kept[0], -1), (n, kept[1], 1)):
        expected = np.zeros_like(mask)
        for i in range(len(d)):
            places = sorted(np.flatnonzero(mask[i]), key=lambda j: sign * d[i, j])
            expected[i, places[slice(*ranks)]] = True
        np.testing.assert_array_equal(actual, expected)


def test_ties_share_the_place_of_their_first():
    d, mask = jnp.array([[0.1, 0.2, 0.2, 0.3]]), jnp.ones((1, 4), bool)
    for ranks, expected in (((1, 2), [0, 1, 1, 0]), ((2, None), [0, 0, 0, 1]), ((0, 2), [1, 1, 1, 0])):
        _, kept = mining.rank_pair_masks(d, ~mask, mask, negative_ranks=ranks)
        assert kept[0].astype(int).tolist() == expected


@pytest.mark.parametrize("ranks", [(0, 1), (1, 3), (2, None), (-1, None), (-2, None), (0, -1), (1, -1), (-3, -1)])
def test_tied_pairs_count_from_either_end_alike(ranks):
    """A pair is kept by the number of strictly harder pairs, or for a negative rank of strictly easier ones."""
    rng = np.random.default_rng(6)
    d, mask = rng.integers(0, 4, (40, 6)).astype(np.float32), rng.random((40, 6)) < 0.7
    d = np.where(d == 0, rng.choice([0.0, -0.0], d.shape), d).astype(np.float32)
    harder = np.sum(mask[:, None, :] & (d[:, None, :] > d[:, :, None]), axis=2)
    easier = np.sum(mask[:, None, :] & (d[:, None, :] < d[:, :, None]), axis=2)

    def from_rank(rank):
        return harder >= rank if rank >= 0 else easier < -rank

    expected = mask & from_rank(ranks[0]) & ~(from_rank(ranks[1]) if ranks[1] is not None else np.zeros_like(mask))
    for sign, side in ((1, 0), (-1, 1)):
        kept = mining.rank_pair_masks(jnp.asarray(sign * d), mask, mask, ranks, ranks)[side]
        np.testing.assert_array_equal(kept, expected)


def test_the_easiest_of_tied_pairs_are_all_of_them():
    every = jnp.ones((1, 3), bool)
    kept = mining.rank_pair_masks(jnp.array([[1.0, 1.0, 2.0]]), every, ~every, (-1, None))[0]
    assert kept.tolist() == [[True, True, False]]


def test_no_pairs_are_no_pairs():
    d, p, _ = pairs()
    nothing = np.zeros_like(p)
    np.testing.assert_array_equal(mining.hardest_pair_masks(*map(jnp.asarray, (d, nothing, nothing)))[0], nothing)
    np.testing.assert_array_equal(mining.uniform_distance_weights(jnp.asarray(d), jnp.asarray(nothing)), 0)


def test_each_bin_has_the_same_mass():
    d, p, _ = pairs(1)
    weights = np.asarray(mining.uniform_distance_weights(jnp.asarray(d), jnp.asarray(p), 5))
    counts, edges = np.histogram(d[p], 5)
    np.testing.assert_allclose(np.histogram(d[p], edges, weights=weights[p])[0], counts > 0, rtol=1e-5)
    np.testing.assert_array_equal(weights[~p], 0)
    same = mining.uniform_distance_weights(jnp.ones((2, 3)), jnp.ones((2, 3), bool), 5)
    np.testing.assert_allclose(same, 1 / 6, rtol=1e-6)


def test_bad_input_is_named():
    d, p, n = map(jnp.asarray, pairs())
    with pytest.raises(ValueError, match="fraction is 0, wanted a number in"):
        mining.hardest_pair_masks(d, p, n, 0)
    with pytest.raises(ValueError, match=r"fraction is 1\.5"):
        mining.mine_hardest_pairs(1.5)
    with pytest.raises(TypeError, match="num_bins is 2.0"):
        mining.mine_uniform_distances(2.0)
    with pytest.raises(TypeError, match=r"negative_ranks is \(0, 1\.0\), wanted a pair of static ints"):
        mining.rank_pair_masks(d, p, n, negative_ranks=(0, 1.0))
    with pytest.raises(TypeError, match="positive_ranks is 3"):
        mining.mine_ranks(3)
