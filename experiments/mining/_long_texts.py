"""Pairs of a short query and a long document from posts of newsgroups, as hashed words."""

import zlib
from collections.abc import Sequence

import numpy as np

from experiments.datasets import arrays

QUERY_WORDS, SHORT_WORDS, LEAST_WORDS = 12, 48, 100
HELD_OUT = 5
"""every so-manieth thread is tested on"""


def text_rows(buckets: int, validate: bool) -> dict[str, dict[str, np.ndarray]]:
    """Splits train and test with `query`, `document` and `short`, the document's beginning, all `[N, buckets]`.

    Columns are weighted by how rare their words are in the documents of the training set, and rows scaled to the length
    that standard normal numbers have.
    """
    texts = [text.decode() for split in ("train", "test") for text in arrays("newsgroups", split)["text"]]
    pairs = long_pairs(texts)
    is_test = np.arange(len(pairs)) % HELD_OUT == HELD_OUT - 1
    chosen = {"train": ~is_test, "test": is_test}
    if validate:
        training = np.flatnonzero(~is_test)
        chosen = {"train": training[np.arange(len(training)) % HELD_OUT > 0], "test": training[::HELD_OUT]}
    columns = {
        "query": hashed([query for query, _ in pairs], buckets),
        "document": hashed([document for _, document in pairs], buckets),
        "short": hashed([document[:SHORT_WORDS] for _, document in pairs], buckets),
    }
    seen = np.mean(columns["document"][chosen["train"]] > 0, axis=0)
    rarity = np.log(1 / np.maximum(seen, 1 / len(pairs))).astype(np.float32)
    scaled = {name: to_length(counts * rarity, buckets**0.5) for name, counts in columns.items()}
    return {split: {name: rows[which] for name, rows in scaled.items()} for split, which in chosen.items()}


def long_pairs(texts: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """The first words of a post, which begins with its subject, and the words that follow; one long post a subject."""
    pairs, seen = [], set()
    for text in texts:
        words = text.split()
        while words[:1] == ["re"]:
            words = words[1:]
        subject = tuple(words[:4])
        if len(words) >= QUERY_WORDS + LEAST_WORDS and subject not in seen:
            seen.add(subject)
            pairs.append((words[:QUERY_WORDS], words[QUERY_WORDS:]))
    return pairs


def hashed(documents: Sequence[Sequence[str]], buckets: int) -> np.ndarray:
    """Logarithms of one more than the number of words in each bucket, `[N, buckets]`."""
    counts = np.zeros((len(documents), buckets), np.float32)
    for row, words in zip(counts, documents, strict=True):
        np.add.at(row, [zlib.crc32(word.encode()) % buckets for word in words], 1)
    return np.log1p(counts)


def to_length(rows: np.ndarray, length: float) -> np.ndarray:
    """The rows scaled to a length; rows of zeros stay."""
    return rows * (length / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
