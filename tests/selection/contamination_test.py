import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import contamination
from tests.case import ROWS, Case
from tests.selection.minhash_test import sets_of_ngrams


def short_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 3, (ROWS, 4)).astype(np.int32)}


CASES = {
    "keep_without_overlap": Case(
        lambda: selection.keep_without_overlap(selection.ngram_set(jnp.array([[0, 1, 2, 0, 0]]), ngram=2), 0.5),
        short_rows,
    ),
}


@pytest.mark.parametrize("alphabet", [3, 1000])
def test_fractions_are_those_of_python_sets(alphabet):
    rng = np.random.default_rng(alphabet)
    test, train = rng.integers(0, alphabet, (9, 12)), rng.integers(0, alphabet, (50, 10))
    train[::5, 2:8] = test[rng.integers(0, 9, 10), 3:9]  # planted
    mask = rng.random(test.shape) < 0.95
    train[3, 4], train[7] = -1, -1
    known = set().union(*sets_of_ngrams(test, mask))
    expected = []
    for row in train:
        grams = [tuple(row[i : i + 3]) for i in range(8) if (row[i : i + 3] >= 0).all()]
        expected.append(np.mean([gram in known for gram in grams]) if grams else 0)

    @jax.jit
    def overlap(test, train, mask):
        return selection.ngram_overlap(train, selection.ngram_set(test, 3, mask=mask), block_size=16)

    np.testing.assert_allclose(overlap(test, train, mask), expected, rtol=1e-6)
    assert 0 < np.mean(expected) < 1


def test_ngrams_of_one_first_half_are_told_apart_by_the_second(monkeypatch):
    halves = contamination._fingerprints
    monkeypatch.setattr(
        contamination,
        "_fingerprints",
        lambda *args, **options: (halves(*args, **options)[0] & 1, *halves(*args, **options)[1:]),
    )
    rng = np.random.default_rng(5)
    test, train = rng.integers(0, 1000, (7, 11)), rng.integers(0, 1000, (30, 11))
    train[::3] = test[rng.integers(0, 7, 10)]

    @jax.jit
    def overlap(test, train):
        return selection.ngram_overlap(train, selection.ngram_set(test, 4))

    np.testing.assert_array_equal(overlap(test, train), np.arange(30) % 3 == 0)


def test_rows_of_many_shared_ngrams_are_left_out():
    test = jax.jit(lambda x: selection.ngram_set(x, ngram=2))(jnp.array([[1, 2, 3, 4, 5]]))
    tokens = jnp.array([[1, 2, 3, 4], [1, 2, 9, 9], [9, 8, 7, 6], [-1, -1, -1, -1]])

    @jax.jit
    def kept(tokens, test, fraction):
        tx = selection.keep_without_overlap(test, fraction)
        return tx.update(jnp.ones(4), tx.init(jnp.ones(4)), tokens=tokens)[0]

    for fraction, expected in ((0.0, [0, 0, 1, 1]), (0.4, [0, 1, 1, 1]), (1.0, [1, 1, 1, 1])):
        assert kept(tokens, test, jnp.array(fraction)).tolist() == expected


def test_a_row_shorter_than_an_ngram_is_found_as_a_whole():
    @jax.jit
    def overlap(test, train):
        return selection.ngram_overlap(train, selection.ngram_set(test, ngram=3))

    found = overlap(jnp.array([[7, 8, -1], [1, 2, 3]]), jnp.array([[7, 8, -1], [8, 7, -1], [1, 2, -1]]))
    assert found.tolist() == [1, 0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="ngram is 13, wanted at most 4"):
        selection.ngram_set(jnp.zeros((2, 4), jnp.int32))
    test = selection.ngram_set(jnp.zeros((2, 4), jnp.int32), ngram=4)
    with pytest.raises(ValueError, match="ngram is 4, wanted at most 3"):
        selection.ngram_overlap(jnp.zeros((2, 3), jnp.int32), test)
    with pytest.raises(ValueError, match=r"max_fraction is -0.1, wanted a number in \[0, 1\]"):
        selection.keep_without_overlap(test, -0.1)
