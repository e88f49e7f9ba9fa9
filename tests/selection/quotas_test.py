import itertools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws


def grouped(rng):
    return {"domains": draws.mixed(rng)["domains"]}


CASES = {
    "keep_by_quota": Case(lambda: selection.keep_by_quota(6, 3, key=0), grouped),
    "keep_by_quota, represented": Case(
        lambda: selection.keep_by_quota(6, 3, key=0, by="proportional", weighting="represented"),
        grouped,
        draws.uneven,
        lowers_mass=None,
        tolerance=1e-5,
    ),
}


def filled(sizes, shares, total):
    """Water-filling in exact fractions: freeze what is exhausted, divide again, give the rows left by fraction."""
    total = min(total, sum(sizes))
    shares = [Fraction(share) if size else Fraction(0) for share, size in zip(shares, sizes)]
    frozen = {}
    while True:
        rest = sum(share for k, share in enumerate(shares) if k not in frozen)
        left = total - sum(frozen.values())
        exact = {k: left * share / rest for k, share in enumerate(shares) if k not in frozen and rest}
        full = {k: sizes[k] for k, value in exact.items() if value >= sizes[k]}
        if not full:
            break
        frozen |= full
    quotas = [frozen.get(k, int(exact.get(k, 0))) for k in range(len(sizes))]
    by_fraction = sorted(exact, key=lambda k: (-(exact[k] - int(exact[k])), k))
    for k in by_fraction[: total - sum(quotas)]:
        quotas[k] += 1
    return quotas


quotas_of = jax.jit(selection.cluster_quotas, static_argnames="by")


@pytest.mark.parametrize("by", ["equal", "proportional"])
@pytest.mark.parametrize("seed", range(4))
def test_quotas_are_those_of_exact_fractions(by, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(0.02, 6) * rng.integers(0, 2, 6, endpoint=True)
    for total in (0, 1, 5, 37, int(sizes.sum()) - 1, int(sizes.sum()), 10_000):
        where = rng.random(6) < 0.8
        kept = np.where(where, sizes, 0).tolist()
        found = quotas_of(sizes, jnp.array(max(total, 0)), by=by, where=where)
        assert found.tolist() == filled(kept, kept if by == "proportional" else [1] * 6, max(total, 0))


def test_the_total_of_the_paper_is_exact():
    sizes = np.random.default_rng(0).integers(6000, 1_200_000, 182)
    found = np.asarray(quotas_of(sizes, 1_010_500))
    assert found.sum() == 1_010_500 and np.all(found == 5552 + (np.arange(182) < 36))
    big = np.random.default_rng(1).integers(0, 10_000_000, 182)
    for by in ("equal", "proportional"):
        quotas = np.asarray(quotas_of(big, 50_000_001, by=by))
        assert quotas.sum() == 50_000_001 and np.all(quotas <= big) and np.all(quotas >= 0)
    np.testing.assert_allclose(quotas, 50_000_001 * (big / big.sum()), atol=3)


@pytest.mark.parametrize("total", [5, 37, 80, 131])
def test_what_dense_clusters_cannot_give_is_divided_in_proportion(total):
    sizes, distances = np.array([60, 7, 41, 0, 30]), np.array([1.0, np.nan, 0.5, 0.0, 0.25], np.float32)
    shares = [size * (1 - Fraction(float(d)) / 2) for size, d in zip(sizes.tolist(), np.nan_to_num(distances))]
    found = quotas_of(sizes, total, by="density", mean_distances=distances)
    assert found.tolist() == filled(sizes.tolist(), shares, total)
    loose = np.array([1.0, 1.0, 0.0, 0.0, 0.0], np.float32)  # 160 and 80 above the 20 of the dense one
    found = quotas_of(np.array([200, 100, 20, 0, 0]), 260, by="density", mean_distances=loose)
    assert found.tolist() == [160, 80, 20, 0, 0]


def test_draws_are_uniform_in_each_cluster_and_never_repeat():
    clusters = jnp.array([1, 0, 1, 1, 5, 0, 1, -1])
    where = jnp.array([True, True, True, True, True, True, False, True])
    draw = jax.jit(jax.vmap(lambda key: selection.quota_mask(key, clusters, jnp.array([9, 2]), where=where)))
    masks = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
    assert masks[:, [1, 5]].all() and not masks[:, [4, 6, 7]].any()
    pairs = [int(np.sum(masks[:, [a, b]].all(1))) for a, b in itertools.combinations([0, 2, 3], 2)]
    assert sum(pairs) == 3000 and chisquare(pairs).pvalue > 1e-3


def test_one_cluster_is_uniform_sampling_and_kept_rows_stand_for_the_others():
    weights, domains = jnp.array([1.0, 2.0, 3.0, 0.0, 4.0, 5.0]), jnp.array([0, 0, 0, 0, 1, 1])
    tx = selection.keep_by_quota(4, 2, key=1, weighting="represented")
    kept = np.asarray(jax.jit(tx.update)(weights, tx.init(weights), domains=domains)[0])
    assert (kept[:3] > 0).sum() == 2 and kept[3] == 0
    np.testing.assert_allclose([kept[:4].sum(), kept[4:].sum()], [6, 9], rtol=1e-6)
    whole = jax.jit(jax.vmap(lambda key: selection.quota_mask(key, jnp.zeros(4, jnp.int32), jnp.array([1]))))
    counts = np.asarray(whole(jax.random.split(jax.random.key(2), 2000))).sum(0)
    assert counts.sum() == 2000 and chisquare(counts).pvalue > 1e-3


def test_bad_input_is_named():
    sizes = jnp.array([3, 4])
    with pytest.raises(ValueError, match="by is 'size', wanted one of"):
        selection.cluster_quotas(sizes, 3, by="size")
    with pytest.raises(ValueError, match="mean_distances is missing with by='density'"):
        selection.cluster_quotas(sizes, 3, by="density")
    with pytest.raises(ValueError, match="total is -1, wanted at least 0"):
        selection.cluster_quotas(sizes, -1)
    with pytest.raises(ValueError, match=r"where has shape \[3\], wanted \[2\]"):
        selection.cluster_quotas(sizes, 3, where=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="by is 'density', wanted one of 'equal', 'proportional'"):
        selection.keep_by_quota(2, 2, 0, by="density")
    with pytest.raises(ValueError, match=r"k is 9, wanted at most 2 \(the number of examples\)"):
        tx = selection.keep_by_quota(9, 2, 0)
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), domains=sizes)


def test_a_negative_total_takes_nothing():
    found = jax.jit(selection.cluster_quotas)(jnp.array([4, 0, 2]), jnp.array(-3))
    np.testing.assert_array_equal(found, 0)


def test_a_quota_of_64_bits_takes_all():
    quotas: Any = np.array([2**40, 1])
    assert selection.quota_mask(0, jnp.array([0, 0, 1, 1, 0]), quotas).tolist()[:2] == [True, True]
