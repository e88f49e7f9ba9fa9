"""Pairs of image and text: emoji as four vendors draw them, and the words of their keywords."""

import functools
import re
import unicodedata
from collections import Counter
from typing import Any

import jax
import numpy as np

from experiments.datasets import arrays, check_fetched

STYLES = ("emoji", "emoji_twitter", "emoji_apple", "emoji_facebook")
VENDORS = len(STYLES) - 1
"""whose drawings are trained on; those of the last one are a test"""
SIDE = 16
LEAST = 3
"""emoji of the training set that must share a word; rarer words are left out"""

Split = dict[str, np.ndarray]


@functools.cache
def emoji_pairs(validate: bool) -> dict[str, Split]:
    """Pairs to train on, `train`, and two tests: `new_emoji`, and `new_vendor` with the emoji of `train`.

    `image` is float32 [N, vendors, 16, 16, 3], `words` float32 [N, V] of 0 and 1, `category` int32 [N]. Words are
    sorted by how many emoji of the training set have them, the most common one first. Of emoji with the same words the
    first is kept. To validate, the last fifth of the training set is `new_emoji`.
    """
    check_fetched(*STYLES, "emoji_keywords")
    words_of = keyword_words(arrays("emoji_keywords", "train"))
    train: Any = _with_words("train", words_of)
    new: Any = _with_words("test", words_of)
    if validate:
        cut = len(train[1]) * 4 // 5
        train, new = (tuple(column[part] for column in train) for part in (slice(cut), slice(cut, None)))
    counts = Counter(word for of_one in train[1] for word in of_one)
    vocabulary = sorted((w for w, n in counts.items() if n >= LEAST), key=lambda w: (-counts[w], w))
    mean, deviation = train[0].mean(), train[0].std()

    def distinct(images, of_each, category):
        has = multi_hot(of_each, vocabulary)
        first = np.sort(np.unique(has, axis=0, return_index=True)[1])
        first = first[has[first].any(1)]
        return {"image": (images[first] - mean) / deviation, "words": has[first], "category": category[first]}

    old = distinct(*train)
    by_vendor = [{**old, "image": old["image"][:, part]} for part in (slice(VENDORS), slice(VENDORS, None))]
    return {"train": by_vendor[0], "new_vendor": by_vendor[1], "new_emoji": distinct(*new)}


def draw(key: jax.Array, num_emoji: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Rows of as many different emoji `[size]`, and which vendor's drawing of each `[size]`."""
    rows_key, vendor_key = jax.random.split(key)
    rows = jax.random.permutation(rows_key, num_emoji)[:size]
    return rows, jax.random.randint(vendor_key, (size,), 0, VENDORS)


def keyword_words(keywords: dict[str, np.ndarray]) -> dict[frozenset[str], list[str]]:
    """The words of the keywords of each emoji, by those of its name, or of its short name where no other has that."""
    names, texts = ([value.decode() for value in keywords[column]] for column in ("name", "text"))
    short = {words(text.split("\n")[0]): sorted(words(text)) for text in texts}
    return short | {words(name): sorted(words(text)) for name, text in zip(names, texts)}


def words(text: str) -> frozenset[str]:
    """Runs of letters and digits, in lower case and without accents."""
    plain = unicodedata.normalize("NFKD", re.sub("['\u2019]", "", text)).encode("ascii", "ignore").decode()
    return frozenset(re.findall("[a-z0-9]+", plain.lower()))


def multi_hot(rows: list[list[str]], vocabulary: list[str]) -> np.ndarray:
    """Which words of the vocabulary each row has, float32 `[N, V]`."""
    place = {word: v for v, word in enumerate(vocabulary)}
    has = np.zeros((len(rows), len(vocabulary)), np.float32)
    for row, of_one in zip(has, rows):
        row[[place[word] for word in of_one if word in place]] = 1
    return has


def word_ids(has: np.ndarray) -> np.ndarray:
    """The ids of the words of each row, int32 `[N, C]`, then -1."""
    ids = np.full((len(has), int(has.sum(1).max())), -1, np.int32)
    for row, present in zip(ids, has):
        found = np.flatnonzero(present)
        row[: len(found)] = found
    return ids


def _with_words(
    split: str, words_of: dict[frozenset[str], list[str]]
) -> tuple[np.ndarray, list[list[str]], np.ndarray]:
    """Images of the emoji whose name the keywords know, averaged over squares of pixels, their words and categories."""
    drawings = [arrays(style, split) for style in STYLES]
    keys = [words(name.decode()) for name in drawings[0]["name"]]
    known = [row for row, key in enumerate(keys) if key in words_of]
    images = np.stack([drawing["image"][known] for drawing in drawings], axis=1)
    side = images.shape[2] // SIDE
    pooled = images.reshape(len(known), len(STYLES), SIDE, side, SIDE, side, 3).mean((3, 5), dtype=np.float32)
    return pooled, [words_of[keys[row]] for row in known], drawings[0]["label"][known]
