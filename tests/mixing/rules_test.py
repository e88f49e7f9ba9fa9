"""Every online rule against a reference in NumPy, and the laws that all of them share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mixing

DOMAINS, STEPS = 5, 40
GRAPH = np.random.default_rng(8).uniform(0, 1, (DOMAINS, DOMAINS)).astype(np.float32)
GRAPH3 = np.ascontiguousarray(GRAPH[:, :3])


class Rule(NamedTuple):
    make: Callable[[], Any]
    reference: Callable[..., Any]  # (prior [K], signals: a list of dicts) -> mixtures [T, K]
    signals: Callable[[np.random.Generator], dict[str, np.ndarray]]


def drawn(rng):
    """Losses of which some are missing and some not finite."""
    counts = rng.integers(0, 3, (STEPS, DOMAINS)).astype(np.int32)
    losses = rng.gamma(2.0, size=(STEPS, DOMAINS)).astype(np.float32)
    losses[5, 1], losses[6, 2], counts[0] = np.nan, np.inf, 1
    return {"domain_losses": losses, "domain_counts": counts}


def aligned(rng):
    found = rng.normal(size=(STEPS, DOMAINS)).astype(np.float32)
    found[5, 1] = np.nan
    return {"domain_alignments": found}


def evaluated(rng):
    losses = rng.gamma(2.0, size=(STEPS, 3)).astype(np.float32)
    losses[3], losses[7, 1] = np.nan, np.inf
    return {"target_losses": losses}


def news(signals):
    """Iterate over (domain, loss) of each step, as a training loop would report them."""
    for losses, counts in zip(signals["domain_losses"], signals["domain_counts"]):
        yield [(k, float(losses[k])) for k in range(len(losses)) if counts[k] and np.isfinite(losses[k])]


def rate(domains, step, floor=0.0):
    return 1 / domains if step == 0 else min(1 / domains, max(math.sqrt(math.log(domains) / domains / step), floor))


def odm_reference(rewards, decay=0.9, scale=1.0, floor=0.0, warmup=0):
    def run(prior, signals):
        count, mixture = len(prior), list(map(float, prior))
        estimate = [0.0] * count
        for step, losses in enumerate(news(signals), start=1):
            if step > warmup:
                for k, loss in losses:
                    if rewards.startswith("perplexity"):
                        estimate[k] = decay * estimate[k] + (1 - decay) * math.exp(scale * loss)
                    elif rewards == "averaged":
                        estimate[k] = decay * estimate[k] + (1 - decay) * scale * loss / mixture[k]
                    else:
                        estimate[k] += scale * loss / mixture[k]
                now, before = rate(count, step, floor), rate(count, step - 1, floor)
                powers = estimate if rewards == "perplexity" else [math.exp(before * r) for r in estimate]
                mixture = [(1 - count * now) * power / sum(powers) + now for power in powers]
            yield mixture

    return run


def multiplicative(scores, step_size, smoothing):
    """Weights times a factor at each step, without logarithms."""

    def run(prior, signals):
        weights = np.asarray(prior, np.float64)
        for score in scores(signals, len(prior)):
            weights = weights * np.exp(step_size * score)
            weights = (1 - smoothing) * weights / weights.sum() + smoothing / len(prior)
            yield weights

    return run


def last_known(signals, count, initial=0.3):
    excess = np.full(count, initial)
    for losses in news(signals):
        for k, loss in losses:
            excess[k] = loss
        yield excess.copy()


def clipped(signals, count):
    for found in signals["domain_alignments"]:
        yield np.array([0.0 if math.isnan(a) else min(max(float(a), 0.0), 1.5) for a in found])


def skills_reference(graph, step_size, window, relative=False, growing=False, targets=False):
    def run(prior, signals):
        if targets:
            steps = [[(m, x) for m, x in enumerate(row) if np.isfinite(x)] for row in signals["target_losses"]]
        else:
            steps = list(news(signals))
        teaches = graph[: len(prior), : len(prior)] if not targets else graph[: len(prior)]
        history = [[] for _ in teaches[0]]
        for losses in steps:
            for m, loss in losses:
                history[m].append(loss)
            sums = [sum(seen[-window:]) / (seen[0] if relative else 1) if seen else 0.0 for seen in history]
            seen = [h for h in history if h]
            step = step_size * (sum(h[0] for h in seen) / sum(h[-1] for h in seen) if growing and seen else 1)
            weights = np.asarray(prior, np.float64) * np.exp(step * (teaches.astype(np.float64) @ sums))
            yield weights / weights.sum()

    return run


def odm(rewards, **options):
    return lambda: mixing.mix_by_odm(rewards, **options)


RULES = {
    "odm averaged": Rule(odm("averaged"), odm_reference("averaged"), drawn),
    "odm averaged, kept alive": Rule(
        odm("averaged", decay=0.7, loss_scale=15.0, floor=0.03),
        odm_reference("averaged", 0.7, 15.0, 0.03),
        drawn,
    ),
    "odm perplexity": Rule(
        odm("perplexity", decay=0.5, warmup_steps=3), odm_reference("perplexity", 0.5, warmup=3), drawn
    ),
    "odm perplexity, softmax": Rule(odm("perplexity_softmax"), odm_reference("perplexity_softmax"), drawn),
    "odm cumulative": Rule(odm("cumulative", loss_scale=0.1), odm_reference("cumulative", scale=0.1), drawn),
    "doremi": Rule(
        lambda: mixing.mix_by_doremi(0.2, smoothing=0.01, initial_excess=0.3),
        multiplicative(last_known, 0.2, 0.01),
        drawn,
    ),
    "doge": Rule(
        lambda: mixing.mix_by_doge(0.01, mu=0.05, bounds=(0.0, 1.5), smoothing=0.001),
        multiplicative(clipped, 0.2, 0.001),
        aligned,
    ),
    "skills": Rule(lambda: mixing.mix_by_skills(GRAPH, 0.2), skills_reference(GRAPH, 0.2, 3), drawn),
    "skills, relative and growing": Rule(
        lambda: mixing.mix_by_skills(GRAPH, 0.2, window=2, relative_losses=True, growing_step=True),
        skills_reference(GRAPH, 0.2, 2, relative=True, growing=True),
        drawn,
    ),
    "skills of targets": Rule(
        lambda: mixing.mix_by_skills(GRAPH3, 0.2, losses="targets"),
        skills_reference(GRAPH3, 0.2, 3, targets=True),
        evaluated,
    ),
}
each_rule = pytest.mark.parametrize("name", RULES)
PRIOR = np.array([0.1, 0.3, 0.2, 0.25, 0.15], np.float32)
PROGRAMS = {}


def run(name, prior, signals):
    """Return the mixtures of all steps and the last state; one program for each rule."""
    if name not in PROGRAMS:
        tx = RULES[name].make()

        def mix(prior, signals):
            def step(state, now):
                mixture, state = tx.update(prior, state, **now)
                return state, mixture

            state, mixtures = jax.lax.scan(step, tx.init(prior), signals)
            return mixtures, state

        PROGRAMS[name] = jax.jit(mix)
    return jax.device_get(PROGRAMS[name](jnp.asarray(prior), jax.tree.map(jnp.asarray, signals)))


def made(name, seed=0):
    return RULES[name].signals(np.random.default_rng(seed))


@each_rule
def test_a_rule_equals_its_reference(name):
    signals = made(name)
    mixtures, _ = run(name, PRIOR, signals)
    expected = np.array(list(RULES[name].reference(PRIOR, signals)))
    np.testing.assert_allclose(mixtures, expected, rtol=2e-4)
    assert np.ptp(expected[-1]) > 0.02


@each_rule
def test_a_domain_of_weight_zero_is_as_if_it_was_not_there(name):
    signals = made(name, 1)
    mixtures, _ = run(name, np.append(PRIOR[:4], 0).astype(np.float32), signals)
    left = {k: v if k == "target_losses" else v[:, :4] for k, v in signals.items()}
    # the last domain leaves a mixture of sum 0.85, and its losses count nowhere
    expected = np.array(list(RULES[name].reference(PRIOR[:4] / PRIOR[:4].sum(), left))) * PRIOR[:4].sum()
    np.testing.assert_allclose(mixtures[:, :4], expected, rtol=2e-4)
    np.testing.assert_array_equal(mixtures[:, 4], 0)


@each_rule
def test_the_mixture_keeps_its_sum_and_survives_any_loss(name):
    signals = made(name, 2)
    for value in signals.values():
        if value.dtype == np.float32:
            value[10:20, 0], value[20, :2], value[25] = 3e38, -3e38, np.nan
    mixtures, state = run(name, PRIOR, signals)
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, rtol=1e-5)
    assert np.all(mixtures >= 0)
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", [n for n in RULES if not n.startswith("skills")])
def test_a_rule_follows_a_permutation_of_the_domains(name):
    order = np.array([3, 0, 4, 1, 2])
    signals = made(name, 3)
    mixtures, _ = run(name, PRIOR, signals)
    permuted, _ = run(name, PRIOR[order], {k: v[:, order] for k, v in signals.items()})
    np.testing.assert_allclose(permuted, mixtures[:, order], rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in RULES if n.startswith("odm")])
def test_every_domain_keeps_the_rate_of_exploration(name):
    mixtures, _ = run(name, PRIOR, made(name, 4))
    floor = 0.03 if "alive" in name else 0.0
    rates = np.array([rate(DOMAINS, step, floor) for step in range(4, STEPS + 1)])
    assert np.all(mixtures[3:].min(axis=1) >= rates * (1 - 1e-5))


@pytest.mark.parametrize("name", ["doremi", "doge"])
def test_the_state_holds_the_mean_of_the_mixtures(name):
    mixtures, state = run(name, PRIOR, made(name))
    np.testing.assert_allclose(state.mean_mixture, mixtures.mean(axis=0), rtol=1e-5)


def test_a_transformation_before_the_rule_in_a_chain_gives_it_its_prior():
    signals = {k: jnp.asarray(v) for k, v in made("doremi").items()}
    now = {k: v[0] for k, v in signals.items()}
    rule, temper = mixing.mix_by_doremi(0.5), mixing.mix_by_temperature(3.0)
    chain, prior = optax.chain(temper, rule), jnp.asarray(PRIOR)
    found, _ = chain.update(prior, chain.init(prior), **now)
    expected, _ = rule.update(mixing.temperature_mixture(PRIOR, 3.0), rule.init(prior), **now)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


ONE = {
    "odm averaged": (odm("averaged"), 2),
    "odm perplexity": (odm("perplexity"), 2),
    "odm cumulative": (odm("cumulative"), 2),
    "doremi": (mixing.mix_by_doremi, 2),
    "doge": (lambda: mixing.mix_by_doge(0.1), 1),
    "skills": (lambda: mixing.mix_by_skills(jnp.ones((1, 1)), 1.0), 2),
    "temperature": (lambda: mixing.mix_by_temperature(3.0), 0),
}


@pytest.mark.parametrize("name", ONE)
def test_one_domain_has_all_the_weight(name):
    make, kinds = ONE[name]
    one = jnp.ones(1)
    signals = [{}, {"domain_alignments": one}, {"domain_losses": 2 * one, "domain_counts": jnp.array([4])}][kinds]
    tx = make()
    mixture, state = tx.update(one, tx.init(one), **signals)
    mixture, _ = tx.update(one, state, **signals)
    np.testing.assert_allclose(mixture, [1.0], rtol=1e-6)
