import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws as drawn

CASES = {
    "keep_diverse": Case(lambda: selection.keep_diverse(4, key=0, bandwidth=1.0), drawn.features),
}


T, K = 6, 3
SETS = list(itertools.combinations(range(T), K))
kdpp = jax.jit(selection.kdpp_indices, static_argnames="k")


def kernel(seed=0, rank=T):
    factors = np.random.default_rng(seed).normal(size=(T, rank)) * np.linspace(0.5, 1.5, T)[:, None]
    return factors @ factors.T


def law(k):
    """Probability of each set by its determinant."""
    volumes = np.array([np.linalg.det(k[np.ix_(s, s)]) for s in SETS])
    return volumes / volumes.sum()


def member(s):
    return np.isin(np.arange(T), s)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_symmetric_sums_are_polynomial_coefficients_and_do_not_overflow():
    values = np.random.default_rng(0).gamma(1.0, size=7)
    actual = selection.dpp.log_symmetric_sums(f32(np.log(values)), 7)[-1]
    np.testing.assert_allclose(np.exp(actual), np.poly(-values), rtol=1e-4)
    many = jax.jit(lambda x: selection.dpp.log_symmetric_sums(x, 50)[-1, -1])(jnp.full(300, 5.0))
    np.testing.assert_allclose(many, 50 * 5 + np.log(scipy.special.comb(300, 50)), rtol=1e-5)


@pytest.mark.parametrize("rank", [T, K])
def test_draws_follow_the_determinants(rank):
    k, draws = kernel(rank=rank), 20_000
    drawn = np.sort(jax.vmap(lambda key: kdpp(key, f32(k), K))(jax.random.split(jax.random.key(0), draws)), 1)
    counts = np.array([np.sum((drawn == s).all(1)) for s in SETS])
    assert counts.sum() == draws
    expected = draws * law(k)
    likely = expected > 5
    assert counts[~likely].sum() < 40
    observed = np.append(counts[likely], counts[~likely].sum() + 1e-9)
    wanted = np.append(expected[likely], expected[~likely].sum() + 1e-9)
    assert scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_inclusion_is_what_enumeration_gives_and_a_derivative():
    k = kernel(1)
    expected = sum(p * member(s) for p, s in zip(law(k), SETS))
    actual = selection.kdpp_inclusion(f32(k), K)
    np.testing.assert_allclose(actual, expected, rtol=1e-3)
    np.testing.assert_allclose(actual.sum(), K, rtol=1e-4)

    def log_normalizer(theta):
        scale = jnp.exp(theta / 2)
        values = jnp.linalg.eigvalsh(f32(k) * scale[:, None] * scale[None])
        return jnp.log(jnp.sum(jnp.prod(values[jnp.asarray(SETS)], 1)))

    np.testing.assert_allclose(actual, jax.grad(log_normalizer)(jnp.zeros(T)), rtol=1e-3)


def test_map_is_greedy_by_determinants():
    for seed in range(5):
        k, chosen = kernel(seed), []
        for _ in range(4):
            rest = [i for i in range(T) if i not in chosen]
            chosen.append(max(rest, key=lambda i: np.linalg.det(k[np.ix_([*chosen, i], [*chosen, i])])))
        assert selection.dpp_map_indices(f32(k), 4).tolist() == chosen


def test_items_that_do_not_exist_and_ranks_that_run_out():
    k, exists = kernel(2), np.arange(T) != 2
    spoilt = np.where(exists[:, None] & exists, k, np.nan)
    part = jax.jit(lambda k: selection.kdpp_inclusion(k, K))(f32(k[np.ix_(exists, exists)]))
    for bad, where in ((spoilt, None), (k, jnp.asarray(exists))):
        spared = jax.jit(lambda k, w: selection.kdpp_inclusion(k, K, where=w))(f32(bad), where)
        np.testing.assert_allclose(np.asarray(spared)[exists], part, rtol=1e-3)
        assert 2 not in kdpp(jax.random.key(0), f32(bad), K, where=where)
        assert 2 not in jax.jit(lambda k, w: selection.dpp_map_indices(k, 5, where=w))(f32(bad), where)
    assert kdpp(jax.random.key(0), f32(kernel(rank=2)), 4).tolist().count(T) == 2
    inclusion = jax.jit(lambda k: selection.kdpp_inclusion(k, 4))(f32(kernel(rank=2)))
    np.testing.assert_allclose(np.sum(inclusion), 2, rtol=1e-4)
    map_indices = jax.jit(lambda k: selection.dpp_map_indices(k, 4, where=jnp.arange(T) < 3))
    assert map_indices(f32(k)).tolist().count(T) == 1


@pytest.mark.parametrize("bandwidth", [None, 1.5])
def test_kernel_of_features(bandwidth):
    x = np.random.default_rng(0).normal(size=(5, 3))
    distances = ((x[:, None] - x) ** 2).sum(-1)
    expected = x @ x.T if bandwidth is None else np.exp(-distances / (2 * bandwidth**2))
    np.testing.assert_allclose(selection.dpp.feature_kernel(f32(x), bandwidth), expected, atol=1e-5)


def test_unbiased_weights_have_the_incoming_ones_as_mean():
    features = np.random.default_rng(3).normal(size=(T, 2))
    weights, draws = np.linspace(0.5, 1.5, T), 4000
    tx = selection.keep_diverse(K, 0, bandwidth=1.0, weighting="unbiased")

    def one(key):
        return tx.update(f32(weights), tx.init(f32(weights))._replace(rng_key=key), features=f32(features))[0]

    kept = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws)), float)
    assert np.all(np.abs(kept.mean(0) - weights) < 5 * kept.std(0) / np.sqrt(draws))
    assert np.all((kept > 0).sum(1) == K)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="kernel has shape"):
        selection.kdpp_inclusion(jnp.ones((3, 2)), 1)
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        selection.dpp_map_indices(jnp.eye(3), 4)
    with pytest.raises(ValueError, match="weighting is 'ht'"):
        selection.keep_diverse(1, 0, weighting="ht")
    with pytest.raises(ValueError, match="bandwidth is 0"):
        selection.keep_diverse(1, 0, bandwidth=0)
    with pytest.raises(TypeError, match="kernel has dtype int32"):
        selection.kdpp_indices(jax.random.key(0), jnp.eye(3, dtype=int), 1)


@pytest.mark.parametrize("size", [9, 20, 60])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_kernel_of_low_rank_gives_as_many_items_as_its_rank(size, rank):
    for seed in range(5):
        k = f32(np.random.default_rng(seed).normal(size=(size, rank)))
        drawn = kdpp(jax.random.key(seed), k @ k.T, 8)
        assert int(np.sum(drawn < size)) == rank and len(set(drawn.tolist())) == rank + 1
        np.testing.assert_allclose(selection.kdpp_inclusion(k @ k.T, 8).sum(), rank, rtol=1e-4)


def test_a_tpu_finds_eigenvalues_by_one_operation_whatever_the_size():
    draw = jax.jit(lambda kernel: selection.kdpp_indices(0, kernel, 4)).trace(
        jax.ShapeDtypeStruct((300, 300), jnp.float32)
    )
    text = draw.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@Eigh") == 1


def test_a_key_may_be_a_seed():
    kernel = jnp.eye(9)
    assert jnp.array_equal(selection.kdpp_indices(3, kernel, 4), selection.kdpp_indices(jax.random.key(3), kernel, 4))
    counts = [selection.importance_counts(key, jnp.ones(9) / 9, 4) for key in (3, jax.random.key(3))]
    assert jnp.array_equal(*counts)
