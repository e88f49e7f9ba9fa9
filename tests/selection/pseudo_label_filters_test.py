import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from minibatch_jax import selection

N, T = 12, 8
RNG = np.random.default_rng(0)
LOG_P = np.log(RNG.uniform(0.05, 1.0, (N, T))).astype(np.float32)
ENTROPIES = RNG.uniform(0, np.log(5), (N, T)).astype(np.float32)
TOKENS = RNG.integers(0, 3, (N, T)).astype(np.int32)
LENGTHS = RNG.integers(1, T + 1, N).astype(np.int32)
LENGTHS[:2] = [0, 1]


def of_rows(function):
    return [function(i, int(n)) if n else np.nan for i, n in enumerate(LENGTHS)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            lambda: selection.token_confidences(jnp.asarray(LOG_P), jnp.asarray(LENGTHS)),
            lambda i, n: np.prod(np.exp(LOG_P[i, :n].astype(np.float64))) ** (1 / n),
        ),
        (
            lambda: selection.mean_log_likelihoods(jnp.asarray(LOG_P), jnp.asarray(LENGTHS)),
            lambda i, n: LOG_P[i, :n].mean(),
        ),
        (
            lambda: selection.negative_entropies(jnp.asarray(ENTROPIES), jnp.asarray(LENGTHS), 5),
            lambda i, n: -ENTROPIES[i, :n].mean() / np.log(5),
        ),
        (
            lambda: selection.distinct_ngrams(jnp.asarray(TOKENS), jnp.asarray(LENGTHS), 2),
            lambda i, n: len({tuple(TOKENS[i, j : j + 2]) for j in range(n - 1)}) / (n - 1) if n > 1 else 1,
        ),
        (
            lambda: selection.distinct_ngrams(jnp.asarray(TOKENS), jnp.asarray(LENGTHS, jnp.uint32), 3),
            lambda i, n: len({tuple(TOKENS[i, j : j + 3]) for j in range(n - 2)}) / (n - 2) if n > 2 else 1,
        ),
        (
            lambda: selection.distinct_ngrams(jnp.asarray(TOKENS), jnp.asarray(LENGTHS), 1),
            lambda i, n: len(set(TOKENS[i, :n])) / n,
        ),
        (
            lambda: selection.proxy_agreements(*[jnp.asarray(x) for x in (TOKENS, LENGTHS, TOKENS[:, :4], PROXY)]),
            lambda i, n: -(n - PROXY[i]) / max(1, PROXY[i]),  # the proxy hears the beginning alone
        ),
    ],
    ids=["confidence", "likelihood", "entropy", "bigrams", "trigrams", "tokens", "proxy"],
)
def test_scores_are_those_of_a_loop_over_rows_and_an_empty_row_has_none(found, expected):
    np.testing.assert_allclose(found(), of_rows(expected), rtol=1e-5, atol=1e-6)


PROXY = np.minimum(LENGTHS, 4)


def test_padding_is_nothing_and_a_bad_row_has_no_score_inside_jit():
    is_token = np.arange(T)[None] < LENGTHS[:, None]
    padded = jnp.asarray(np.where(is_token, LOG_P, np.nan))
    plain = selection.token_confidences(jnp.asarray(LOG_P), jnp.asarray(LENGTHS))
    np.testing.assert_array_equal(selection.token_confidences(padded, jnp.asarray(LENGTHS)), plain)
    tokens = jnp.asarray(np.where(is_token, TOKENS, 7))
    np.testing.assert_array_equal(
        selection.distinct_ngrams(tokens, jnp.asarray(LENGTHS)),
        selection.distinct_ngrams(jnp.asarray(TOKENS), jnp.asarray(LENGTHS)),
    )
    spoilt = jnp.asarray(LOG_P).at[3, 0].set(0.5).at[4, 0].set(jnp.nan)
    lengths = jnp.asarray(LENGTHS).at[5].set(T + 1)
    found = jax.jit(selection.token_confidences)(spoilt, lengths)
    assert np.flatnonzero(np.isnan(found)).tolist() == [0, 3, 4, 5]
    assert selection.token_confidences(jnp.full((1, 2), -jnp.inf), jnp.array([2])).tolist() == [0.0]
    assert selection.token_confidences(jnp.full((1, 2), 1e-3), jnp.array([2])).tolist() == [1.0]  # by rounding
    assert selection.negative_entropies(jnp.full((1, 2), -1e-3), jnp.array([2]), 4).tolist() == [0.0]


def test_embeddings_agree_by_their_cosine():
    a, b = RNG.normal(size=(2, N, 5)).astype(np.float32)
    a[2], b[3, 1] = 0, np.inf
    with np.errstate(all="ignore"):
        expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected[[2, 3]] = np.nan
    np.testing.assert_allclose(selection.embedding_agreements(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-5)


@pytest.mark.parametrize(("how", "reduced"), [("mean", np.mean), ("all", np.min), ("any", np.max)])
def test_ranks_are_those_of_scipy(how, reduced):
    scores = RNG.integers(0, 5, (3, N)).astype(np.float32)
    scores[0, 1], scores[:, 2] = np.nan, np.nan
    where = np.arange(N) != 7
    ranks = np.full((3, N), np.nan)
    for row, found in zip(scores, ranks):
        taken = where & np.isfinite(row)
        found[taken] = (rankdata(row[taken]) - 0.5) / taken.sum()
    expected = reduced(ranks, axis=0)
    if how == "any":
        expected[1] = np.nanmax(ranks[:, 1])
    actual = selection.combined_ranks(jnp.asarray(scores), how, where=jnp.asarray(where))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_fraction_of_the_rows_with_a_score_is_kept_and_ties_go_at_random():
    scores = np.repeat([3.0, 2.0, 1.0, np.nan], [4, 10, 4, 2]).astype(np.float32)
    fractions, keys = np.linspace(0, 1, 9), jax.random.split(jax.random.key(0), 200)
    filtered = jax.jit(jax.vmap(lambda q: selection.top_fraction_mask(jnp.asarray(scores), q, 0)))
    masks, dropped = filtered(jnp.asarray(fractions))
    np.testing.assert_array_equal(masks.sum(1), np.round(fractions * 18))
    np.testing.assert_array_equal(dropped, 2)
    half = jax.jit(jax.vmap(lambda key: selection.top_fraction_mask(jnp.asarray(scores), 0.5, key).mask))(keys)
    assert np.all(half[:, :4]) and not np.any(half[:, 14:])
    np.testing.assert_allclose(np.mean(half[:, 4:14], axis=0), 0.5, atol=0.15)  # of ten equal ones, five


def test_planted_errors_are_found_and_loops_by_the_guard_alone():
    """Of 400 transcripts 80 have three tokens replaced, of which the teacher is less sure, and 40 end in a loop."""
    rng = np.random.default_rng(1)
    truth = np.stack([rng.permutation(30)[:10] for _ in range(400)])
    tokens, sure = truth.copy(), rng.uniform(0.7, 1.0, (400, 10))
    for i in range(80):
        places = rng.permutation(10)[:3]
        tokens[i, places], sure[i, places] = rng.integers(30, 60, 3), rng.uniform(0.2, 0.6, 3)
    tokens[80:120, 4:], sure[80:120, 4:] = np.tile([1, 2], (40, 3)), 0.99
    proxy = np.where(rng.random((400, 10)) < 0.1, rng.integers(60, 90, (400, 10)), truth)
    lengths = jnp.full(400, 10)
    scores = {
        "confidence": selection.token_confidences(jnp.log(jnp.asarray(sure, jnp.float32)), lengths),
        "guard": selection.distinct_ngrams(jnp.asarray(tokens), lengths),
        "proxy": selection.proxy_agreements(jnp.asarray(tokens), lengths, jnp.asarray(proxy), lengths),
    }
    scores["confidence and guard"] = selection.combined_ranks(jnp.stack([scores["confidence"], scores["guard"]]), "all")
    dropped = {name: ~np.asarray(selection.top_fraction_mask(x, 0.7, key=0).mask) for name, x in scores.items()}
    for name, recalls in {"confidence": (0.95, 0, 0), "guard": (0, 1, 0), "proxy": (0.85, 1, 0.9)}.items():
        assert dropped[name].sum() == 120
        assert np.mean(dropped[name][:80]) >= recalls[0] and np.mean(dropped[name][80:120]) >= recalls[1], name
        assert np.mean(np.arange(400)[dropped[name]] < 120) >= recalls[2], name  # precision
    assert np.mean(dropped["confidence"][80:120]) < 0.1
    assert np.mean(dropped["confidence and guard"][:120]) > 0.85


def test_bad_input_is_named():
    lengths = jnp.asarray(LENGTHS)
    with pytest.raises(ValueError, match=r"log_probabilities has the entry 0.5, wanted numbers in \[-inf, 0\]"):
        selection.token_confidences(jnp.asarray(LOG_P).at[2, 0].set(0.5), lengths)
    with pytest.raises(ValueError, match=r"entropies has the entry -1, wanted numbers in \[0, "):
        selection.negative_entropies(jnp.asarray(ENTROPIES).at[2, 0].set(-1), lengths, 5)
    with pytest.raises(ValueError, match="vocabulary is 1, wanted at least 2"):
        selection.negative_entropies(jnp.asarray(ENTROPIES), lengths, 1)
    with pytest.raises(ValueError, match="lengths of tokens has the entry -1"):
        selection.distinct_ngrams(jnp.asarray(TOKENS), lengths.at[0].set(-1))
    with pytest.raises(ValueError, match="n is 9, wanted at most 8"):
        selection.distinct_ngrams(jnp.asarray(TOKENS), lengths, 9)
    with pytest.raises(ValueError, match="how is 'median', wanted one of 'mean', 'all', 'any'"):
        selection.combined_ranks(jnp.ones((2, 3)), "median")
    with pytest.raises(ValueError, match=r"fraction is 1.5, wanted a number in \[0, 1\]"):
        selection.top_fraction_mask(jnp.ones(3), 1.5, 0)
    with pytest.raises(ValueError, match=r"transcripts has shape \[3, 2\], wanted \[2, 2\]"):
        selection.embedding_agreements(jnp.ones((2, 2)), jnp.ones((3, 2)))
