"""Rows to label next from a pool on disk are those of the functions on arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.pool import _badge, _rounds, select_from_pool
from minibatch_jax.selection.lightweight_coresets import lightweight_probabilities
from minibatch_jax.selection.uncertainty import SCORES
from tests.pool.open_test import write_lists
from tests.pool.select_test import D, K, Killed, KilledAfter, N, assert_same, clusters, finite, nearest_counts

X = clusters()
RNG = np.random.default_rng(3)
LOGITS = (3 * RNG.normal(size=(N, 4))).astype(np.float32)
LOGITS[9, 2], LOGITS[40, 0] = np.nan, np.inf
LOGITS[50, 1] = -np.inf
LABELED = np.array([266, 17, 5, 155, 17, N])  # with a repeated row, one that is not finite, and one past the end
MASK = np.isin(np.arange(N), LABELED)
badge_of_array = jax.jit(
    lambda logits, features, where, seed: selection.badge_indices(
        jax.random.key(seed), logits, features, K, where=where
    )
)


def select(pool, method, **options):
    return select_from_pool(pool, K, method=method, **{"block_size": 64, "progress": False} | options)


@pytest.mark.parametrize(("candidates", "draws"), [(1, 128), (2, 3), (64, 128)])
def test_badge_draws_those_of_the_array(candidates, draws, monkeypatch, tmp_path):
    """Also where few bounds are known, so that most draws wait for a pass."""
    monkeypatch.setattr(_badge, "CANDIDATES", candidates)
    monkeypatch.setattr(_badge, "ROUND", draws)
    np.save(tmp_path / "logits.npy", LOGITS)
    write_lists(tmp_path / "x.parquet", X)
    for seed, labeled in ((0, None), (1, LABELED), (2, MASK)):
        drawn = select(tmp_path / "x.parquet", "badge", logits=tmp_path / "logits.npy", seed=seed, chosen=labeled)
        expected = badge_of_array(LOGITS, X, ~MASK if labeled is not None else np.ones(N, bool), seed)
        assert drawn.indices.tolist() == expected.tolist() and drawn.weights.tolist() == [1] * K
        assert (
            drawn.report.no_softmax.tolist() == [2] and drawn.report.not_finite.tolist() == [2] and drawn.dropped == 4
        )
        assert "2 of logits without a softmax" in str(drawn.report)
        outer = np.asarray(jax.nn.softmax(LOGITS, axis=1), np.float64)
        outer[np.arange(N), np.argmax(outer, 1)] -= 1
        gradients = (outer[:, :, None] * X[:, None]).reshape(N, -1)
        apart = [
            np.sqrt(((gradients[drawn.indices[:t]] - gradients[i]) ** 2).sum(1).min())
            for t, i in enumerate(drawn.indices)
            if t
        ]
        np.testing.assert_allclose(drawn.values, [np.inf, *apart], rtol=1e-3)
        free = finite(gradients) & ~(MASK if labeled is not None else np.zeros(N, bool))
        squares = ((gradients[free][:, None] - gradients[None, drawn.indices]) ** 2).sum(2).min(1)
        np.testing.assert_allclose(drawn.cost, squares.mean(), rtol=1e-4)


@pytest.mark.parametrize("case", ["sure of all", "few", "none but labeled"])
def test_badge_where_no_gradient_is_left(case):
    """Draws are uniform where all distances are 0, and stop where no row is left."""
    logits, x, labeled = LOGITS.copy(), X.copy(), np.zeros(N, bool)
    if case == "sure of all":
        logits[:, 0] = 200
        logits[[30, 31, 32], 0] = 0  # the draws of three rows, then none is left but of gradient 0
    else:
        labeled[7 if case == "few" else 0 :] = finite(X)[7 if case == "few" else 0 :]
    expected = badge_of_array(logits, x, ~labeled, 0)
    drawn = select(x, "badge", logits=logits, chosen=labeled)
    assert drawn.indices.tolist() == expected.tolist() and np.isfinite(drawn.cost)
    assert drawn.weights.tolist() == (drawn.indices < N).tolist()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("labeled", [LABELED, [5, 170], np.zeros(N, bool)], ids=["some", "not finite", "none"])
def test_a_core_set_starts_from_labeled_rows(metric, labeled):
    mask = labeled if isinstance(labeled, np.ndarray) and labeled.dtype == bool else np.isin(np.arange(N), labeled)
    found = select(X, "k_center", metric=metric, chosen=labeled)
    exact = jax.jit(lambda x, c: selection.k_center(x, K, metric=metric, chosen=c))(jnp.asarray(X), mask)
    assert found.indices.tolist() == exact.indices.tolist()
    np.testing.assert_allclose(found.values, exact.radii, rtol=1e-4)
    np.testing.assert_allclose(found.cost, exact.radius, rtol=1e-4)
    np.testing.assert_array_equal(found.weights, np.bincount(exact.owners[finite(X)], minlength=K))


def test_a_core_set_of_labeled_rows_alone_chooses_none():
    found = select(X, "k_center", chosen=finite(X))
    assert found.indices.tolist() == [N] * K and found.cost == 0 and found.weights.sum() == 0
    found = select(X, "k_center", chosen=np.arange(3, N))
    assert sorted(found.indices.tolist()) == [0, 1, 2] + [N] * (K - 3)
    np.testing.assert_array_equal(np.sort(found.weights)[-3:].sum(), finite(X).sum())
    _, squares = nearest_counts(X, np.append(np.flatnonzero(finite(X))[3:], found.indices[:3]))
    assert found.cost == squares.max() == 0


@pytest.mark.parametrize("score", SCORES)
def test_uncertain_rows_are_those_of_the_array(score):
    logits = LOGITS.copy()
    logits[60:80] = 0  # ties, of which some are chosen
    for labeled in (None, LABELED):
        where = None if labeled is None else jnp.asarray(~MASK)
        kept = selection.topk_mask(SCORES[score](jnp.asarray(logits)), K, where=where, key=4)
        found = select(logits, "uncertain", score=score, seed=4, chosen=labeled)
        assert set(found.indices.tolist()) == set(np.flatnonzero(kept).tolist())
        np.testing.assert_allclose(found.values, SCORES[score](jnp.asarray(logits))[found.indices], rtol=1e-5)
        assert np.all(np.diff(found.values) <= 0) and found.cost == found.values[-1]
        assert found.dropped == 2 and found.weights.tolist() == [1] * K
    few = select(logits, "uncertain", score=score, chosen=np.arange(3, N))
    assert sorted(few.indices.tolist()) == [0, 1, 2] + [N] * (K - 3) and few.weights.sum() == 3


@pytest.mark.parametrize("labeled", [None, LABELED], ids=["all", "unlabeled"])
def test_a_light_weight_core_set_has_the_chances_of_the_array(labeled):
    counts = np.ones(N) if labeled is None else (~MASK).astype(float)
    chances = lightweight_probabilities(jnp.asarray(X), item_weights=jnp.asarray(counts, jnp.float32))
    own = select(X, "lightweight_coreset", weighting="own", seed=7, chosen=labeled)
    scores = jnp.log(chances) + jax.random.gumbel(jax.random.key(7), (N,))
    assert own.indices.tolist() == jnp.argsort(-scores)[:K].tolist() and own.weights.tolist() == [1] * K
    np.testing.assert_allclose(own.values, chances[own.indices], rtol=1e-4)
    total, expected = np.zeros(N), np.asarray(chances, np.float64)
    for seed in range(40):
        found = select(X, "lightweight_coreset", seed=seed, chosen=labeled)
        kept = found.indices < N
        np.testing.assert_allclose(found.values[kept], expected[found.indices[kept]], rtol=1e-4)
        times = found.weights[kept] * K * found.values[kept]
        np.testing.assert_allclose(times, np.round(times), rtol=1e-4)
        assert times.sum() == pytest.approx(K, rel=1e-4) and np.all(np.diff(found.indices) >= 0)
        assert found.weights[~kept].sum() == 0
        np.add.at(total, found.indices[kept], times)
    draws, parts = 40 * K, np.array_split(np.argsort(expected), 6)
    seen, wanted = (np.array([values[part].sum() for part in parts]) for values in (total, draws * expected))
    assert np.sum((seen - wanted) ** 2 / wanted) < 20  # chi-squared of 5 degrees of freedom: 20.5 at one in a thousand
    spread = ((X[counts * finite(X) > 0] - X[counts * finite(X) > 0].mean(0)) ** 2).sum(1).mean()
    np.testing.assert_allclose(own.cost, spread, rtol=1e-4)


def test_a_light_weight_core_set_of_equal_rows_and_of_no_row():
    same = select(np.ones((N, D), np.float32), "lightweight_coreset")
    np.testing.assert_allclose(same.values[same.indices < N], 1 / N, rtol=1e-5)
    for weighting in ("own", "unbiased"):
        none = select(X, "lightweight_coreset", chosen=finite(X), weighting=weighting)
        assert none.indices.tolist() == [N] * K and none.weights.sum() == 0 and none.cost == 0


RESUMED = {
    "badge": {"logits": LOGITS, "chosen": LABELED},
    "k_center": {"chosen": LABELED},
    "lightweight_coreset": {"chosen": MASK},
}


@pytest.mark.parametrize("method", RESUMED)
def test_a_killed_call_goes_on_and_another_call_is_refused(method, tmp_path, monkeypatch):
    monkeypatch.setattr(_badge, "ROUND", 4)
    expected = select(X, method, **RESUMED[method])
    for rounds in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(_rounds, "_save", KilledAfter(rounds))
            if method == "badge" or rounds == 1:
                with pytest.raises(Killed):
                    select(X, method, state_folder=tmp_path / str(rounds), **RESUMED[method])
        assert_same(select(X, method, state_folder=tmp_path / str(rounds), **RESUMED[method]), expected)
    with pytest.raises(ValueError, match=r"holds another call, .*'chosen'"):
        select(X, method, state_folder=tmp_path / "1", **RESUMED[method] | {"chosen": [1]})
    if method == "badge":
        other = LOGITS.copy()
        other[77, 0] += 1
        with pytest.raises(ValueError, match=r"holds another call, .*digest of the pool"):
            select(X, method, state_folder=tmp_path / "1", logits=other, chosen=LABELED)


BAD = {
    "no logits": ({"method": "badge"}, ValueError, r"logits is None, wanted \[N, C\], .* for the method 'badge'"),
    "rows of logits": (
        {"method": "badge", "logits": LOGITS[1:]},
        ValueError,
        r"logits of shape \[299, 4\] has 299 rows, wanted 300 as pool of shape \[300, 6\]",
    ),
    "dtype of logits": ({"method": "badge", "logits": np.ones((N, 2), int)}, TypeError, "logits has dtype int64"),
    "score": ({"method": "uncertain", "score": "bald"}, ValueError, "score is 'bald', wanted one of 'margin'"),
    "one class": ({"method": "uncertain", "pool": X[:, :1]}, ValueError, "wanted at least 2 classes"),
    "one class of logits": (
        {"method": "badge", "logits": LOGITS[:, :1]},
        ValueError,
        r"logits of shape \[300, 1\] holds logits of one class, wanted at least 2",
    ),
    "weighting": ({"method": "lightweight_coreset", "weighting": "some"}, ValueError, "weighting is 'some'"),
    "seed": ({"method": "badge", "logits": LOGITS, "seed": -1}, ValueError, "seed is -1"),
    "chosen of the method": ({"chosen": [1]}, ValueError, "chosen is given, but method 'facility_location' takes met"),
    "mask": ({"method": "k_center", "chosen": np.ones(7, bool)}, ValueError, r"chosen has shape \[7\], wanted \[300\]"),
    "all": ({"method": "k_center", "chosen": np.ones(N, bool)}, ValueError, "chosen holds all 300 rows of pool of sh"),
    "row numbers": ({"method": "k_center", "chosen": [1, 301]}, ValueError, "chosen holds 1 to 301, wanted row numb"),
    "fractions": ({"method": "k_center", "chosen": [0.5]}, TypeError, "chosen has dtype float64 and shape"),
    "k": ({"method": "uncertain", "k": N + 1}, ValueError, "k is 301, wanted at most 300"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(changes, error, message):
    arguments = {"pool": X, "k": K, "progress": False} | changes
    with pytest.raises(error, match=message):
        select_from_pool(arguments.pop("pool"), arguments.pop("k"), **arguments)


def test_a_pool_without_a_softmax_is_refused():
    with pytest.raises(ValueError, match=r"has no row of 300 that is finite in float32 \(2 not finite, 298 of log"):
        select(X, "badge", logits=np.full((N, 2), np.nan, np.float32))
