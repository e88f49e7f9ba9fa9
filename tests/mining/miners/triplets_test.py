import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mining, value_and_grad
from tests.mining import draws

CASES = {
    "mine_all": draws.case(mining.mine_all),
    "mine_easy": draws.case(mining.mine_easy),
    "mine_easy_hard": draws.case(mining.mine_easy_hard),
    "mine_hard": draws.case(mining.mine_hard),
    "mine_semihard": draws.case(mining.mine_semihard),
    "mine_violating": draws.case(mining.mine_violating),
}


FACTORIES = {
    "all": mining.mine_all,
    "semihard": mining.mine_semihard,
    "nearest_semihard": lambda margin: mining.mine_semihard(margin, nearest=True),
    "hard": mining.mine_hard,
    "easy_positive": lambda margin: mining.mine_easy_hard(margin=margin),
}


def batch(seed, size=12):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(size, 3)).astype(np.float32)), jnp.asarray(rng.integers(0, 4, size))


def mine(tx, weights, x, labels):
    step = jax.jit(lambda w, d: tx.update(w, tx.init(w), distances=d, labels=labels)[0])
    return step(weights, mining.euclidean_distances(x))


def mined_gradient(tx, x, labels):
    fn = value_and_grad(lambda x, rows: mining.euclidean_distances(x), tx, items="distances")
    return jax.jit(lambda x: fn(x, labels, tx.init(jnp.ones((12, 12))), labels=labels)[1])(x)


@pytest.mark.parametrize("name", FACTORIES)
def test_mined_weights_give_the_gradient_of_the_triplet_loss(name):
    x, labels = batch(0)
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    weights = mine(FACTORIES[name](0.4), jnp.ones((12, 12)), x, labels)
    actual = mined_gradient(FACTORIES[name](0.4), x, labels)
    loss = lambda x: mining.triplet_loss(mining.euclidean_distances(x), *masks, margin=0.4, mining=name)  # noqa: E731
    np.testing.assert_allclose(actual, jax.jit(jax.grad(loss))(x), rtol=1e-5, atol=1e-6)
    assert np.abs(actual).max() > 0.1
    np.testing.assert_allclose(weights.sum(), 2, rtol=1e-5)  # each active triplet has one positive and one negative


def test_incoming_weights_multiply_and_zeros_hide_pairs():
    x, labels = batch(1)
    rng = np.random.default_rng(2)
    incoming = jnp.asarray(rng.uniform(0.5, 2, (12, 12)).astype(np.float32))
    tx = mining.mine_all(0.4)
    plain = mine(tx, jnp.ones((12, 12)), x, labels)
    np.testing.assert_allclose(mine(tx, incoming, x, labels), plain * incoming, rtol=1e-6)
    padded = jnp.zeros((12, 12)).at[:9, :9].set(1)
    np.testing.assert_allclose(
        mine(tx, padded, x, labels)[:9, :9], mine(tx, jnp.ones((9, 9)), x[:9], labels[:9]), rtol=1e-6
    )


def test_an_infinite_margin_weighs_every_anchor():
    x, _ = batch(3)
    weights = mine(mining.mine_hard(jnp.inf), jnp.ones((12, 12)), 1e-3 * x, jnp.arange(12) // 3)
    np.testing.assert_allclose(weights.sum(axis=1), 2 / 12, rtol=1e-6)


def test_easy_hard_miner_gives_the_gradient_through_the_chosen_pairs():
    x, labels = batch(6)
    for kinds in (("semihard", "hard"), ("hard", "easy"), ("easy", "semihard")):
        loss = lambda x: mining.mined_triplet_loss(  # noqa: E731
            x,
            labels,
            margin=0.4,
            positive=kinds[0],  # noqa: B023
            negative=kinds[1],  # noqa: B023
        )
        expected = jax.jit(jax.grad(loss))(x)
        actual = mined_gradient(mining.mine_easy_hard(*kinds, margin=0.4), x, labels)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
        assert np.abs(expected).max() > 0.05


def test_filters_hide_pairs_from_the_miner_behind_them():
    x, labels = batch(7)
    d, ones = mining.euclidean_distances(x), jnp.ones((12, 12))
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    for tx, kept in (
        (mining.mine_ranks(negative_ranks=(2, None)), mining.rank_pair_masks(d, *masks, negative_ranks=(2, None))),
        (mining.mine_ranges((0, 2), (0.7, 2)), mining.range_pair_masks(d, *masks, (0, 2), (0.7, 2))),
    ):
        weights = mine(optax.chain(tx, mining.mine_hard(jnp.inf)), ones, x, labels)
        expected = mining.losses.triplets.triplet_pair_weights(d, *kept, margin=jnp.inf, mining="hard")[1]
        np.testing.assert_allclose(weights, jnp.abs(expected), rtol=1e-6)
        assert not np.array_equal(weights, mine(mining.mine_hard(jnp.inf), ones, x, labels))


def test_margin_may_follow_a_schedule():
    x, labels = batch(5)
    tx = optax.inject_hyperparams(mining.mine_semihard, static_args=("nearest", "fallback"))(
        margin=optax.linear_schedule(0.0, 2.0, 2)
    )
    ones = jnp.ones((12, 12))
    state, masses = tx.init(ones), []
    for _ in range(3):
        weights, state = tx.update(ones, state, distances=mining.euclidean_distances(x), labels=labels)
        masses.append(int((weights > 0).sum()))
    assert masses[0] == 0 < masses[1] < masses[2]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="fallback is 'none', wanted one of"):
        mining.mine_easy_hard(fallback="none")
    with pytest.raises(ValueError, match="margin is nan"):
        mining.mine_all(float("nan"))
    tx = mining.mine_hard()
    with pytest.raises(ValueError, match=r"weights has shape \[4\]"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), distances=jnp.ones((4, 4)), labels=jnp.arange(4))
    with pytest.raises(ValueError, match=r"wanted reference_labels \[5\], or 'positives' and 'negatives'"):
        tx.update(jnp.ones((4, 5)), optax.EmptyState(), distances=jnp.ones((4, 5)), labels=jnp.arange(4))


def example_weights(weights):
    """How often each example is in a triplet, over the maximum, as `docs/pytorch_metric_learning.md` writes it."""
    counts = weights.sum(0) + weights.sum(1) / 2
    return counts / counts.max()


def test_hard_triplets_weigh_the_examples_of_a_class_loss():
    distances, labels = jnp.array([[0.0, 0.5, 0.6], [0.5, 0.0, 0.65], [0.6, 0.65, 0.0]]), jnp.array([0, 0, 1])
    tx = mining.mine_hard()
    weights = tx.update(jnp.ones((3, 3)), tx.init(jnp.ones((3, 3))), distances=distances, labels=labels)[0]
    np.testing.assert_allclose(example_weights(weights), [1, 1, 1])


def test_the_weights_of_examples_count_each_of_their_triplets_once():
    x, labels = batch(5)
    distances = np.asarray(mining.euclidean_distances(x), np.float64)
    counts = np.zeros(12)
    for a, p, n in np.ndindex(12, 12, 12):
        if a != p and labels[a] == labels[p] != labels[n] and distances[a, p] - distances[a, n] + 0.4 > 0:
            counts[[a, p, n]] += 1
    weights = mine(mining.mine_all(0.4), jnp.ones((12, 12)), x, labels)
    np.testing.assert_allclose(example_weights(weights), counts / counts.max(), rtol=1e-5)
