import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import ROWS, Case

ROWS_OF_TEST, LENGTH, NGRAM = 200, 32, 3


def repeated(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of tokens, each of three kinds, some with one token changed."""
    tokens = rng.integers(0, 50, (3, 12))[rng.integers(0, 3, ROWS)]
    tokens[np.arange(ROWS), rng.integers(0, 12, ROWS)] = rng.integers(0, 50, ROWS)
    return {"tokens": tokens.astype(np.int32)}


CASES = {
    "keep_distinct": Case(lambda: selection.keep_distinct(0.5, ngram=2, num_hashes=32), repeated),
    "keep_distinct, represented": Case(
        lambda: selection.keep_distinct(0.5, ngram=2, num_hashes=32, weighting="represented"),
        repeated,
        lowers_mass=False,
        tolerance=1e-5,
    ),
}


def sets_of_ngrams(tokens, exists, ngram=NGRAM):
    """The n-grams of each row, as Python sees them."""
    spans = range(tokens.shape[1] - ngram + 1)
    return [
        {tuple(row[i : i + ngram]) for i in spans if there[i : i + ngram].all()} for row, there in zip(tokens, exists)
    ]


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


@functools.cache
def planted(changed):
    """Random rows, of which the second half are the first half with a share of the tokens changed; and a mask."""
    rng = np.random.default_rng(int(100 * changed))
    originals = rng.integers(0, 200, (ROWS_OF_TEST // 2, LENGTH))
    copies = np.where(rng.random(originals.shape) < changed, rng.integers(200, 400, originals.shape), originals)
    tokens = np.concatenate([originals, copies])
    exists = np.arange(LENGTH)[None] < rng.integers(20, LENGTH + 1, ROWS_OF_TEST // 2)[:, None]
    return tokens, np.concatenate([exists, exists])


@functools.cache
def program():
    def find(tokens, mask, key):
        signatures = selection.minhash_signatures(tokens, 128, NGRAM, key, mask=mask, block_size=64)
        return signatures, selection.near_duplicates(signatures, 0.6)

    return jax.jit(find)


@pytest.mark.parametrize("changed", [0.0, 0.05, 0.2])
def test_agreement_of_signatures_is_the_jaccard_similarity_of_python_sets(changed):
    tokens, exists = planted(changed)
    signatures, _ = program()(tokens, exists, jax.random.key(1))
    sets = sets_of_ngrams(tokens, exists)
    half = ROWS_OF_TEST // 2
    exact = np.array([jaccard(sets[i], sets[i + half]) for i in range(half)])
    estimated = np.asarray(selection.estimated_jaccard(signatures[:half], signatures[half:]))
    equal = exact == 1
    assert equal.all() == (changed == 0) and np.all(estimated[equal] == 1)
    z = ((estimated - exact) / np.sqrt(np.where(equal, 1, exact * (1 - exact)) / 128))[~equal]
    assert equal.all() or (abs(z.mean()) < 0.4 and 0.8 < z.std() < 1.2)
    assert np.all(np.asarray(selection.estimated_jaccard(signatures[:half], signatures[half:][::-1]))[:40] < 0.2)


@pytest.mark.parametrize("changed,least_recall", [(0.0, 1.0), (0.05, 0.93), (0.2, 0.0)])
def test_precision_and_recall_on_planted_copies(changed, least_recall):
    tokens, exists = planted(changed)
    sets = sets_of_ngrams(tokens, exists)
    _, found = program()(tokens, exists, jax.random.key(2))
    half = ROWS_OF_TEST // 2
    similarities = np.array([jaccard(sets[i], sets[i + half]) for i in range(half)])
    dropped = ~np.asarray(found.keep)
    assert not dropped[:half].any()  # nothing but the copies
    np.testing.assert_array_equal(np.asarray(found.originals)[half:][dropped[half:]], np.flatnonzero(dropped[half:]))
    near = similarities >= 0.6
    assert not near.any() or dropped[half:][near].mean() >= least_recall
    assert not dropped[half:][similarities < 0.4].any()
    measured = np.asarray(found.similarities)[half:]
    np.testing.assert_allclose(measured[dropped[half:]], similarities[dropped[half:]], atol=0.2)


@jax.jit
def small(tokens, mask, where, threshold):
    """Signatures and near-duplicates of 7 rows of 20 tokens."""
    signatures = selection.minhash_signatures(tokens, 256, 4, mask=mask)
    return signatures, selection.near_duplicates(signatures, threshold, where=where)


ALL, ROW = np.ones((7, 20), bool), np.ones(7, bool)


def test_order_decides_which_row_of_a_group_is_kept_and_others_influence_nothing():
    tokens = np.random.default_rng(3).integers(0, 9, (4, 20))[[2, 0, 2, 1, 0, 2, 3]]
    found = small(tokens, ALL, ROW, 0.8)[1]
    assert found.originals.tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert found.similarities[jnp.array([2, 4, 5])].tolist() == [1, 1, 1]
    found = small(tokens, ALL, np.arange(7) > 0, 0.8)[1]
    assert found.originals.tolist() == [-1, 1, 2, 3, 1, 2, 6]


def test_short_rows_are_compared_as_a_whole_and_rows_without_tokens_are_dropped():
    tokens, mask = np.full((7, 20), -1), ALL.copy()
    tokens[:4, :2] = [[1, 2], [1, 2], [-1, 1], [2, 1]]
    tokens[1, 2:], mask[1, 2:] = 9, False
    tokens[2, 7] = 2
    tokens[5:] = np.arange(20)
    signatures, found = small(tokens, mask, ROW, 0.8)
    assert found.originals.tolist() == [0, 0, 0, 3, -1, 5, 5]
    assert float(selection.estimated_jaccard(signatures, signatures)[4]) == 0


def test_a_chain_of_copies_has_one_original():
    tokens = np.arange(20)[None] + np.array([0, 4, 8, 100, 200, 300, 400])[:, None]  # neighbors share 13 of 21 n-grams
    assert small(tokens, ALL, ROW, 0.5)[1].originals.tolist() == [0, 0, 0, 3, 4, 5, 6]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_the_bands_have_the_recall_and_one_entry_more_has_not(threshold):
    def recall(bands, entries):
        return 1 - (1 - threshold**entries) ** bands

    bands, entries = selection.lsh_bands(threshold, 64)
    assert bands * entries <= 64 and recall(bands, entries) >= 0.95
    assert entries == 64 or recall(64 // (entries + 1), entries + 1) < 0.95


def test_weights_of_copies_go_to_the_kept_row():
    tokens = jnp.array([[1, 2, 3], [1, 2, 3], [4, 5, 6], [1, 2, 3]])
    weights = jnp.array([0.0, 2.0, 3.0, 4.0])

    @jax.jit
    def both(weights, tokens):
        factories = (selection.keep_distinct(ngram=2, num_hashes=8, weighting=w) for w in ("own", "represented"))
        return [tx.update(weights, tx.init(weights), tokens=tokens)[0] for tx in factories]

    own, represented = both(weights, tokens)
    assert own.tolist() == [0, 2, 3, 0] and represented.tolist() == [0, 6, 3, 0]


def test_bad_input_is_named():
    tokens = jnp.zeros((3, 4), jnp.int32)
    with pytest.raises(
        ValueError, match=r"ngram is 5, wanted at most 4 \(the number of tokens of a row; pad with -1\)"
    ):
        selection.minhash_signatures(tokens, 8, 5)
    with pytest.raises(TypeError, match="tokens has dtype float32, wanted an integer dtype"):
        selection.minhash_signatures(jnp.zeros((3, 4)), 8, 2)
    for threshold in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match=rf"threshold is {threshold}, wanted a number in \(0, 1\]"):
            selection.keep_distinct(threshold)
    with pytest.raises(ValueError, match="the entries of all bands is 12, wanted at most 8"):
        selection.near_duplicates(jnp.zeros((3, 8), jnp.uint32), bands=(3, 4))
    with pytest.raises(ValueError, match="weighting is 'unbiased', wanted one of"):
        selection.keep_distinct(weighting="unbiased")


@pytest.mark.parametrize("jitted", [False, True])
def test_tokens_that_int32_does_not_hold_are_refused_where_they_are_known(jitted):
    """64-bit hashes, half of which would turn negative, and the -1 of padding in an unsigned dtype."""
    rows: Any = np.arange(12).reshape(2, 6)
    for bad, told in (
        (rows + 2**31, 2**31 + 11),
        (rows - 2**40, -(2**40)),
        ((rows - 1).astype(np.uint32), 2**32 - 1),
        (rows.astype(np.uint64) + np.uint64(2**63), 2**63 + 11),
    ):
        find = lambda bad=bad: selection.minhash_signatures(bad, 4, 2)  # noqa: E731
        with pytest.raises(ValueError, match=f"tokens holds {told}, wanted int32.*zlib.crc32"):
            (jax.jit(find) if jitted else find)()


def test_one_changed_token_costs_the_similarity_that_the_docs_name():
    for size, told in ((20, 0.52), (50, 0.80)):
        tokens = np.tile(np.arange(size), (2, 1))
        tokens[1, size // 2] = 999
        assert round(jaccard(*sets_of_ngrams(tokens, tokens >= 0, 5)), 2) == told
