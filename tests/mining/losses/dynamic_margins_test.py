"""The dynamic margin equals loops over two batches, pads and differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from minibatch_jax import mining
from tests.mining.unit_vectors import batch, distances, masks


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


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="decay is 2"):
        mining.dynamic_margin_loss(mining.init_dynamic_margin(), d, mask, mask, decay=2)
    with pytest.raises(TypeError, match=r"num_bins is 2\.0"):
        mining.init_dynamic_margin(2.0)
