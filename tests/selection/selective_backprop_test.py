"""Selective-Backprop against sorted losses, scipy's ranks and enumeration of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from minibatch_jax import selection
from minibatch_jax.selection.selective_backprop import keep_by_loss_rank, loss_ranks
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_loss_rank": Case(lambda: selection.keep_by_loss_rank(2.0, key=0), draws.losses),
}


@pytest.mark.parametrize("seed", range(3))
def test_ranks_equal_scipy_with_ties(seed):
    rng = np.random.default_rng(seed)
    history = rng.integers(0, 6, 40).astype(np.float32)
    losses = rng.integers(-1, 8, 12).astype(np.float32)
    expected = [scipy.stats.percentileofscore(history, x, kind="weak") / 100 for x in losses]
    np.testing.assert_allclose(loss_ranks(jnp.asarray(losses), jnp.asarray(history)), expected, rtol=1e-6)


def test_what_is_not_finite_has_no_rank_and_does_not_count():
    history = jnp.array([1.0, jnp.nan, jnp.inf, 2.0])
    assert loss_ranks(jnp.array([1.5, jnp.nan, jnp.inf]), history).tolist() == [0.5, 0.0, 0.0]
    assert loss_ranks(jnp.array([1.5]), jnp.full(3, jnp.nan)).tolist() == [0.0]


def test_history_holds_the_newest_losses_of_rows_that_count():
    tx = keep_by_loss_rank(1.0, key=0, history=5)
    state = tx.init(jnp.ones(3))
    batches = [([1.0, 2.0, 3.0], [1, 0, 1]), ([4.0, np.nan, 5.0], [1, 1, 1]), ([6.0, 7.0, 8.0], [1, 1, 0])]
    for losses, weights in batches:
        _, state = tx.update(jnp.asarray(weights, jnp.float32), state, losses=jnp.asarray(losses))
    np.testing.assert_array_equal(state.history, [6.0, 7.0, 4.0, 5.0, 1.0])


@pytest.mark.parametrize("weighting", ["own", "unbiased"])
def test_draws_have_the_probabilities_of_the_formula(weighting):
    losses, power = jnp.array([3.0, 1.0, 2.0, 4.0]), 2.0
    tx = keep_by_loss_rank(power, key=0, history=4, weighting=weighting)
    state = tx.init(jnp.ones(4))

    def draw(key):
        return tx.update(jnp.ones(4), state._replace(rng_key=key), losses=losses)[0]

    mean = np.mean(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 20_000)), axis=0)
    probability = np.array([3, 1, 2, 4]) / 4
    expected = np.ones(4) if weighting == "unbiased" else probability**power
    np.testing.assert_allclose(mean, expected, atol=0.1 if weighting == "unbiased" else 0.015)


def test_bad_arguments_are_named():
    for arguments, name in (
        ({"power": -1.0}, "power"),
        ({"history": 0}, "history"),
        ({"weighting": "all"}, "weighting"),
    ):
        with pytest.raises(ValueError, match=name):
            keep_by_loss_rank(**{"power": 1.0, "key": 0} | arguments)
