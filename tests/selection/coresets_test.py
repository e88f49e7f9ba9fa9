import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance

from minibatch_jax import selection
from minibatch_jax.selection import facility_location, facility_location_from_features, keep_medoids, medoid_weights
from tests.case import Case
from tests.selection import draws as drawn

CASES = {
    "keep_medoids": Case(
        lambda: selection.keep_medoids(4), drawn.features, drawn.uneven, lowers_mass=False, tolerance=1e-6
    ),
}


N, M, K = 10, 12, 4


def value(s, chosen, u=None):
    """Sum over the rows of the best similarity, by definition."""
    total = 0.0
    for i, row in enumerate(s):
        total += (1.0 if u is None else u[i]) * max([0.0, *(row[j] for j in chosen)])
    return total


def greedy(s, k, u=None):
    chosen = []
    for _ in range(k):
        values = [-1.0 if j in chosen else value(s, [*chosen, j], u) for j in range(s.shape[1])]
        chosen.append(int(np.argmax(values)))
    return chosen


def instances(count, kind, seed=0, shape=(N, M)):
    rng = np.random.default_rng(seed)
    if kind == "ties":
        return rng.integers(0, 4, (count, *shape)).astype(np.float32)
    return rng.uniform(0, 1, (count, *shape)).astype(np.float32)


def run(s, method, k=K, **options):
    return jax.jit(jax.vmap(lambda x: facility_location(x.T, k, method=method, **options)))(jnp.asarray(s))


@pytest.mark.parametrize("kind", ["uniform", "ties"])
@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_chooses_what_a_loop_over_the_definition_chooses(method, kind):
    batch = instances(40, kind)
    medoids = run(batch, method)
    for s, indices, gains, owners in zip(batch, *medoids):
        assert indices.tolist() == greedy(s, K)
        values = [value(s, indices[:t]) for t in range(K + 1)]
        np.testing.assert_allclose(gains, np.diff(values), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(owners, np.argmax(s[:, indices], axis=1))


def test_item_weights_and_value():
    s, u = instances(1, "uniform", seed=1)[0], np.random.default_rng(0).integers(0, 3, N).astype(np.float32)
    for method in ("naive", "lazy"):
        medoids = facility_location(jnp.asarray(s.T), K, method=method, item_weights=jnp.asarray(u))
        assert medoids.indices.tolist() == greedy(s, K, u)
        mask = jnp.zeros(M, bool).at[medoids.indices].set(True)
        actual = selection.coresets.facility_location_value(jnp.asarray(s.T), mask, item_weights=jnp.asarray(u))
        np.testing.assert_allclose(actual, value(s, medoids.indices, u), rtol=1e-6)
        np.testing.assert_allclose(jnp.sum(medoids.gains), actual, rtol=1e-6)


def test_guarantee_by_enumeration():
    batch = instances(100, "uniform", shape=(10, 10))
    subsets = np.array(list(itertools.combinations(range(10), 3)))
    best = batch[:, :, subsets].max(-1).sum(1).max(-1)
    ratios = np.asarray(jnp.sum(run(batch, "naive", k=3).gains, 1)) / best
    assert ratios.min() > 0.9 and ratios.mean() > 0.98 and ratios.max() < 1 + 1e-6


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_guarantee_is_tight_on_max_coverage(k, method):
    """k optimal sets partition the ground; each decoy, listed first, covers 1/k of what is left of every one."""
    size = k**k
    optimal = np.repeat(np.arange(k), size)
    left, decoys = np.ones(k * size, bool), []
    for _ in range(k):
        decoy = np.zeros(k * size, bool)
        for o in range(k):
            members = np.flatnonzero(left & (optimal == o))
            decoy[members[: len(members) // k]] = True
        decoys.append(decoy)
        left &= ~decoy
    s = np.stack([*decoys, *(optimal == o for o in range(k))], 1).astype(np.float32)
    medoids = jax.jit(lambda s: facility_location(s, k, method=method))(s.T)
    assert medoids.indices.tolist() == list(range(k))
    np.testing.assert_allclose(np.sum(medoids.gains) / len(s), 1 - (1 - 1 / k) ** k, rtol=1e-6)


@pytest.mark.parametrize("method", ["naive", "lazy"])
@pytest.mark.parametrize(("items", "rows"), [(50, 37), (257, 113)])
def test_of_equal_candidates_the_first_is_chosen(items, rows, method):
    choose = jax.jit(lambda similarities: facility_location(similarities, 5, method=method).indices)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        kinds = rng.integers(0, 7, rows)
        chosen = np.asarray(choose(rng.random((7, items)).astype(np.float32)[kinds]))
        assert all(j == np.flatnonzero(kinds == kinds[j])[0] for j in chosen)


def test_columns_already_chosen_or_not_allowed():
    s = instances(1, "uniform", seed=2)[0]
    expected = greedy(s, 6)
    before = np.isin(np.arange(M), expected[:2])
    barred = np.isin(np.arange(M), expected[0])
    for method in ("naive", "lazy"):
        rest = facility_location(jnp.asarray(s.T), 4, method=method, chosen=jnp.asarray(before))
        assert rest.indices.tolist() == expected[2:]
        others = facility_location(jnp.asarray(s.T), 4, method=method, where=jnp.asarray(~barred)).indices
        kept = np.flatnonzero(~barred)
        assert others.tolist() == kept[greedy(s[:, kept], 4)].tolist()


@pytest.mark.parametrize("method", ["naive", "lazy", "stochastic"])
def test_no_column_left_is_one_past_the_end(method):
    s = jnp.asarray(instances(1, "uniform", seed=3)[0].T)
    medoids = facility_location(s, 5, method=method, where=jnp.arange(M) % 4 == 1, key=0)
    assert sorted(medoids.indices.tolist()) == [1, 5, 9, M, M]
    np.testing.assert_array_equal(medoids.gains[3:], 0)
    assert set(medoids.owners.tolist()) <= {0, 1, 2}


def test_entries_that_are_not_finite_or_negative_count_zero():
    s = instances(1, "uniform", seed=4)[0]
    zeroed, spoilt = s.copy(), s.copy()
    for fill in (np.nan, np.inf, -np.inf, -5.0):
        zeroed[2, 3] = zeroed[7, :] = 0
        spoilt[2, 3] = spoilt[7, :] = fill
        np.testing.assert_array_equal(*(facility_location(jnp.asarray(x.T), K).indices for x in (zeroed, spoilt)))


def test_stochastic_is_close_to_greedy_and_beats_random():
    s = scipy.spatial.distance.cdist(*[np.random.default_rng(0).normal(size=(60, 4))] * 2).astype(np.float32)
    s = np.max(s) - s
    exact = np.sum(jax.jit(lambda s: facility_location(s, 6).gains)(s))
    keys = jax.random.split(jax.random.key(0), 20)

    @jax.jit
    def stochastic(keys, s):
        draws = jax.vmap(lambda key: facility_location(s, 6, method="stochastic", key=key))(keys)
        masks = jax.vmap(lambda i: jnp.zeros(60, bool).at[i].set(True))(draws.indices)
        return draws, jax.vmap(lambda mask: selection.coresets.facility_location_value(s, mask))(masks)

    draws, values = stochastic(keys, s)
    assert all(len(set(indices.tolist())) == 6 for indices in draws.indices)
    np.testing.assert_allclose(np.sum(draws.gains, 1), values, rtol=1e-5)
    assert values.mean() > 0.98 * exact and values.min() > 0.95 * exact
    assert len({tuple(indices.tolist()) for indices in draws.indices}) > 1
    rough = jax.vmap(lambda key, s: facility_location(s, 6, method="stochastic", key=key, epsilon=0.9).gains, (0, None))
    assert np.sum(jax.jit(rough)(keys, s), 1).mean() < values.mean()


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "l1", "cosine"])
def test_similarities_are_scipys(metric):
    x = np.random.default_rng(0).normal(2.0, 1.0, (20, 5)).astype(np.float32)
    similarities = np.asarray(jax.jit(lambda x: selection.coresets.similarity_matrix(x, metric))(x))
    name = "cityblock" if metric == "l1" else metric
    distances = scipy.spatial.distance.cdist(x, x, name) / (2 if metric == "cosine" else 1)
    constant = 1.0 if metric == "cosine" else (similarities + distances).mean()
    np.testing.assert_allclose(similarities, constant - distances, rtol=2e-3, atol=2e-3)
    assert similarities.min() >= 0 and constant >= distances.max()


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "l1", "cosine"])
def test_features_give_what_the_matrix_gives(metric):
    x = jnp.asarray(np.random.default_rng(1).normal(1.0, 1.0, (40, 3)), jnp.float32)
    exists = jnp.arange(40) % 7 != 3
    u = jnp.where(exists, jnp.linspace(0.5, 2.0, 40), 0)

    @jax.jit
    def from_the_matrix(x):
        similarities = selection.coresets.similarity_matrix(x, metric, where=exists)
        return facility_location(similarities, 5, method="naive", item_weights=u, where=exists)

    dense = jax.tree.map(np.asarray, from_the_matrix(x))
    spoilt = jnp.where(exists[:, None], x, jnp.nan)
    for features, where in ((x, exists), (spoilt, None)):
        options = {"metric": metric, "item_weights": u, "where": where}
        lazy = jax.jit(lambda f: selection.facility_location_from_features(f, 5, **options))(features)  # noqa: B023
        np.testing.assert_array_equal(lazy.indices, dense.indices)
        np.testing.assert_array_equal(np.asarray(lazy.owners)[exists], dense.owners[exists])
        np.testing.assert_allclose(lazy.gains, dense.gains, rtol=1e-3, atol=1e-3)
    options = {"metric": metric, "method": "stochastic", "key": 0}
    drawn = jax.jit(lambda f: selection.facility_location_from_features(f, 5, **options))(spoilt)
    assert np.asarray(exists)[drawn.indices].all()


def test_weights_are_the_gradient_of_the_value_with_respect_to_an_offset_of_the_columns():
    s, u = instances(1, "uniform", seed=5)[0], np.random.default_rng(1).uniform(0.5, 1, N).astype(np.float32)
    medoids = facility_location(jnp.asarray(s.T), K, item_weights=jnp.asarray(u))

    def shifted(offset):
        return jnp.sum(jnp.asarray(u) * jnp.max(jnp.asarray(s)[:, medoids.indices] + offset[None], 1))

    weights = selection.medoid_weights(medoids, item_weights=jnp.asarray(u), own_self=False)
    np.testing.assert_allclose(weights, jax.grad(shifted)(jnp.zeros(K)), rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(weights), u.sum(), rtol=1e-6)


def test_a_repeated_medoid_owns_itself_if_asked():
    features = jnp.array([[0.0], [0.0], [5.0], [5.0]])
    medoids = selection.facility_location_from_features(features, 3)
    assert sorted(selection.medoid_weights(medoids).tolist()) == [1, 1, 2]
    assert sorted(selection.medoid_weights(medoids, own_self=False).tolist()) == [0, 2, 2]


@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_transformation_moves_the_mass_to_the_medoids(method):
    rng = np.random.default_rng(2)
    features = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    weights = jnp.asarray(rng.uniform(0.5, 1.5, 16), jnp.float32)
    run_tx = lambda **options: (  # noqa: E731
        selection.keep_medoids(4, method=method, **options).update(weights, (), features=features)[0]
    )
    kept, plain = run_tx(), run_tx(weighting="own")
    medoids = selection.facility_location_from_features(features, 4, item_weights=weights)
    chosen = np.isin(np.arange(16), medoids.indices)
    distances = scipy.spatial.distance.cdist(features, features[medoids.indices])
    expected = np.zeros(16)
    np.add.at(expected, np.asarray(medoids.indices)[distances.argmin(1)], weights)
    np.testing.assert_allclose(kept, expected, rtol=1e-5)
    np.testing.assert_array_equal(plain, np.where(chosen, weights, 0))


def test_bad_input_is_named():
    s = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="method is 'greedy'"):
        facility_location(s, 2, method="greedy")
    with pytest.raises(ValueError, match="method is 'naive', wanted one of 'lazy'"):
        selection.facility_location_from_features(s, 2, method="naive")
    with pytest.raises(ValueError, match="metric is 'dot'"):
        selection.keep_medoids(2, metric="dot")
    with pytest.raises(ValueError, match="k is 5, wanted at most 4"):
        facility_location(s, 5)
    with pytest.raises(TypeError, match="key is None"):
        facility_location(s, 2, method="stochastic")
    with pytest.raises(ValueError, match="item_weights has shape"):
        facility_location(s, 2, item_weights=jnp.ones(5))
    with pytest.raises(ValueError, match="chosen has shape"):
        facility_location(s, 2, chosen=jnp.ones(3, bool))
    with pytest.raises(TypeError, match="similarities has dtype int32"):
        facility_location(jnp.ones((3, 3), int), 2)
    with pytest.raises(ValueError, match="epsilon is 2"):
        facility_location(s, 2, method="stochastic", key=0, epsilon=2)


@pytest.mark.slow
def test_weighted_medoids_give_the_gradient_that_random_and_unweighted_ones_miss():
    """Digits, softmax regression in mid-training, last-layer gradients: squared error of a batch of 16 of 120."""
    datasets, linear_model = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.linear_model")
    x, y = datasets.load_digits(return_X_y=True)
    x = x / 16
    with warnings.catch_warnings(action="ignore"):
        model = linear_model.LogisticRegression(max_iter=5).fit(x[:200], y[:200])
    gradients = model.predict_proba(x) - np.eye(10)[y]
    rng = np.random.default_rng(0)
    errors = {"weighted": [], "unweighted": [], "random": []}
    tx = selection.keep_medoids(16, metric="euclidean")
    select = jax.jit(lambda z: tx.update(jnp.full(120, 1 / 120), (), features=z)[0])
    for _ in range(30):
        z = gradients[rng.choice(len(x), 120, replace=False)]
        kept = np.asarray(select(jnp.asarray(z, jnp.float32)))
        draws = {"weighted": kept, "unweighted": (kept > 0) / 16, "random": (rng.permutation(120) < 16) / 16}
        for name, w in draws.items():
            errors[name].append(np.sum((w @ z - z.mean(0)) ** 2))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["weighted"] < 0.5 * mean["random"], mean
    assert mean["weighted"] < 0.5 * mean["unweighted"], mean


def clusters_and_a_far_row(seed=0, far=1e5):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(6, 4)) * 5)[np.arange(120) % 6] + rng.normal(size=(120, 4)) * 0.1
    return np.concatenate([x, np.full((1, 4), far)]).astype(np.float32)


def powered_distances(x, metric):
    difference = x[:, None].astype(np.float64) - x[None]
    if metric == "l1":
        return np.abs(difference).sum(-1)
    return (difference**2).sum(-1) ** (1 if metric == "sqeuclidean" else 0.5)


def greedy_cost(distances, k):
    best = np.full(len(distances), distances.max())
    for _ in range(k):
        gains = np.maximum(best[None] - distances, 0).sum(1)
        best = np.minimum(best, distances[gains.argmax()])
    return best.sum()


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "l1"])
@pytest.mark.parametrize("method", ["lazy", "naive", "stochastic"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_one_far_row_does_not_blur_the_others(metric, method, offset):
    x = clusters_and_a_far_row() + np.float32(offset)
    if method == "naive":
        tx = keep_medoids(14, metric=metric, method="naive")
        weights = tx.update(jnp.ones(len(x)), tx.init(jnp.ones(len(x))), features=jnp.asarray(x))[0]
        indices = np.flatnonzero(weights)
    else:
        indices = facility_location_from_features(jnp.asarray(x), 14, metric=metric, method=method, key=0).indices
    distances = powered_distances(x, metric)
    cost = distances[np.asarray(indices)].min(0).sum()
    assert cost < 1.2 * greedy_cost(distances, 14)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "l1"])
@pytest.mark.parametrize("absent", [np.nan, np.inf, 1e21])
def test_a_row_whose_square_overflows_is_absent_and_told(metric, absent):
    x = clusters_and_a_far_row(far=absent)
    found = facility_location_from_features(jnp.asarray(x), 7, metric=metric)
    alone = facility_location_from_features(jnp.asarray(x[:-1]), 7, metric=metric)
    np.testing.assert_array_equal(found.indices, alone.indices)
    np.testing.assert_array_equal(found.owners, np.append(alone.owners, 7))
    assert medoid_weights(found).sum() == len(x) - 1
    tx = keep_medoids(7, metric=metric)
    weights = tx.update(jnp.ones(len(x)), tx.init(jnp.ones(len(x))), features=jnp.asarray(x))[0]
    assert weights[-1] == 0 and weights.sum() == len(x) - 1
