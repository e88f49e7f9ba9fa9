"""Miners, and losses with a miner or a geometry of their own, equal pytorch-metric-learning's stored values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining.peer import LABELS, PEER, X, check, euclidean, masks

CENTERS = np.array(PEER["weights"]).T[:4]
triplet = functools.partial(mining.triplet_loss, margin=0.3)


@pytest.mark.parametrize("name", ["hard", "easy_positive", "all", "semihard", "violating"])
def test_mined_triplet_loss_and_gradient(name):
    check(lambda x: triplet(euclidean(x), *masks(), mining=name), PEER["mined_triplet_margin"][name])


@pytest.mark.parametrize(
    "name,positive,negative",
    [
        ("hard", "hard", "hard"),
        ("easy_positive", "easy", "semihard"),
        ("hard_easy", "hard", "easy"),
        ("hard_semihard", "hard", "semihard"),
        ("semihard_hard", "semihard", "hard"),
        ("semihard_easy", "semihard", "easy"),
    ],
)
def test_loss_through_chosen_pairs_and_its_gradient(name, positive, negative):
    kinds = {"positive": positive, "negative": negative, "margin": 0.3, "block_size": 4}
    check(
        lambda x: mining.mined_triplet_loss(mining.normalize_embeddings(x), jnp.asarray(LABELS), **kinds),
        PEER["mined_triplet_margin"][name],
    )


def test_angular_miner():
    x = mining.normalize_embeddings(jnp.asarray(X))
    d, angle = mining.euclidean_distances(x), np.radians(30)
    times = np.zeros(d.shape)
    for a, p, n in PEER["angular_on_sphere"]:
        times[a, p] += 1
        times[a, n] += 1
    every = mining.angular_triplet_weights(d, *masks(), angle=angle, margin=jnp.inf)
    np.testing.assert_allclose(every, times / len(PEER["angular_on_sphere"]), rtol=1e-5)
    check(
        lambda x: jnp.sum(
            jax.lax.stop_gradient(mining.angular_triplet_weights(euclidean(x), *masks(), angle=angle, margin=0.3))
            * jnp.where(masks()[0], euclidean(x), -euclidean(x))
        ),
        {"value": None, "gradient": PEER["mined_on_sphere"]["gradient"]},
    )


def test_dynamic_margin_over_two_batches():
    with jax.enable_x64(True):
        margin = mining.losses.dynamic_margins.DynamicMargin(jnp.zeros(11, jnp.float64))
    for rows, expected in zip((12, 9), PEER["dynamic_soft_margin"]):
        labels = jnp.asarray(LABELS[:rows])
        pairs = mining.positive_mask(labels), mining.negative_mask(labels)
        triplets = int(jnp.sum(pairs[0].sum(axis=1) * pairs[1].sum(axis=1)))
        share = 0.01 * triplets / (0.99 + 0.01 * triplets)  # the peer adds counts to its shares

        def loss(x):
            return mining.dynamic_margin_loss(margin, euclidean(x), *pairs, decay=1 - share)  # noqa: B023

        with jax.enable_x64(True):
            (value, margin), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(X[:rows]))
        np.testing.assert_allclose(value, expected["value"], rtol=1e-6)
        np.testing.assert_allclose(gradient, np.array(expected["gradient"])[:rows], atol=1e-7)


def test_manifold_loss():
    own = jnp.asarray(PEER["proxy_of"])[:, None] == jnp.arange(4)[None]
    options = {"restart": 0.3, "margin": 0.01, "context": 0.5}

    def loss(x):
        return mining.manifold_loss(
            mining.cosine_similarity(jnp.concatenate([x, jnp.asarray(CENTERS)])), own, ~own, **options
        )

    check(loss, PEER["manifold"], 3e-5)  # the peer inverts in float32


@pytest.mark.parametrize(
    "name,positive,negative",
    [
        ("hard", "hard", "hard"),
        ("easy_positive", "easy", "semihard"),
        ("hard_easy", "hard", "easy"),
        ("hard_semihard", "hard", "semihard"),
        ("semihard_hard", "semihard", "hard"),
        ("semihard_easy", "semihard", "easy"),
        ("easy_semihard_in_range", "easy", "semihard"),
    ],
)
def test_one_triplet_for_each_anchor(name, positive, negative):
    d, pairs = euclidean(jnp.asarray(X)), masks()
    if name.endswith("in_range"):
        pairs = mining.range_pair_masks(d, *pairs, (0.6, 1.2), (0.5, 1.3))
    chosen = mining.triplet_choice(d, *pairs, positive, negative)
    anchors = np.flatnonzero(chosen.valid)
    triplets = np.stack([anchors, chosen.positive[anchors], chosen.negative[anchors]], axis=1)
    np.testing.assert_array_equal(triplets, PEER["triplets"][name])


def tie_breaker():
    """The peer breaks the tie of (i, j) and (j, i) by rounding; any small asymmetry does."""
    return jnp.triu(jnp.ones(2 * LABELS.shape)) * 1e-2


def test_pair_miners():
    x, pairs = jnp.asarray(X), masks()
    d = euclidean(x)
    actual = mining.multi_similarity_pair_masks(mining.cosine_similarity(x), *pairs)
    np.testing.assert_array_equal(actual, PEER["pair_masks"]["multi_similarity"])
    actual = mining.hardest_pair_masks(d + 1e-3 * tie_breaker(), *pairs, 0.3)
    for ours, theirs in zip(actual, PEER["pair_masks"]["hdc"]):
        assert ours.sum() == np.sum(theirs)
        np.testing.assert_array_equal(ours | ours.T, np.array(theirs) | np.array(theirs).T)
    actual = mining.margin_pair_masks(d, *pairs, 0.9, 1.1)
    np.testing.assert_array_equal(actual, PEER["pair_masks"]["pair_margin"])
    actual = mining.rank_pair_masks(d, *pairs, negative_ranks=(0, 1))
    np.testing.assert_array_equal(actual, PEER["pair_masks"]["all_hard"])
    actual = mining.rank_pair_masks(d, *pairs, positive_ranks=(-1, None))
    np.testing.assert_array_equal(actual, PEER["pair_masks"]["easy_all"])
    allowed = mining.range_pair_masks(d, *pairs, negative_range=(0.4, 1.3))
    actual = mining.rank_pair_masks(d, *allowed, negative_ranks=(-1, None))
    np.testing.assert_array_equal(actual, PEER["pair_masks"]["all_easy_in_range"])


def test_easy_triplets_lose_something_if_smooth():
    check(lambda x: triplet(euclidean(x), *masks(), mining="easy", smooth=True, reduction="mean"), PEER["smooth_easy"])


@pytest.mark.parametrize("name", ["violating", "easy"])
def test_weights_of_a_miner_count_the_triplets_of_each_pair(name):
    miner = {"violating": mining.mine_violating(), "easy": mining.mine_easy(0.3)}[name]
    times = np.zeros((len(X), len(X)))
    for a, p, n in PEER["triplets"][name]:
        times[a, p] += 1
        times[a, n] += 1
    ones = jnp.ones(times.shape)
    weights, _ = miner.update(ones, miner.init(ones), distances=euclidean(jnp.asarray(X)), labels=jnp.asarray(LABELS))
    np.testing.assert_allclose(weights, times / len(PEER["triplets"][name]), rtol=1e-5)


def test_a_dynamic_margin_of_another_span():
    with jax.enable_x64(True):
        margin = mining.losses.dynamic_margins.DynamicMargin(jnp.zeros(11, jnp.float64))
    check(
        lambda x: mining.dynamic_margin_loss(margin, euclidean(x), *masks(), span=3.0)[0],
        PEER["wide_soft_margin"],
    )
