import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.selection import AnchorItems, anchor_items, anchor_mean

N = 12
choose = jax.jit(anchor_items, static_argnums=2)
CENTERS = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
KINDS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
FEATURES = CENTERS[KINDS] + np.random.default_rng(0).normal(scale=0.3, size=(N, 2)).astype(np.float32)
MASS = np.arange(1, N + 1).astype(np.float32)


def expected(kinds, weights, features=FEATURES):
    """Nearest item to the center of each kind, and the weight of the kind."""
    found = {}
    for kind in np.unique(kinds):
        members = np.flatnonzero((kinds == kind) & (weights > 0) & np.isfinite(features).all(1))
        if not len(members):
            continue
        squared = ((features[members] - features[members].mean(0)) ** 2).sum(1)
        found[members[squared.argmin()]] = weights[members].sum(dtype=np.float64)
    return found


def check(anchors, wanted):
    total = sum(map(float, wanted.values()))
    found = dict(zip(np.asarray(anchors.indices).tolist(), np.asarray(anchors.mass), strict=True))
    assert found.keys() == wanted.keys()
    for item, mass in wanted.items():
        assert found[item] == pytest.approx(mass / total, rel=1e-5)


def test_anchors_are_nearest_to_the_centers_and_have_the_mass_of_their_clusters():
    for weights in (np.ones(N, np.float32), MASS, 7e36 * MASS):
        check(choose(0, jnp.asarray(FEATURES), 4, item_weights=jnp.asarray(weights)), expected(KINDS, weights))


def test_groups_have_their_quotas_and_their_mass():
    groups = np.where(KINDS < 2, 0, 1)
    options = {"groups": jnp.asarray(groups), "item_weights": jnp.asarray(MASS)}
    found = choose(0, jnp.asarray(FEATURES), (2, 2), **options)
    check(found, expected(KINDS, MASS))
    assert set(np.asarray(found.indices[:2])) <= set(range(8))
    np.testing.assert_allclose(found.mass[:2].sum(), MASS[:8].sum() / MASS.sum(), rtol=1e-5)
    check(choose(0, jnp.asarray(FEATURES), (0, 2), **options), expected(KINDS, np.where(groups == 1, MASS, 0)))


def test_items_that_cannot_be_placed_give_their_weight_to_their_group():
    features, groups = FEATURES.copy(), np.where(KINDS < 2, 0, 1)
    features[4], weights = np.nan, MASS.copy()
    weights[[5, 9]] = 0, -1
    options = {"groups": jnp.asarray(groups), "item_weights": jnp.asarray(weights)}
    found = choose(0, jnp.asarray(features), (2, 2), **options)
    placed = np.where(np.arange(N) == 4, 0, np.maximum(weights, 0))
    wanted = expected(KINDS, placed, features)
    scale = np.maximum(weights, 0)[:8].sum() / placed[:8].sum()
    check(found, {item: mass * (scale if item < 8 else 1) for item, mass in wanted.items()})


def test_all_items_give_the_mean_and_an_estimate_is_exact_where_clusters_are_alike():
    record = np.random.default_rng(1).random((3, N)).astype(np.float32)
    weights = jnp.asarray(MASS)
    found = choose(0, jnp.asarray(FEATURES), N, item_weights=weights)
    assert sorted(found.indices.tolist()) == list(range(N))
    np.testing.assert_allclose(anchor_mean(found, record[:, found.indices]), record @ MASS / MASS.sum(), rtol=1e-5)
    alike = np.random.default_rng(2).random((2, 4)).astype(np.float32)[:, KINDS]
    few = choose(0, jnp.asarray(alike.T), 4, item_weights=weights)
    np.testing.assert_allclose(anchor_mean(few, alike[:, few.indices]), alike @ MASS / MASS.sum(), rtol=1e-5)
    assert len({KINDS[i] for i in few.indices.tolist()}) == 4


def test_a_group_with_fewer_items_than_its_quota_leaves_places_empty():
    weights = jnp.where(jnp.arange(N) < 3, jnp.float32(1), 0)
    found = choose(0, jnp.asarray(FEATURES), 4, item_weights=weights)
    assert sorted(found.indices.tolist()) == [0, 1, 2, N]
    np.testing.assert_allclose(found.mass, np.where(np.asarray(found.indices) < N, 1 / 3, 0), rtol=1e-5)


def test_scores_that_are_not_finite_do_not_count():
    anchors = AnchorItems(jnp.arange(3), jnp.array([0.5, 0.3, 0.2]))
    found = anchor_mean(anchors, jnp.array([[1, 0, jnp.nan], [jnp.inf, 0.5, 1], [jnp.nan] * 3]))
    np.testing.assert_allclose(found, [0.5 / 0.8, 0.35 / 0.5, np.nan], rtol=1e-6)


def test_bad_input_is_named():
    features = jnp.asarray(FEATURES)
    np.testing.assert_array_equal(anchor_items(0, features, np.int64(4)).indices, choose(0, features, 4).indices)
    with pytest.raises(ValueError, match=r"the sum of quotas is 13, wanted at most 12"):
        anchor_items(0, features, 13)
    with pytest.raises(ValueError, match=r"quotas is \(2, 2\), wanted an int, as there are no groups"):
        anchor_items(0, features, (2, 2))
    with pytest.raises(ValueError, match="quotas is 4, wanted a tuple with a number for each group"):
        anchor_items(0, features, 4, groups=jnp.zeros(N, jnp.int32))
    with pytest.raises(ValueError, match=r"scores has shape \[3\], wanted \[..., 2\]"):
        anchor_mean(AnchorItems(jnp.arange(2), jnp.ones(2)), jnp.ones(3))
