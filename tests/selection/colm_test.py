import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial.distance
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, selection
from minibatch_jax.testing import check_transformation, draw
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


def estimates(seed):
    """Gradients of a mixture in which sources differ, with one row that is not finite and one of weight 0."""
    rng = np.random.default_rng(seed)
    domains = rng.choice(3, B, p=[0.5, 0.35, 0.15])
    gradients = rng.normal(size=(B, 5)) + domains[:, None] * np.arange(5) / 4
    gradients[3] = np.nan
    return gradients.astype(np.float32), domains, (np.arange(B) != 5).astype(np.float32)


def test_moments_are_those_of_the_medoids_that_were_kept():
    """Ten steps against numpy. They start warm: Adam's first updates are signs, which tie."""
    tx = selection.keep_by_colm(6, 3, keep_domains=(2,), num_features=5, num_coordinates=3, b2=0.9)
    update = jax.jit(lambda w, state, f, d: tx.update(w, state, features=f, domains=d))
    rng = np.random.default_rng(3)
    m, v, count = rng.normal(size=5), rng.gamma(2.0, size=5), 4
    state = selection.colm.Moments(f32(m), f32(v), jnp.asarray(count, jnp.int32))
    for seed in range(10):
        gradients, domains, weights = estimates(seed)
        exists = (weights > 0) & (np.arange(B) != 3)
        means, variances = 0.9 * m + 0.1 * gradients, 0.9 * v + 0.1 * gradients**2
        updates = means / (1 - 0.9 ** (count + 1)) / (np.sqrt(variances / (1 - 0.9 ** (count + 1))) + 1e-8)
        compared = np.zeros((B, 3))
        for d in range(3):
            rows = np.flatnonzero(exists & (domains == d))
            if len(rows):
                best = np.argsort(-np.abs(updates[rows].mean(0)), kind="stable")[:3]
                compared[rows] = updates[rows][:, best]
        kept, state = update(f32(weights), state, f32(gradients), jnp.asarray(domains))
        assert np.flatnonzero(kept).tolist() == expected_choice(compared, domains, exists, 6, (2,))
        learned = np.asarray(kept > 0) & (domains != 2)
        m, v, count = means[learned].mean(0), variances[learned].mean(0), count + 1
        np.testing.assert_allclose(state.mean, m, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.variance, v, rtol=1e-4)
        assert int(state.updates) == count


def test_moments_stay_as_they_are_if_nothing_but_whole_sources_is_kept():
    tx = selection.keep_by_colm(6, 3, keep_domains=(0, 1, 2), num_features=5)
    gradients, domains, weights = estimates(0)
    start = tx.init(f32(weights))
    kept, state = tx.update(f32(weights), start, features=f32(gradients), domains=jnp.asarray(domains))
    assert np.count_nonzero(kept) == 6
    jax.tree.map(np.testing.assert_array_equal, state, start)


def test_given_moments_choose_what_own_moments_of_the_same_value_choose():
    """The optimizer's own moments come in the shape of the parameter."""
    own = selection.keep_by_colm(6, 3, keep_domains=(2,), num_features=6, num_coordinates=3)
    given = selection.keep_by_colm(6, 3, keep_domains=(2,), num_coordinates=3, moments="given")
    rng = np.random.default_rng(0)
    adam, parameter = optax.scale_by_adam(), f32(rng.normal(size=(2, 3)))
    with jax.numpy_dtype_promotion("standard"):
        state = adam.update(f32(rng.normal(size=(2, 3))), adam.init(parameter))[1]
    choices = set()
    for seed in range(5):
        signals = {"features": f32(np.random.default_rng(seed).normal(size=(B, 6))), "domains": jnp.arange(B) % 3}
        moments = state.mu, state.nu, state.count
        start = selection.colm.Moments(state.mu.reshape(-1), state.nu.reshape(-1), state.count)
        actual = given.update(f32(np.ones(B)), given.init(f32(np.ones(B))), **signals, moments=moments)[0]
        np.testing.assert_array_equal(actual, own.update(f32(np.ones(B)), start, **signals)[0])
        plain = own.update(f32(np.ones(B)), own.init(f32(np.ones(B))), **signals)[0]
        choices.add(bool(np.array_equal(actual, plain)))
    assert False in choices


def test_given_moments_are_the_same_on_every_device():
    tx = selection.keep_by_colm(6, 3, keep_domains=(2,), moments="given")
    weights, signals = draw(CASES["keep_by_colm"])
    moments = jnp.ones(3), jnp.full(3, 2.0), jnp.asarray(4, jnp.int32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def select(weights, signals, moments):
        spread = across("data", tx)
        return spread.update(weights, spread.init(weights), **signals, moments=moments)[0]

    sharded = jax.shard_map(select, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P("data"))
    expected = tx.update(weights, tx.init(weights), **signals, moments=moments)[0]
    np.testing.assert_array_equal(jax.jit(sharded)(weights, signals, moments), expected)


def test_features_as_they_come_keep_the_law_too():
    check_transformation(
        lambda: selection.keep_by_colm(6, 3, keep_domains=(2,), weighting="represented"),
        draws.mixed,
        weights=draws.uneven,
        tolerance=1e-6,
    )


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
    with pytest.raises(ValueError, match="num_features is 3 with moments='given'"):
        selection.keep_by_colm(2, 3, num_features=3, moments="given")
    with pytest.raises(ValueError, match="b1 is 1.5, wanted a number in"):
        selection.keep_by_colm(2, 3, b1=1.5)
    tx, signals = selection.keep_by_colm(2, 2, num_features=4), {"features": jnp.ones((3, 1))}
    with pytest.raises(ValueError, match=r"features has shape \[3, 1\], wanted \[3, 4\]"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), **signals, domains=jnp.zeros(3, int))
    tx = selection.keep_by_colm(2, 2, moments="given")
    with pytest.raises(TypeError, match="wanted 'moments'"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), **signals, domains=jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"moments, mean has shape \[2\], wanted \[1\]"):
        moments = jnp.ones(2), jnp.ones(2), 0
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), **signals, domains=jnp.zeros(3, int), moments=moments)
    with pytest.raises(ValueError, match="size is 4, wanted at most 3"):
        selection.colm.largest_features_by_domain(jnp.ones((2, 3)), jnp.zeros(2, int), 1, 4)
