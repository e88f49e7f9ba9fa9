import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from minibatch_jax import mining
from tests.mining import draws

CASES = {
    "mine_distance_weighted": draws.case(lambda: mining.mine_distance_weighted(3, key=0, farthest=1.9)),
}


@pytest.mark.parametrize("dimension", [3, 128, 2048])
def test_logits_are_the_inverse_density_in_float64(dimension):
    d = np.linspace(0.01, 1.99, 40)[None]
    negatives = np.ones_like(d, bool)
    negatives[0, 10] = False
    logits = mining.distance_weighted_logits(jnp.asarray(d, jnp.float32), jnp.asarray(negatives), dimension)
    clipped = np.maximum(d, 0.5)
    log_density = (dimension - 2) * np.log(clipped) + (dimension - 3) / 2 * np.log(1 - clipped**2 / 4)
    expected = np.where(negatives & (d < 1.4), -log_density, -np.inf)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * dimension)


def test_draws_follow_the_softmax():
    logits = jnp.array([[0.0, 1.0, -jnp.inf, -1.0, 0.5], [2.0, -jnp.inf, 2.0, 0.0, 1.0]])
    counts = mining.sample_negative_counts(jax.random.key(0), logits, jnp.array([20000, 15000]), 20000)
    np.testing.assert_array_equal(counts.sum(axis=1), [20000, 15000])
    for row, total, drawn in zip(np.asarray(logits), (20000, 15000), np.asarray(counts)):
        possible = np.isfinite(row)
        assert drawn[~possible].sum() == 0
        expected = np.exp(row[possible]) / np.exp(row[possible]).sum() * total
        assert chisquare(drawn[possible], expected).pvalue > 1e-3


def test_rows_of_large_differences_and_empty_rows():
    logits = jnp.array([[-500.0, -400.0], [-jnp.inf, -jnp.inf], [300.0, -300.0]])
    counts = mining.sample_negative_counts(jax.random.key(1), logits, jnp.array([4, 4, 4]), 4)
    np.testing.assert_array_equal(counts, [[0, 4], [0, 0], [4, 0]])


def test_mined_weights_pair_each_positive_with_one_negative():
    rng = np.random.default_rng(2)
    x = mining.normalize_embeddings(jnp.asarray(rng.normal(size=(12, 4)).astype(np.float32)))
    labels = jnp.asarray(np.arange(12) // 3)
    d, ones = mining.euclidean_distances(x), jnp.ones((12, 12))
    tx = mining.mine_distance_weighted(4, key=0, farthest=1.9)
    step = jax.jit(lambda state: tx.update(ones, state, distances=d, labels=labels))
    state, total = tx.init(ones), np.zeros((12, 12))
    for _ in range(30):
        weights, state = step(state)
        total += np.asarray(weights)
    positives, negatives = (np.asarray(m(labels)) for m in (mining.positive_mask, mining.negative_mask))
    np.testing.assert_allclose(weights[positives], 1 / 24, rtol=1e-6)
    np.testing.assert_allclose(np.where(negatives, weights, 0).sum(axis=1), 2 / 24, rtol=1e-5)
    assert np.all(total[~positives & ~negatives] == 0)
    seen = (total > 0) & negatives
    assert seen.sum() > 40 and not np.any(seen & (np.asarray(d) >= 1.9))


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="dimension is 2.5"):
        mining.mine_distance_weighted(2.5, key=0)
    with pytest.raises(ValueError, match="farthest is 3"):
        mining.mine_distance_weighted(2, key=0, farthest=3)
    with pytest.raises(TypeError, match="key has dtype"):
        tx = mining.mine_distance_weighted(2, key=jnp.zeros(2))
        tx.init(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"num_draws has shape \[3\], wanted \[2\]"):
        mining.sample_negative_counts(jax.random.key(0), jnp.ones((2, 2)), jnp.ones(3, jnp.int32), 3)
