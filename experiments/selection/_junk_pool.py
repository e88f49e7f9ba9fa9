"""A pool of real text with planted junk: windows of bytes, of which some are copies, lists, bars or noise."""

from typing import NamedTuple

import numpy as np

from experiments.shared.text_domains import DOMAINS, text_domains

LENGTH = 32
CHANGES = (0.0, 0.05, 0.2)
"""shares of the bytes of a planted copy that are changed"""
BUCKETS = 256
"""hashed pairs of bytes in the features"""

CLEAN, COPY, NOISE, LIST, BAR, LEAK = range(6)
"""kinds of rows: text, copies of text, random letters, tables of numbers, navigation bars, copies of held-out text"""
JUNK = (NOISE, LIST, BAR)
"""what anybody sees to be junk"""


class JunkPool(NamedTuple):
    """Rows in random order, and what is known of them only because they were planted.

    Attributes:
      tokens: `[N, 32]` uint8.
      kind: `[N]`, what each row is.
      domain: `[N]`, domain of a clean row; -1 for junk.
      original: `[N]`, which text a row is a copy of or has copies of; -1 for none.
      changed: `[N]`, place in `CHANGES` of a copy or a leak; -1 for the others.
      held_out: `[12, 512, 32]`, windows of each domain to evaluate on; those of each second half were leaked from.
      shares: `[12]`, of the clean rows.
    """

    tokens: np.ndarray
    kind: np.ndarray
    domain: np.ndarray
    original: np.ndarray
    changed: np.ndarray
    held_out: np.ndarray
    shares: np.ndarray


def junk_pool(
    seed: int, *, most: int, rarest: int, copied: int, copies: int, junk: int, leaks: int, validate: bool = False
) -> JunkPool:
    """Draw the pool: domains from the most common to the rarest in geometric progression, in an order by the seed.

    Args:
      seed: of everything that is drawn.
      most: clean rows of the most common domain.
      rarest: clean rows of the rarest.
      copied: clean rows that have copies.
      copies: copies of each, a third for each of `CHANGES`.
      junk: rows of each other kind of junk.
      leaks: copies of held-out rows for each of `CHANGES`.
      validate: hold out rows of the training documents in place of the test documents, to tune on.
    """
    rng = np.random.default_rng(seed)
    splits = text_domains(LENGTH, validate=validate, per_domain=most, seed=seed)
    train, held_out = splits["train"], splits["validation"]["tokens"].reshape(len(DOMAINS), -1, LENGTH)
    rank = rng.permutation(len(DOMAINS))
    sizes = np.round(most * (rarest / most) ** (rank / (len(DOMAINS) - 1))).astype(int)
    rows = [rng.permutation(np.flatnonzero(train["domain"] == d))[:size] for d, size in enumerate(sizes)]
    clean, domain = train["tokens"][np.concatenate(rows)], train["domain"][np.concatenate(rows)]
    sources = rng.choice(len(clean), copied, replace=False)
    copy_of, copy_changed = np.repeat(sources, copies), np.tile(np.arange(copies) % len(CHANGES), copied)
    leak_changed = np.repeat(np.arange(len(CHANGES)), leaks)
    leaked = held_out[:, held_out.shape[1] // 2 :].reshape(-1, LENGTH)
    leaked = leaked[rng.choice(len(leaked), len(leak_changed), replace=False)]
    parts = {
        CLEAN: clean,
        COPY: with_changes(rng, clean[copy_of], copy_changed),
        NOISE: rng.integers(33, 127, (junk, LENGTH)),
        LIST: windows_of_lists(rng, junk),
        BAR: windows_of_bars(rng, junk),
        LEAK: with_changes(rng, leaked, leak_changed),
    }
    counts = [len(part) for part in parts.values()]
    original = np.full(len(clean), -1)
    original[sources] = sources
    nothing = np.full(sum(counts[NOISE:LEAK]), -1)
    columns = (
        np.concatenate(list(parts.values())).astype(np.uint8),
        np.repeat(list(parts), counts),
        np.concatenate([domain, np.full(sum(counts[COPY:]), -1)]),
        np.concatenate([original, copy_of, nothing, np.full(counts[LEAK], -1)]),
        np.concatenate([np.full(len(clean), -1), copy_changed, nothing, leak_changed]),
    )
    order = rng.permutation(sum(counts))
    tokens, kind, domain, original, changed = (column[order] for column in columns)
    return JunkPool(tokens, kind, domain, original, changed, held_out, sizes / sizes.sum())


def with_changes(rng: np.random.Generator, rows: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The rows with exactly the share of `CHANGES` of their bytes, rounded up, replaced by other letters."""
    counts = np.ceil(LENGTH * np.array(CHANGES)[changed]).astype(int)
    places = rng.random(rows.shape).argsort(1).argsort(1) < counts[:, None]
    return np.where(places, 97 + (rows.astype(int) - 97 + rng.integers(1, 26, rows.shape)) % 26, rows)


def windows_of_lists(rng: np.random.Generator, count: int) -> np.ndarray:
    """Windows of tables of numbers."""
    text = " ".join(str(number) for number in rng.integers(0, 10_000, count * LENGTH)).encode()
    return np.frombuffer(text[: count * LENGTH], np.uint8).reshape(count, LENGTH)


def windows_of_bars(rng: np.random.Generator, count: int) -> np.ndarray:
    """Windows of navigation bars: the same words, in any order, between bars."""
    words = np.array(["Home", "News", "Login", "Register", "Contact", "About", "Help", "Search", "Sitemap", "Privacy"])
    text = " | ".join(rng.choice(words, count * LENGTH // 4)).encode()
    return np.frombuffer(text[: count * LENGTH], np.uint8).reshape(count, LENGTH)


def features(tokens: np.ndarray) -> np.ndarray:
    """Roots of the counts of bytes and of hashed pairs of bytes, `[N, 512]`, less their mean over the pool."""
    numbers = tokens.astype(np.int64)
    pairs = (numbers[:, :-1] * 7919 + numbers[:, 1:] * 104_729) % BUCKETS + 256
    numbers = np.concatenate([numbers, pairs], axis=1)
    counts = np.zeros((len(tokens), 256 + BUCKETS), np.float32)
    np.add.at(counts, (np.arange(len(tokens))[:, None], numbers), 1)
    roots = np.sqrt(counts)
    return roots - roots.mean(0)
