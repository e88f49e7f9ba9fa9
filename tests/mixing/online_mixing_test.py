import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mixing
from minibatch_jax.mixing import OdmState, exploration_rate, mix_by_odm
from tests.case import Case
from tests.mixing import draws

CASES = {
    "mix_by_odm": Case(
        lambda: mixing.mix_by_odm(loss_scale=4.0, floor=0.01),
        draws.losses,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-5,
    )
}
HALF = jnp.full(2, 0.5)
BOTH = jnp.array([8, 8])


def mixtures(tx, weights, losses, counts, steps):
    """Return `[steps, K]` mixtures of the same losses at every step."""

    def step(state, _):
        mixture, state = tx.update(weights, state, domain_losses=losses, domain_counts=counts)
        return state, mixture

    return jax.device_get(jax.jit(lambda: jax.lax.scan(step, tx.init(weights), length=steps)[1])())


def test_two_domains_by_hand():
    """With K = 2 the rate is 1/2 up to t = 1, so R after the first update is (1 - 0.9) x L / 0.5."""
    found = mixtures(mix_by_odm(decay=0.9), HALF, jnp.array([1.0, 4.0]), BOTH, 2)
    np.testing.assert_allclose(found[0], [0.5, 0.5], rtol=1e-6)
    first, second = np.sqrt(np.log(2) / 2), np.sqrt(np.log(2) / 4)  # 0.589, cut to 0.5, and 0.416
    assert first > 0.5 > second
    rewards = 0.9 * np.array([0.2, 0.8]) + 0.1 * np.array([1.0, 4.0]) / 0.5
    powers = np.exp(0.5 * rewards)
    np.testing.assert_allclose(found[1], (1 - 2 * second) * powers / powers.sum() + second, rtol=1e-6)


def test_the_paper_s_form_freezes_at_uniform_and_scale_and_floor_keep_it_alive():
    losses, weights, counts = jnp.array([1.0] * 6 + [4.0] * 6), jnp.full(12, 1 / 12), jnp.full(12, 8)

    def ratios(**options):
        found = mixtures(mix_by_odm(**options), weights, losses, counts, 10_000)
        return [found[n - 1, 6] / found[n - 1, 0] for n in (100, 1000, 10_000)]

    np.testing.assert_allclose(ratios(), [1.584, 1.379, 1.148], atol=2e-3)
    np.testing.assert_allclose(ratios(loss_scale=15.0, floor=0.03), [2.662, 3.310, 3.310], atol=2e-3)


def test_the_perplexity_form_tends_to_shares_of_the_perplexity():
    losses = jnp.log(jnp.array([1.0, 2.0, 5.0]))
    found = mixtures(mix_by_odm("perplexity"), jnp.full(3, 1 / 3), losses, jnp.ones(3, jnp.int32), 4000)[-1]
    floor = np.sqrt(np.log(3) / 3 / 4000)
    np.testing.assert_allclose(found, (1 - 3 * floor) * np.array([1, 2, 5]) / 8 + floor, rtol=1e-4)


def test_the_cumulative_form_stays_sharp():
    found = mixtures(mix_by_odm("cumulative"), HALF, jnp.array([1.0, 4.0]), BOTH, 4000)
    assert found[-1, 1] > 0.7 > found[1, 1]


@pytest.mark.parametrize("rewards", ["averaged", "cumulative"])
def test_a_constant_in_all_rewards_changes_nothing(rewards):
    tx = mix_by_odm(rewards)
    prior, step = jnp.full(3, 1 / 3, jnp.float32), jnp.array(50, jnp.int32)
    none = {"domain_losses": jnp.ones(3), "domain_counts": jnp.zeros(3, jnp.int32)}
    found = [
        tx.update(prior, OdmState(jnp.array([1.0, 2.0, 4.0]) + c, prior, step), **none)[0] for c in (0.0, 7.0, 1000.0)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)
    assert found[0][2] > 1.2 * found[0][0]


def test_large_losses_do_not_overflow():
    for rewards in ("perplexity", "perplexity_softmax", "cumulative"):
        found = mixtures(mix_by_odm(rewards, loss_scale=15.0), HALF, jnp.array([100.0, 101.0]), jnp.array([1, 1]), 50)
        assert np.all(np.isfinite(found)) and found[-1, 1] > 0.8


def test_a_domain_that_was_never_drawn_has_only_the_rate_in_the_perplexity_form():
    found = mixtures(mix_by_odm("perplexity"), jnp.full(3, 1 / 3), jnp.ones(3), jnp.array([1, 1, 0]), 100)[-1]
    np.testing.assert_allclose(found[2], exploration_rate(3, 100), rtol=1e-5)


def test_the_warm_up_passes_the_incoming_mixture_and_counts_as_steps():
    prior = jnp.array([0.7, 0.2, 0.1])
    losses, counts = jnp.array([1.0, 2.0, 3.0]), jnp.ones(3, jnp.int32)
    found = mixtures(mix_by_odm("cumulative", warmup_steps=30), prior, losses, counts, 31)
    np.testing.assert_allclose(found[:30], np.tile(prior, (30, 1)), rtol=1e-6)
    before, now = (np.sqrt(np.log(3) / 3 / t) for t in (30, 31))  # the global step, where the rate is below 1/K
    powers = np.exp(before * np.asarray(losses) / np.asarray(prior))
    np.testing.assert_allclose(found[30], (1 - 3 * now) * powers / powers.sum() + now, rtol=1e-5)


def test_a_floor_above_one_over_k_gives_the_uniform_mixture():
    found = mixtures(mix_by_odm("cumulative", floor=0.6), HALF, jnp.array([1.0, 9.0]), BOTH, 20)
    np.testing.assert_allclose(found[-1], [0.5, 0.5], rtol=1e-6)


BAD = {
    "rewards": (
        lambda: mix_by_odm("exp3"),
        ValueError,
        "rewards is 'exp3', wanted one of 'averaged', 'perplexity'",
    ),
    "decay": (lambda: mix_by_odm(decay=1.1), ValueError, r"decay is 1.1, wanted a number in \[0, 1\]"),
    "scale": (lambda: mix_by_odm(loss_scale=0.0), ValueError, r"loss_scale is 0.0, wanted a number in \(0, inf\)"),
    "floor": (lambda: mix_by_odm(floor=-0.1), ValueError, r"floor is -0.1, wanted a number in \[0, 1\]"),
    "no domain": (lambda: exploration_rate(0, 1), ValueError, "num_domains is 0, wanted at least 1"),
    "warm-up": (lambda: mix_by_odm(warmup_steps=-1), ValueError, "warmup_steps is -1, wanted at least 0"),
    "losses": (
        lambda: mix_by_odm().update(
            HALF, mix_by_odm().init(HALF), domain_losses=jnp.ones(3), domain_counts=jnp.ones(2, jnp.int32)
        ),
        ValueError,
        r"domain_losses has shape \[3\], wanted \[2\]",
    ),
    "counts": (
        lambda: mix_by_odm().update(HALF, mix_by_odm().init(HALF), domain_losses=HALF),
        TypeError,
        r"wanted 'domain_counts' \(\[K\] integer, examples seen of each domain\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
