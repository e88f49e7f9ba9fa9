"""The mixture sampler against counting: rows by domain, epochs, weights, and what feedback makes of the proportions."""

import itertools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import weight_transformation
from minibatch_jax.mixing import mix_by_odm, mix_by_temperature
from minibatch_jax.sampling import Rows, mixture

DOMAINS = np.array([2, 0, 1, 2, 2, 0, 2, 1, 2, 2, 2, 1], np.int32)
"""two rows of domain 0, three of domain 1, seven of domain 2"""
P = np.array([0.5, 0.2, 0.3], np.float32)


def proportional_to_losses():
    """Return a transformation to `prior x loss`, for domains with a loss."""

    def update(weights, state, params=None, *, domain_losses, domain_counts, **extra_args):
        return jnp.where(domain_counts > 0, weights * domain_losses, weights), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def draw(sampler, steps, **arrays):
    arrays = {"domains": jnp.asarray(DOMAINS), **arrays}
    state = sampler.init(0, **arrays)
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: sampler.sample(s)[::-1], state, None, length=steps))
    state, rows = run(state)
    return np.asarray(rows.indices), np.asarray(rows.weights), state


def counts_of(indices):
    return np.stack([(DOMAINS[batch][:, None] == np.arange(3)).sum(axis=0) for batch in indices])


@pytest.mark.parametrize("draw_kind", ["systematic", "multinomial"])
def test_domains_give_as_many_rows_as_their_proportions_say(draw_kind):
    indices, weights, _ = draw(mixture(3, 9, P, draw=draw_kind), 4000)
    counts = counts_of(indices)
    np.testing.assert_array_equal(weights, np.float32(1 / 9))
    np.testing.assert_allclose(counts.mean(axis=0), 9 * P, atol=0.08)
    if draw_kind == "systematic":
        assert np.all(np.abs(counts - 9 * P) < 1)
    else:
        expected = 9 * (np.diag(P) - np.outer(P, P))
        np.testing.assert_allclose(np.cov(counts.T), expected, atol=0.15)


def test_each_domain_goes_through_all_its_rows_before_one_comes_again():
    indices, _, state = draw(mixture(3, 9, P), 60)
    drawn, sizes = np.zeros(3, int), np.bincount(DOMAINS)
    for number in (1, 2, 3, 10, 60):
        seen = np.bincount(indices[:number].reshape(-1), minlength=12)
        drawn = counts_of(indices[:number]).sum(axis=0)
        for domain in range(3):
            laps, rest = divmod(drawn[domain], sizes[domain])
            expected = [laps] * (sizes[domain] - rest) + [laps + 1] * rest
            assert Counter(seen[domain == DOMAINS].tolist()) == Counter(expected)
    np.testing.assert_array_equal(state.epochs, drawn // sizes)
    np.testing.assert_array_equal(state.position, drawn % sizes)
    assert int(state.step) == 60


def test_epochs_have_orders_of_their_own_that_are_uniform():
    labels = jnp.zeros(4, jnp.int32)
    indices, _, _ = draw(mixture(1, 1, jnp.ones(1)), 48_000, domains=labels)
    epochs = [tuple(epoch) for epoch in indices.reshape(12_000, 4).tolist()]
    counts = Counter(epochs)
    assert set(counts) == set(itertools.permutations(range(4)))
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 60  # 23 degrees of freedom
    pairs = Counter((a[0], b[0]) for a, b in itertools.pairwise(epochs))
    assert sum((n - 750) ** 2 / 750 for n in pairs.values()) < 45  # 15 degrees of freedom


def test_places_of_a_batch_are_in_random_order():
    indices, _, _ = draw(mixture(3, 9, P), 4000)
    share = np.stack([(DOMAINS[indices] == domain).mean(axis=0) for domain in range(3)])
    np.testing.assert_allclose(share, np.repeat(P[:, None], 9, axis=1), atol=0.035)


def test_rows_of_a_block_are_of_one_domain():
    indices, _, _ = draw(mixture(3, 12, P, draw="multinomial", block_size=4), 1000)
    blocks = DOMAINS[indices].reshape(-1, 4)
    assert np.all(blocks == blocks[:, :1])
    np.testing.assert_allclose(np.bincount(blocks[:, 0]) / 3000, P, atol=0.03)
    counts = counts_of(indices)
    np.testing.assert_allclose(counts.var(axis=0), 16 * 3 * P * (1 - P), rtol=0.15)


def test_reweighed_rows_are_drawn_by_the_prior_and_weigh_as_the_mixture_says():
    prior = np.array([0.25, 0.5, 0.25], np.float32)
    sampler = mixture(3, 8, np.array([0.5, 0.5, 0.0], np.float32), reweigh=True)
    indices, weights, _ = draw(sampler, 50, prior=jnp.asarray(prior))
    for rows, weight in zip(indices, weights):
        exists = rows >= 0
        assert Counter(DOMAINS[rows[exists]].tolist()) == {0: 2, 1: 4}
        np.testing.assert_array_equal(weight[~exists], 0)
        ratio = np.where(DOMAINS[rows[exists]] == 0, 2.0, 1.0)
        np.testing.assert_allclose(weight[exists], ratio / ratio.sum(), rtol=1e-6)


def test_a_function_of_the_step_is_normalized_and_bad_proportions_count_as_zero():
    def mix(step):
        late = step >= 10
        return jnp.where(late, jnp.array([4.0, jnp.nan, -1.0]), jnp.array([0.0, 3.0, jnp.inf]))

    indices, _, state = draw(mixture(3, 4, mix), 20)
    assert set(DOMAINS[indices[:10]].reshape(-1)) == {1}
    assert set(DOMAINS[indices[10:]].reshape(-1)) == {0}
    assert state.weights.tolist() == [1, 0, 0]


def test_without_any_proportion_the_batch_is_padding_and_the_state_says_so():
    for reweigh in (False, True):
        sampler = mixture(3, 4, lambda step: jnp.where(step == 0, jnp.zeros(3), jnp.ones(3)), reweigh=reweigh)
        rows, state = sampler.sample(sampler.init(0, domains=jnp.asarray(DOMAINS)))
        assert rows.indices.tolist() == [-1] * 4 and rows.weights.tolist() == [0] * 4 and bool(state.exhausted)
        assert state.position.tolist() == [0, 0, 0]
        rows, state = sampler.sample(state)
        assert min(rows.indices.tolist()) >= 0 and not bool(state.exhausted)


def test_feedback_moves_the_mixture_late_and_by_the_means_of_domains():
    sampler = mixture(3, 4, proportional_to_losses())
    prior = np.array([0.2, 0.2, 0.6])
    state = sampler.init(0, domains=jnp.asarray(DOMAINS), prior=jnp.asarray(prior, jnp.float32))
    np.testing.assert_allclose(state.weights, prior, rtol=1e-6)
    _, state = sampler.sample(state)
    rows = Rows(jnp.array([1, 5, 2, 99]), jnp.full(4, 0.25))  # two of domain 0, one of domain 1, one of another sampler
    moved = sampler.update(state, rows, losses=jnp.array([1.0, 3.0, 7.0, 9.0]))
    expected = prior * [2, 7, 1]
    np.testing.assert_allclose(moved.weights, expected / expected.sum(), rtol=1e-6)
    assert int(moved.ignored) == 1
    spoilt = sampler.update(state, rows, losses=jnp.array([jnp.nan, 3.0, jnp.inf, 9.0]))
    expected = prior * [3, 1, 1]
    np.testing.assert_allclose(spoilt.weights, expected / expected.sum(), rtol=1e-6)
    assert int(spoilt.ignored) == 3
    lost = sampler.update(moved, rows, losses=jnp.full(4, jnp.nan))
    np.testing.assert_array_equal(lost.weights, moved.weights)
    given = sampler.update(state, rows, domain_losses=jnp.array([1.0, 1.0, 5.0]), domain_counts=jnp.array([3, 3, 3]))
    np.testing.assert_allclose(given.weights, prior * [1, 1, 5] / 3.4, rtol=1e-6)


def test_the_mixture_of_a_run_is_that_of_its_transformation():
    tx = mix_by_odm("perplexity", decay=0.5)
    sampler = mixture(3, 6, tx)
    state = sampler.init(1, domains=jnp.asarray(DOMAINS))
    prior = jnp.asarray(np.bincount(DOMAINS) / 12, jnp.float32)
    sample, update = jax.jit(sampler.sample), jax.jit(sampler.update)
    tx_state, expected, rng = tx.init(prior), np.asarray(prior), np.random.default_rng(0)
    for _ in range(8):
        np.testing.assert_allclose(state.weights, expected, rtol=1e-5)
        rows, state = sample(state)
        losses = rng.gamma(2.0, size=6).astype(np.float32)
        state = update(state, rows, losses=jnp.asarray(losses))
        own = DOMAINS[np.asarray(rows.indices)]
        counts = np.bincount(own, minlength=3)
        means = np.bincount(own, losses, minlength=3) / np.maximum(counts, 1)
        signals = {"domain_losses": jnp.asarray(means, jnp.float32), "domain_counts": jnp.asarray(counts, jnp.int32)}
        moved, tx_state = tx.update(prior, tx_state, **signals)
        expected = np.asarray(moved)
    assert not np.allclose(expected, prior, atol=0.05)


def test_a_domain_without_rows_has_weight_zero_if_labels_are_traced():
    sampler = mixture(4, 6, jnp.full(4, 0.25))
    domains = jnp.asarray(np.where(DOMAINS == 1, 3, np.where(DOMAINS == 0, -1, DOMAINS)))
    state = jax.jit(sampler.init)(0, domains=domains)
    np.testing.assert_allclose(state.weights, [0, 0, 0.5, 0.5])
    rows, _ = jax.jit(sampler.sample)(state)
    assert Counter(np.asarray(domains)[np.asarray(rows.indices)].tolist()) == {2: 3, 3: 3}


make: Any = mixture
FIXED = make(3, 4, P)
BAD_INPUT = [
    (lambda: make(0, 4, P), "num_domains is 0, wanted at least 1."),
    (lambda: make(3, 4, jnp.ones(2) / 2), "mix has shape [2], wanted [3]."),
    (lambda: make(3, 4, P * 2), "mix has the sum 2, wanted 1."),
    (lambda: make(3, 4, P - 0.4), "mix has a negative or non-finite entry, wanted finite numbers >= 0."),
    (lambda: make(3, 4, P, draw="all"), "draw is 'all', wanted one of 'systematic', 'multinomial'."),
    (lambda: make(3, 4, P, block_size=3), "block_size is 3, wanted a divisor of 4 (the rows of a batch)."),
    (lambda: make(3, 4, P, reweigh=1), "reweigh is 1, wanted a bool."),
    (
        lambda: make(3, 4, "odm"),
        "mix is 'odm', wanted a weight transformation over domains, a function of the step or an array [K].",
    ),
    (
        lambda: (s := make(3, 4, mix_by_temperature)).sample(s.init(0, domains=jnp.asarray(DOMAINS))),
        "mix is mix_by_temperature, wanted what a factory returns: mix_by_temperature(), not mix_by_temperature.",
    ),
    (
        lambda: (s := make(3, 4, lambda step: jnp.ones(2))).sample(s.init(0, domains=jnp.asarray(DOMAINS))),
        "mix(step) has shape [2], wanted [3].",
    ),
    (
        lambda: FIXED.init(0, domains=jnp.array([0, 0, 2, 2])),
        "domains has no row of [1], wanted one of each at least.",
    ),
    (
        lambda: FIXED.init(0, domains=jnp.array([0, 1, 2])),
        "batch_size is 4, wanted at most 3 (the number of examples).",
    ),
    (
        lambda: FIXED.init(0, domains=jnp.asarray(DOMAINS), prior=jnp.ones(3)),
        "prior has the sum 3, wanted 1.",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_INPUT, ids=[row[1][:40] for row in BAD_INPUT])
def test_bad_input_is_named(call, message):
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert str(error.value) == message
