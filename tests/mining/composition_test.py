"""Distances, miners, losses and reducers compose: finite values and gradients, and padding influences nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conformance_test import CASES
from tests.mining import catalog

SIZE, PADDED = 6, 8
LABELS = np.array([0, 1, 0, 1, 0, 2, 0, 1])
SOME = ("contrastive_loss", "supcon_loss", "triplet_loss_semihard")
MINERS = {n: case.make() for n, case in CASES.items() if n.startswith(("mine_", "weigh_")) and n != "mine_random"}


def embeddings(fill):
    x = np.random.default_rng(0).normal(size=(PADDED, 3))
    x[SIZE:] = fill
    return jnp.asarray(x, jnp.float32)


def masks_of_miners(distances):
    """The pairs that each miner keeps `[miners, 2, PADDED, PADDED]`; padding enters with weight 0."""
    real = jnp.arange(PADDED) < SIZE
    weights = (real[:, None] & real[None, :]).astype(jnp.float32)
    kept = [
        tx.update(weights, tx.init(weights), distances=distances, labels=jnp.asarray(LABELS))[0] > 0
        for tx in MINERS.values()
    ]
    masks = catalog.all_pairs(LABELS)
    return jnp.stack([jnp.stack([mask & mined for mask in masks]) for mined in [weights > 0, *kept]])


@functools.cache
def mined_distances(fill):
    """Distances `[5, PADDED, PADDED]`, what the miners keep of them, and the vector-Jacobian product."""

    def all_distances(x):
        return jnp.stack([compare(x) for compare in catalog.DISTANCES.values()])

    distances, pull_back = jax.vjp(all_distances, embeddings(fill))
    return distances, jax.jit(jax.vmap(masks_of_miners))(distances), pull_back


def reduced(loss, reductions):
    """The sum of what all reducers give, and each of them; every cell has its own scale in the gradient."""

    def value(d, p, n):
        values = {name: jnp.sum(loss(d, p, n, reduction=name)) for name in reductions}
        return sum(scale * v for scale, v in zip((1.0, 0.7, 1.3, 0.2, 0.4, 0.9), values.values())), values

    return value


LOSSES = {
    **{name: reduced(loss, catalog.REDUCTIONS) for name, loss in catalog.LOSSES.items()},
    **{name: reduced(loss, catalog.TRIPLET_REDUCTIONS) for name, loss in catalog.TRIPLET_LOSSES.items()},
    **{name: lambda d, p, n, loss=loss: (loss(d, p, n), {}) for name, loss in catalog.SCALAR_LOSSES.items()},
}


def every_cell(name):
    """Value and gradient `[distances, miners]` of a loss."""
    step = jax.value_and_grad(LOSSES[name], has_aux=True)
    over_miners = jax.vmap(lambda d, masks: step(d, masks[0], masks[1]), in_axes=(None, 0))
    return jax.jit(jax.vmap(over_miners))


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES])
def test_every_distance_miner_and_reducer(name):
    cells, results = every_cell(name), {}
    for fill in (0.0, 1e6, np.nan):
        distances, masks, pull_back = mined_distances(fill)
        (total, values), slopes = cells(distances, masks)
        assert np.all(np.isfinite(total)) and np.all(np.isfinite(slopes))
        np.testing.assert_array_equal(slopes[..., SIZE:, :], 0)
        np.testing.assert_array_equal(slopes[..., SIZE:], 0)
        (gradient,) = pull_back(jnp.sum(slopes, axis=1))
        assert np.all(np.isfinite(gradient)) and np.any(gradient[:SIZE] != 0)
        np.testing.assert_array_equal(gradient[SIZE:], 0)
        results[fill] = total, values, slopes, gradient
    for fill in (1e6, np.nan):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 + 1e-7 * np.abs(b).max()),
            results[fill],
            results[0.0],
        )
    distances, masks, _ = mined_distances(0.0)
    (total, _), _ = cells(distances[..., :SIZE, :SIZE], masks[..., :SIZE, :SIZE])
    np.testing.assert_allclose(results[0.0][0], total, rtol=1e-5, atol=1e-6)


def test_miners_before_a_loss_keep_some_and_hide_some():
    """The table above is not of empty or equal masks."""
    _, masks, _ = mined_distances(0.0)
    number = np.asarray(jnp.sum(masks, axis=(2, 3, 4)))
    assert masks.shape[:2] == (len(catalog.DISTANCES), len(MINERS) + 1)
    assert np.all(number.max(axis=0) > 0)
    assert np.mean(number[:, 1:] < number[:, :1]) > 0.7
