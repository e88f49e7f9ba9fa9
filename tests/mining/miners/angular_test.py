"""Mining by angles equals loops; the peer is in peer_test."""

import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining import draws
from tests.mining.unit_vectors import batch, distances

CASES = {
    "mine_angular": draws.case(mining.mine_angular),
}


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


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="angle is 2"):
        mining.mine_angular(2.0)
    with pytest.raises(ValueError, match=r"reference_distances has shape \[2, 3\], wanted \[3, 3\]"):
        mining.angular_triplet_weights(d, mask, mask)
    with pytest.raises(ValueError, match=r"distances has shape \[3\]"):
        mining.angular_triplet_weights(d[0], mask[0], mask[0])
