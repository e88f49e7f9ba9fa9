import numpy as np
import pytest

from experiments.selection import _junk_pool, clean_pool
from experiments.selection._junk_pool import CHANGES, CLEAN, COPY, JUNK, LEAK
from experiments.selection.clean_pool import Config

LETTERS = np.frombuffer(b"abcdefghij klmnopq rstuvwxyz", np.uint8)


@pytest.fixture
def pool(monkeypatch):
    """Twelve domains, each of random letters."""
    rng = np.random.default_rng(0)
    split = {"tokens": rng.choice(LETTERS, (480, 32)), "domain": np.repeat(np.arange(12, dtype=np.int32), 40)}
    held_out = {"tokens": rng.choice(LETTERS, (240, 32)), "domain": np.repeat(np.arange(12, dtype=np.int32), 20)}
    monkeypatch.setattr(_junk_pool, "text_domains", lambda *args, **options: {"train": split, "validation": held_out})
    config = Config(most=40, rarest=10, copied=5, copies=9, junk=30, leaks=4)
    return clean_pool._pool(config, 0)


def test_what_was_planted_is_in_the_pool(pool):
    for place, share in enumerate(CHANGES):
        for i in np.flatnonzero((pool.kind == COPY) & (pool.changed == place)):
            (text,) = pool.tokens[(pool.kind == CLEAN) & (pool.original == pool.original[i])]
            assert np.sum(pool.tokens[i] != text) == np.ceil(32 * share)
        for row in pool.tokens[(pool.kind == LEAK) & (pool.changed == place)]:
            assert np.sum(pool.held_out[:, 10:] != row, axis=2).min() == np.ceil(32 * share)
    assert [np.sum(pool.kind == kind) for kind in (COPY, *JUNK, LEAK)] == [45, 30, 30, 30, 12]
    counts = np.sort(np.bincount(pool.domain[pool.kind == CLEAN]))
    assert counts[0] == 10 and counts[-1] == 40


def test_largest_similarity_is_that_of_sets(pool):
    tokens = pool.tokens[:60]
    sets = [{row[i : i + 3].tobytes() for i in range(30)} for row in tokens]
    expected = [max([len(s & t) / len(s | t) for t in sets[:i]], default=0) for i, s in enumerate(sets)]
    found = clean_pool.largest_similarity(tokens, np.arange(60))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert max(expected) == 1
