"""Refined choices against a search over all swaps and all subsets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.selection import facility_location, refine

improve = jax.jit(refine, static_argnames="max_rounds")


def similarities(seed, candidates=9, items=14):
    return np.random.default_rng(seed).uniform(size=(candidates, items)).astype(np.float32) ** 3


def value(s, chosen, weights=None):
    best = s[list(chosen)].max(axis=0) if len(chosen) else np.zeros(s.shape[1])
    return float(np.sum(best if weights is None else best * weights))


def best_swap(s, chosen, weights=None):
    swaps = [
        [*chosen[:place], j, *chosen[place + 1 :]]
        for place in range(len(chosen))
        for j in range(len(s))
        if j not in chosen
    ]
    return max(value(s, swap, weights) for swap in swaps)


@pytest.mark.parametrize("start", ["first", "greedy"])
def test_no_swap_improves_the_result_and_it_is_never_worse(start):
    better, optimal = 0, 0
    for seed in range(40):
        s = similarities(seed)
        weights = np.random.default_rng(seed).uniform(size=14).astype(np.float32)
        chosen = np.arange(3) if start == "first" else np.asarray(facility_location(jnp.asarray(s), 3).indices)
        found = improve(jnp.asarray(s), jnp.asarray(chosen), item_weights=jnp.asarray(weights))
        after = found.indices.tolist()
        np.testing.assert_allclose(found.value, value(s, after, weights), rtol=1e-5)
        assert bool(found.converged) and len(set(after)) == 3
        assert float(found.value) >= value(s, chosen, weights) * (1 - 1e-6)
        assert best_swap(s, after, weights) <= float(found.value) * (1 + 1e-5)
        np.testing.assert_array_equal(found.owners, s[after].argmax(axis=0))
        best = max(value(s, subset, weights) for subset in itertools.combinations(range(9), 3))
        better += float(found.value) > value(s, chosen, weights) * (1 + 1e-5)
        optimal += float(found.value) > best * (1 - 1e-5)
    assert better > 3 and optimal > 30, (better, optimal)


def test_candidates_that_are_not_allowed_stay_out_and_empty_places_are_filled():
    s = jnp.asarray(similarities(1))
    where = jnp.arange(9) < 4
    found = improve(s, jnp.array([8, 9]), where=where)
    assert all(i < 4 or i == 8 for i in found.indices.tolist())
    full = improve(s, jnp.array([0, 9, 9]))
    assert 9 not in full.indices.tolist() and len(set(full.indices.tolist())) == 3
    few = improve(s, jnp.array([9, 9, 9]), where=jnp.arange(9) == 2)
    assert sorted(few.indices.tolist()) == [2, 9, 9]


def test_what_has_no_weight_or_is_not_finite_counts_for_nothing():
    s = jnp.asarray(similarities(2))
    weights = jnp.where(jnp.arange(14) % 3 == 0, 0.0, 1.0)
    expected = improve(s, jnp.array([0, 1, 2]), item_weights=weights)
    for fill in (jnp.nan, jnp.inf, 1e30):
        found = improve(jnp.where(weights[None] == 0, fill, s), jnp.array([0, 1, 2]), item_weights=weights)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)


def test_too_few_rounds_are_told():
    rng = np.random.default_rng(3)
    s = jnp.asarray(rng.uniform(size=(40, 60)) ** 4, jnp.float32)
    found = improve(s, jnp.arange(8), max_rounds=1)
    assert not found.converged and found.rounds == 1
    more = improve(s, found.indices)
    assert more.converged and float(more.value) >= float(found.value)


def test_bad_input_is_named():
    s = jnp.ones((3, 4))
    with pytest.raises(ValueError, match="the number of indices is 4, wanted at most 3"):
        refine(s, jnp.arange(4))
    with pytest.raises(TypeError, match="indices has dtype float32"):
        refine(s, jnp.ones(2))
    with pytest.raises(ValueError, match="max_rounds is 0"):
        refine(s, jnp.arange(2), max_rounds=0)
