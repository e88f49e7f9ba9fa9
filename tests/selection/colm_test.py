import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial.distance

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_colm": Case(
        lambda: selection.keep_by_colm(6, 3, keep_domains=(2,), num_features=3, num_coordinates=2),
        draws.mixed,
        draws.uneven,
        tolerance=1e-6,
    ),
}


B, D = 16, 3


def f32(x):
    return jnp.asarray(x, jnp.float32)


def budgets_by_loop(counts, budget):
    if not sum(counts):
        return [0] * len(counts)
    shares = [c * budget // sum(counts) for c in counts]
    while sum(shares) < budget:
        open_ = [
            i for i in range(len(counts)) if counts[i] > shares[i] and shares[i] == counts[i] * budget // sum(counts)
        ]
        shares[min(open_, key=lambda i: counts[i])] += 1
    return shares


def test_budgets_sum_exactly_and_favor_small_sources():
    rng = np.random.default_rng(0)
    budgets = jax.jit(selection.domain_budgets)
    for _ in range(40):
        counts = rng.integers(0, 30, 5) * (rng.uniform(size=5) < 0.8)
        counts[0] += 1
        for budget in rng.integers(0, counts.sum() + 1, 3):
            actual = budgets(jnp.asarray(counts), jnp.asarray(budget))
            assert actual.tolist() == budgets_by_loop(counts.tolist(), int(budget))
            assert actual.sum() == budget and np.all(actual <= counts)


def expected_choice(features, domains, exists, k, keep):
    """Whole sources first; then greedy by the definition in each source alone, with its budget."""
    whole = np.flatnonzero(exists & np.isin(domains, keep))[:k]
    rest = exists & ~np.isin(domains, keep)
    counts = [int((rest & (domains == d)).sum()) for d in range(3)]
    chosen = list(whole)
    for d, budget in enumerate(budgets_by_loop(counts, min(k - len(whole), sum(counts)))):
        rows = np.flatnonzero(rest & (domains == d))
        if not budget:
            continue
        s, picked = 1000 - scipy.spatial.distance.cdist(features[rows], features[rows], "cityblock"), []
        for _ in range(budget):
            left = [j for j in range(len(rows)) if j not in picked]
            picked.append(max(left, key=lambda j: s[:, [*picked, j]].max(1).sum()))
        chosen += list(rows[picked])
    return sorted(chosen)


@pytest.mark.parametrize("keep", [(), (2,), (0, 1)])
def test_keeps_small_sources_whole_and_medoids_of_the_others(keep):
    tx = selection.keep_by_colm(6, 3, keep_domains=keep)
    update = jax.jit(lambda w, f, d: tx.update(w, (), features=f, domains=d)[0])
    weighted = selection.keep_by_colm(6, 3, keep_domains=keep, weighting="represented")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        features, domains = rng.normal(size=(B, D)), rng.choice(3, B, p=[0.5, 0.35, 0.15])
        exists = np.arange(B) % 6 != 4
        kept = update(f32(exists), f32(features), jnp.asarray(domains))
        assert np.flatnonzero(kept).tolist() == expected_choice(features, domains, exists, 6, keep)
        assert set(np.unique(kept)) == {0, 1}
    moved = weighted.update(f32(exists), (), features=f32(features), domains=jnp.asarray(domains))[0]
    np.testing.assert_array_equal(moved > 0, kept > 0)
    if len(np.unique(domains[np.flatnonzero(kept)])) == 3:
        np.testing.assert_allclose(moved.sum(), exists.sum() if len(keep) < 2 else moved.sum(), rtol=1e-5)


def test_zeroth_order_estimates_approach_the_gradient():
    rng = np.random.default_rng(0)
    x, y, w = f32(rng.normal(size=(4, 8))), f32(rng.normal(size=4)), f32(rng.normal(size=8))
    loss = lambda w: jnp.logaddexp(0, x @ w) + 0.1 * y * (x @ w) ** 2  # noqa: E731
    probes = jax.random.normal(jax.random.key(0), (400, 8))
    plus, minus = (jax.vmap(lambda z: loss(w + s * 1e-2 * z))(probes) for s in (1, -1))  # noqa: B023
    scale = selection.zeroth_order_scale(plus.T, minus.T, 1e-2)
    estimate, exact = np.asarray(scale @ probes / 400), np.asarray(jax.jacobian(loss)(w))
    cosine = np.sum(estimate * exact, 1) / np.linalg.norm(estimate, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.9


def test_features_are_the_updates_of_optax_adam():
    rng = np.random.default_rng(1)
    gradients, mean, variance = rng.normal(size=(4, D)), rng.normal(size=D), rng.gamma(1, size=D)
    adam = optax.scale_by_adam(b1=0.8, b2=0.95, eps=1e-6)
    state = optax.ScaleByAdamState(jnp.asarray(7, jnp.int32), f32(mean), f32(variance))
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(lambda g: adam.update(g, state)[0])(f32(gradients))
    actual = selection.adam_features(
        f32(gradients), f32(mean), f32(variance), jnp.asarray(7), b1=0.8, b2=0.95, eps=1e-6
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_coordinates_are_the_largest_means_of_each_source():
    rng = np.random.default_rng(2)
    features, domains = rng.normal(size=(B, 7)), rng.integers(0, 3, B)
    actual = selection.colm.largest_features_by_domain(f32(features), jnp.asarray(domains), 3, 4)
    for d in range(3):
        rows = domains == d
        best = np.argsort(-np.abs(features[rows].mean(0)), kind="stable")[:4]
        np.testing.assert_allclose(actual[rows], features[rows][:, best], rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="keep_domains is 3"):
        selection.keep_by_colm(2, 3, keep_domains=(3,))
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        tx = selection.keep_by_colm(4, 2)
        tx.update(jnp.ones(3), (), features=jnp.ones((3, 1)), domains=jnp.zeros(3, int))
    with pytest.raises(TypeError, match="counts has dtype float32"):
        selection.domain_budgets(jnp.ones(3), 1)
    with pytest.raises(ValueError, match="losses_minus has shape"):
        selection.zeroth_order_scale(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ValueError, match="size is 4, wanted at most 3"):
        selection.colm.largest_features_by_domain(jnp.ones((2, 3)), jnp.zeros(2, int), 1, 4)
