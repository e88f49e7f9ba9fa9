"""Mining by angles, dynamic margins and manifolds, by loops and closed forms; the peer is in peer_test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from minibatch_jax import mining
from tests.mining import draws

CASES = {
    "mine_angular": draws.case(mining.mine_angular),
}


def batch(seed, size=9):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True), rng.integers(0, 3, size)


def masks(labels):
    labels = jnp.asarray(labels)
    return mining.positive_mask(labels), mining.negative_mask(labels)


def distances(x, r):
    return np.linalg.norm(x[:, None] - r[None], axis=-1)


def test_angles_against_other_references_equal_loops():
    (x, y), (r, z) = batch(0), batch(1, 11)
    times, number = np.zeros((9, 11)), 0
    for a in range(9):
        for p in np.flatnonzero(z == y[a]):
            for n in np.flatnonzero(z != y[a]):
                d_ap, d_an = np.linalg.norm(x[a] - r[p]), np.linalg.norm(x[a] - r[n])
                angle = np.arctan2(d_ap, 2 * np.linalg.norm(r[n] - (x[a] + r[p]) / 2))
                if angle > 0.5 and d_ap - d_an + 0.4 > 0:
                    times[a, [p, n]] += 1
                    number += 1
    pairs = [m(jnp.asarray(y), jnp.asarray(z)) for m in (mining.positive_mask, mining.negative_mask)]
    among, d = jnp.asarray(distances(r, r)), jnp.asarray(distances(x, r))
    actual = mining.angular_triplet_weights(d, *pairs, reference_distances=among, angle=0.5, margin=0.4)
    assert number > 10
    np.testing.assert_allclose(actual, times / number, rtol=1e-5)


def test_a_hidden_pair_still_says_how_wide_the_angle_is():
    """Only anchors 0 and positives 1 with the negative 2: hiding the pair (1, 2) from the miner changes no angle."""
    d, labels = jnp.array([[0.0, 1.0, 3.0], [1.0, 0.0, 3.0], [3.0, 3.0, 0.0]]), jnp.array([0, 0, 1])
    weights = jnp.zeros((3, 3)).at[0, 1:].set(1)
    for angle, expected in ((0.16, 1.0), (0.2, 0.0)):  # the angle is 0.167
        tx = mining.mine_angular(angle, margin=5.0)
        found = tx.update(weights, tx.init(weights), distances=d, labels=labels)[0]
        np.testing.assert_array_equal(found, expected * weights)
    tx = mining.mine_angular(0.16, margin=5.0)
    unknown = tx.update(weights, tx.init(weights), distances=d.at[1, 2].set(jnp.nan), labels=labels)[0]
    np.testing.assert_array_equal(unknown, jnp.zeros((3, 3)))


def differences(d, labels):
    same, number = labels[:, None] == labels[None], len(labels)
    return [
        (a, p, n, d[a, p] - d[a, n])
        for a in range(number)
        for p in range(number)
        for n in range(number)
        if same[a, p] and a != p and not same[a, n]
    ]


def dynamic_margin(histogram, found, momentum, bins=8):
    places = [(e + 2) * bins / 4 for *_, e in found]
    heights = np.array([sum(max(1 - abs(place - node), 0) for place in places) for node in range(bins + 1)])
    share = 1 if histogram is None else momentum
    histogram = share * heights / heights.sum() + (0 if histogram is None else (1 - share) * histogram)
    weights = [np.cumsum(histogram)[int(place)] for place in places]
    return np.mean([w * e for w, (*_, e) in zip(weights, found)]), weights, histogram


def test_dynamic_margin_equals_loops_over_two_batches():
    margin, histogram = mining.init_dynamic_margin(8), None
    for seed in (2, 3):
        x, labels = batch(seed)
        d = distances(x, x)
        found = differences(d, labels)
        value, weights, histogram = dynamic_margin(histogram, found, 0.3)
        gradient = np.zeros_like(d)
        for w, (a, p, n, _) in zip(weights, found):
            gradient[a, p] += w / len(found)
            gradient[a, n] -= w / len(found)
        loss = jax.jit(jax.value_and_grad(mining.dynamic_margin_loss, argnums=1, has_aux=True))
        (actual, margin), slopes = loss(margin, jnp.asarray(d, jnp.float32), *masks(labels), decay=0.7)
        np.testing.assert_allclose(actual, value, rtol=1e-4)
        np.testing.assert_allclose(margin.histogram, histogram, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(slopes, gradient, rtol=1e-4, atol=1e-6)


def test_dynamic_margin_of_hard_triplets_pads_and_keeps_its_state():
    x, labels = batch(4)
    d, pairs = jnp.asarray(distances(x, x), jnp.float32), masks(labels)
    start = mining.losses.dynamic_margins.DynamicMargin(jnp.linspace(0, 0.2, 11))
    loss = jax.jit(lambda d, p, n: mining.dynamic_margin_loss(start, d, p, n, mining="hard", decay=0.5))
    value, margin = loss(d, *pairs)
    chosen = mining.triplet_choice(d, *pairs)
    rows = np.flatnonzero(chosen.valid)
    excess = d[rows, chosen.positive[rows]] - d[rows, chosen.negative[rows]]
    expected = np.mean(np.cumsum(margin.histogram)[np.floor((excess + 2) * 2.5).astype(int)] * excess)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    padded = [jnp.pad(m, ((0, 3), (0, 3))) for m in pairs]
    again = loss(jnp.pad(d, ((0, 3), (0, 3)), constant_values=jnp.nan), *padded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, (value, margin))
    nothing = jnp.zeros_like(pairs[0])
    value, margin = loss(d, nothing, nothing)
    assert value == 0
    np.testing.assert_array_equal(margin.histogram, start.histogram)


def test_gradient_of_the_dynamic_margin_loss():
    x, labels = batch(5)
    with jax.enable_x64(True):
        start = mining.losses.dynamic_margins.DynamicMargin(jnp.linspace(0, 0.2, 11, dtype=jnp.float64))
        pairs = masks(labels)
        loss = jax.jit(lambda d: mining.dynamic_margin_loss(start, d, *pairs, decay=1.0)[0])
        check_grads(loss, (jnp.asarray(distances(x, x)),), order=1, eps=1e-7)


def test_random_walks_equal_their_power_series():
    x, _ = batch(6)
    s = x @ x.T
    weights = np.exp(np.maximum(s, 0) / 0.5) * (1 - np.eye(9))
    step = weights / np.sqrt(np.outer(weights.sum(0), weights.sum(0)))
    series = 0.3 * sum(np.linalg.matrix_power(0.7 * step, t) for t in range(80))
    actual = mining.random_walk_similarity(jnp.asarray(s, jnp.float32), restart=0.3)
    np.testing.assert_allclose(actual, series, rtol=1e-4)


def test_random_walks_at_any_temperature_and_precision():
    x, _ = batch(6)
    s = jnp.asarray(x @ x.T, jnp.float32)
    walk = jax.jit(mining.random_walk_similarity)
    cold_walk = jax.jit(functools.partial(mining.random_walk_similarity, temperature=0.01))
    cold = np.asarray(cold_walk(s))
    with jax.enable_x64(True):
        exact = cold_walk(np.asarray(s, np.float64))
    np.testing.assert_allclose(cold, exact, rtol=1e-3, atol=1e-5)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = walk(s.astype(dtype))
        assert half.dtype == dtype
        np.testing.assert_allclose(np.asarray(half, np.float32), walk(s), atol=0.01)


def test_manifold_loss_pads_and_differentiates():
    x, proxies = batch(7)[0], batch(8, 3)[0]
    own = jnp.arange(9)[:, None] % 3 == jnp.arange(3)[None]

    def loss(x, p, n):
        together = jnp.concatenate([x, jnp.asarray(proxies, x.dtype)])
        return mining.manifold_loss(mining.cosine_similarity(together), p, n)

    step = jax.jit(jax.value_and_grad(loss))
    value, gradient = step(jnp.asarray(x, jnp.float32), own, ~own)
    empty = jnp.zeros((2, 3), bool)
    for fill in (1e6, jnp.nan):
        padded = jnp.concatenate([jnp.asarray(x, jnp.float32), jnp.full((2, 3), fill)])
        again, slopes = step(padded, jnp.concatenate([own, empty]), jnp.concatenate([~own, empty]))
        np.testing.assert_allclose(again, value, rtol=1e-5)
        np.testing.assert_allclose(slopes, jnp.pad(gradient, ((0, 2), (0, 0))), rtol=1e-4, atol=1e-6)
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda x: loss(x, own, ~own)), (jnp.asarray(x),), order=1, modes=["rev"], eps=1e-7)


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="angle is 2"):
        mining.mine_angular(2.0)
    with pytest.raises(ValueError, match=r"reference_distances has shape \[2, 3\], wanted \[3, 3\]"):
        mining.angular_triplet_weights(d, mask, mask)
    with pytest.raises(ValueError, match="decay is 2"):
        mining.dynamic_margin_loss(mining.init_dynamic_margin(), d, mask, mask, decay=2)
    with pytest.raises(TypeError, match=r"num_bins is 2\.0"):
        mining.init_dynamic_margin(2.0)
    with pytest.raises(ValueError, match=r"similarities has shape \[2, 3\], wanted \[5, 5\]"):
        mining.manifold_loss(d, mask, mask)
    with pytest.raises(ValueError, match=r"negatives has shape \[2, 2\], wanted \[2, 3\]"):
        mining.manifold_loss(jnp.ones((5, 5)), mask, mask[:, :2])
    with pytest.raises(ValueError, match=r"distances has shape \[3\]"):
        mining.angular_triplet_weights(d[0], mask[0], mask[0])
    with pytest.raises(ValueError, match="restart is 0"):
        mining.random_walk_similarity(jnp.ones((3, 3)), restart=0)
