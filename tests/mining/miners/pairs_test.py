import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mining
from tests.mining import draws

CASES = {
    "mine_multi_similarity": draws.case(mining.mine_multi_similarity),
    "mine_pair_margin": draws.case(mining.mine_pair_margin),
    "mine_ranges": draws.case(lambda: mining.mine_ranges((0.1, 0.9), (0.2, 0.8))),
}


def pairs(seed, rows=8, columns=11, classes=3):
    rng = np.random.default_rng(seed)
    s = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    kind = rng.integers(0, classes, (rows, columns))
    positives, negatives = kind == 0, kind == 1
    positives[0], negatives[1] = False, False
    return s, positives, negatives


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.1, -0.2])
def test_multi_similarity_masks_equal_loops(seed, epsilon):
    s, positives, negatives = pairs(seed)
    expected = np.zeros((2, *s.shape), bool)
    for i in range(s.shape[0]):
        p, n = s[i][positives[i]], s[i][negatives[i]]
        for j in range(s.shape[1]):
            if positives[i, j] and n.size:
                expected[0, i, j] = s[i, j] - epsilon < n.max()
            if negatives[i, j] and p.size:
                expected[1, i, j] = s[i, j] + epsilon > p.min()
    actual = mining.multi_similarity_pair_masks(*map(jnp.asarray, (s, positives, negatives)), epsilon)
    np.testing.assert_array_equal(actual, expected)
    assert not actual[0][:2].any() and not actual[1][:2].any()
    assert expected.any() and not np.array_equal(expected, [positives, negatives])


def test_margin_masks_equal_loops():
    d, positives, negatives = pairs(4)
    kept = mining.margin_pair_masks(*map(jnp.asarray, (d, positives, negatives)), 0.1, 0.3)
    np.testing.assert_array_equal(kept[0], [[p and x > 0.1 for x, p in zip(*row)] for row in zip(d, positives)])
    np.testing.assert_array_equal(kept[1], [[n and x < 0.3 for x, n in zip(*row)] for row in zip(d, negatives)])


def test_multi_similarity_transformation_keeps_the_masked_weights():
    rng = np.random.default_rng(5)
    labels = jnp.asarray(rng.integers(0, 3, 10))
    s = mining.cosine_similarity(jnp.asarray(rng.normal(size=(10, 3)).astype(np.float32)))
    weights = jnp.asarray(rng.uniform(0.5, 2, (10, 10)).astype(np.float32))
    tx = mining.mine_multi_similarity(0.1)
    actual, _ = tx.update(weights, tx.init(weights), distances=1 - s, labels=labels)
    kept = mining.multi_similarity_pair_masks(s, mining.positive_mask(labels), mining.negative_mask(labels), 0.1)
    np.testing.assert_array_equal(actual, jnp.where(kept[0] | kept[1], weights, 0))


def test_a_pair_of_weight_zero_is_not_compared_with():
    labels = jnp.array([0, 0, 1, 1])
    distances = jnp.full((4, 4), 0.5).at[0].set(jnp.array([0.0, 0.3, 0.1, 0.9]))
    tx = mining.mine_multi_similarity(0.0)
    weights = jnp.ones((4, 4))
    row = lambda w: tx.update(w, tx.init(w), distances=distances, labels=labels)[0][0].tolist()  # noqa: E731
    assert row(weights) == [0, 1, 1, 0]
    assert row(weights.at[0, 2].set(0)) == [0, 0, 0, 0]


def test_injected_hyperparameters_are_traced():
    tx = optax.inject_hyperparams(mining.mine_pair_margin)(positive_margin=0.2, negative_margin=0.8)
    weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
    state = tx.init(weights)
    state.hyperparams["negative_margin"] = jnp.asarray(0.1)
    kept, _ = tx.update(weights, state, distances=jnp.full((3, 3), 0.5), labels=labels)
    np.testing.assert_array_equal(kept, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(TypeError, match="negatives has dtype float32, wanted bool"):
        mining.margin_pair_masks(d, mask, d)
    with pytest.raises(ValueError, match=r"positives has shape \[2, 2\]"):
        mining.multi_similarity_pair_masks(d, mask[:, :2], mask)
    tx = mining.mine_pair_margin()
    with pytest.raises(ValueError, match=r"distances has shape \[3, 2\], wanted \[3, 3\]"):
        w = jnp.ones((3, 3))
        tx.update(w, tx.init(w), distances=jnp.ones((3, 2)), labels=jnp.arange(3))
    with pytest.raises(ValueError, match=r"labels has shape \[4\], wanted \[3\]"):
        w = jnp.ones((3, 3))
        tx.update(w, tx.init(w), distances=w, labels=jnp.arange(4))
    with pytest.raises(ValueError, match="epsilon is nan"):
        mining.mine_multi_similarity(float("nan"))


MASKS = {
    "multi_similarity": lambda d, p, n: mining.multi_similarity_pair_masks(-d, p, n),
    "margin": mining.margin_pair_masks,
    "range": mining.range_pair_masks,
    "hardest": mining.hardest_pair_masks,
    "rank": mining.rank_pair_masks,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_leaves_the_other_pairs_as_they_are_without_it(name, value):
    labels = jnp.arange(16) % 4
    distances = jnp.asarray(np.random.default_rng(0).uniform(size=(16, 16)), jnp.float32).at[-1].set(value)
    distances = distances.at[:, -1].set(value)
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    found = MASKS[name](distances, *masks)
    wanted = MASKS[name](distances[:-1, :-1], *(mask[:-1, :-1] for mask in masks))
    for mask, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mask[:-1, :-1], want)
        assert not mask[-1].any() and not mask[:, -1].any()
