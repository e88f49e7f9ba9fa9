"""A quota of labeled rows, by counting what was drawn."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import labelled_quota

N, BATCH, QUOTA = 61, 16, 5
MASKS = {count: np.random.default_rng(count).permutation(N) < count for count in (1, 3, 5, 17, 50)}


@jax.jit
def drawn(seeds, labeled):
    """Rows of 40 batches of each seed, and the complete epochs after each."""
    sampler = labelled_quota(BATCH, QUOTA)

    def step(state, _):
        rows, state = sampler.sample(state)
        return state, (rows, state.epochs)

    def run(seed):
        return jax.lax.scan(step, sampler.init(seed, labeled=labeled), length=40)[1]

    return jax.vmap(run)(seeds)


@pytest.mark.parametrize("count", MASKS)
def test_every_batch_has_the_quota_and_every_epoch_all_unlabeled_rows_once(count):
    labeled = MASKS[count]
    unlabeled = np.flatnonzero(~labeled)
    rows, epochs = jax.device_get(drawn(jnp.arange(3), jnp.asarray(labeled)))
    per_epoch = -(-len(unlabeled) // (BATCH - QUOTA))
    orders = set()
    for indices, weights, done in zip(*rows, epochs):
        assert np.all(labeled[indices[:, :QUOTA]])
        others = indices[:, QUOTA:]
        assert not np.any(labeled[others[others >= 0]])
        np.testing.assert_array_equal(done[:, 0], (1 + np.arange(40)) // per_epoch)
        np.testing.assert_array_equal(done[:, 1], QUOTA * (1 + np.arange(40)) // count)
        for start in range(0, 40 - per_epoch + 1, per_epoch):
            epoch = others[start : start + per_epoch].reshape(-1)
            assert sorted(epoch[epoch >= 0]) == unlabeled.tolist()
            assert np.all(epoch[len(unlabeled) :] == -1)
            orders.add(tuple(epoch))
        for batches in range(1, 41):
            counts = Counter(indices[:batches, :QUOTA].reshape(-1).tolist())
            numbers = [counts[row] for row in np.flatnonzero(labeled)]
            assert max(numbers) - min(numbers) <= 1
        np.testing.assert_allclose(weights, (indices >= 0) / np.sum(indices >= 0, axis=1, keepdims=True), rtol=1e-6)
    assert len(orders) == 3 * (40 // per_epoch)


def test_every_place_of_an_epoch_is_taken_by_every_row_equally_often():
    labeled = jnp.asarray(MASKS[50])  # 11 unlabeled rows, an epoch in each batch
    indices = np.asarray(drawn(jnp.arange(60), labeled)[0].indices)
    rank = np.cumsum(~MASKS[50]) - 1
    for place in (QUOTA, BATCH - 1):
        counts = np.bincount(rank[indices[:, :, place].reshape(-1)], minlength=11)
        assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < 30  # 10 degrees of freedom, p = .001


@pytest.mark.parametrize("value", [False, True])
def test_what_a_traced_mask_lacks_is_padding(value):
    rows, _ = drawn(jnp.arange(1), jnp.full(N, value))
    lacking = np.arange(BATCH) >= QUOTA if value else np.arange(BATCH) < QUOTA
    assert np.all(rows.indices[..., lacking] == -1) and np.all(rows.weights[..., lacking] == 0)
    np.testing.assert_array_equal(rows.indices[0, 0] >= 0, ~lacking)


SOME = jnp.arange(9) < 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: labelled_quota(4, 4), ValueError, "quota is 4, wanted at most 3"),
        (lambda: labelled_quota(4, 0), ValueError, "quota is 0, wanted at least 1"),
        (lambda: labelled_quota(4, 2).init(0, labeled=~(SOME | True)), ValueError, "0 labeled rows of 9, wanted at"),
        (lambda: labelled_quota(4, 2).init(0, labeled=SOME | True), ValueError, "0 unlabeled rows, wanted at least 2"),
        (lambda: labelled_quota(12, 5).init(0, labeled=SOME), ValueError, "6 unlabeled rows, wanted at least 7"),
        (lambda: labelled_quota(4, 2).init(0, labeled=jnp.arange(9)), TypeError, "labeled has dtype int32"),
    ],
)
def test_a_quota_that_cannot_be_met_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
