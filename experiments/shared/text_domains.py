"""Twelve domains of real text as windows of bytes: three kinds of Python's own text, four sources of rated sentences,
four groups of newsgroups, and spam mails.

Documents are held out in runs: 32 neighbors of a domain, of every five such runs one. So no sentence of a held-out
review, no reply of a held-out thread and no line of a held-out page is trained on, except at the ends of a run. Windows
are cut after that. A domain's windows to train on are as many as it has, from 8 thousand of 32 bytes (reviews of
products) to 300 thousand (spam); its held-out windows are 512.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays

DATASETS = ("python_text", "sentiment", "newsgroups", "spam")
DOMAINS = (
    *("c", "prose", "python"),
    *("amazon", "movies", "news", "tweets"),
    *("computers", "recreation", "science", "debate"),
    "spam",
)
"""names of the domains, in the order of their numbers"""

NEWSGROUPS = ((1,), (3,), (4,), (0, 5, 6))
"""comp; rec; sci; alt, soc and talk. What is for sale (misc) is left out."""
SPAM_FOLDERS = (3, 4)
"""of the mails; the others are no spam"""

RUN = 32
"""documents that are held out together; of the Python text, windows of 256 bytes"""
HELD_OUT_EVERY = 5
HELD_OUT = 512
"""held-out windows of a domain"""

Split = dict[str, np.ndarray]


def text_domains(
    length: int = 32, *, validate: bool = False, per_domain: int | None = None, fraction: float = 1.0, seed: int = 0
) -> dict[str, Split]:
    """Windows of the twelve domains, to train on and held out.

    Args:
      length: bytes of a window.
      validate: hold out runs of the training documents in place of the test documents, to tune on.
      per_domain: how many training windows a domain has at most; all by default.
      fraction: share of its training windows that each domain keeps, before `per_domain`; a small one makes the domains
        small beside a run, as they are in practice, and keeps their proportions.
      seed: of the choice of windows; which documents are held out does not depend on it.

    Returns:
      Splits "train" and "validation" of `tokens` `[N, length]` uint8 and `domain` `[N]` int32, sorted by domain. The
      second holds 512 windows of each domain, so `tokens.reshape(12, 512, length)` goes to `domain_losses`.
    """
    return windows_of(documents(), length, validate=validate, per_domain=per_domain, fraction=fraction, seed=seed)


@functools.cache
def documents() -> list[list[bytes]]:
    """The documents of each domain, in the order of their source."""
    python, sentiment, spam = (_in_order(name) for name in ("python_text", "sentiment", "spam"))
    posts = [arrays("newsgroups", split) for split in ("train", "test")]
    news = {name: np.concatenate([part[name] for part in posts]) for name in ("text", "domain")}
    kinds = [[row.tobytes() for row in python["tokens"][python["label"] == kind]] for kind in range(3)]
    kinds += [list(sentiment["text"][sentiment["domain"] == domain]) for domain in range(4)]
    kinds += [list(news["text"][np.isin(news["domain"], group)]) for group in NEWSGROUPS]
    return [*kinds, list(spam["text"][np.isin(spam["domain"], SPAM_FOLDERS)])]


def windows_of(
    domains: list[list[bytes]],
    length: int,
    *,
    validate: bool = False,
    per_domain: int | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    held_out: int = HELD_OUT,
) -> dict[str, Split]:
    """The splits of `text_domains` from documents of each domain."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for number, texts in enumerate(domains):
        train, tested = _apart(texts)
        if validate:
            train, tested = _apart(train)
        cut = {"train": _cut(train, length), "validation": _cut(tested, length)}
        if len(cut["validation"]) < held_out:
            raise ValueError(f"domain {number} has {len(cut['validation'])} held-out windows, wanted {held_out}.")
        sizes = {"train": max(1, round(fraction * len(cut["train"]))), "validation": held_out}
        if per_domain is not None:
            sizes["train"] = min(sizes["train"], per_domain)
        for split, windows in cut.items():
            chosen = np.sort(rng.permutation(len(windows))[: sizes[split]])
            splits[split].append(windows[chosen])
    return {
        split: {
            "tokens": np.concatenate(parts),
            "domain": np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
        }
        for split, parts in splits.items()
    }


def by_domain(split: Split, per_domain: int | None = None) -> np.ndarray:
    """Windows `[K, M, L]` of a split of `text_domains`, as many of each domain as the smallest has or as given."""
    counts = np.bincount(split["domain"])
    size = min(counts.min(), per_domain or counts.min())
    firsts = np.cumsum(counts) - counts
    return np.stack([split["tokens"][first : first + size] for first in firsts])


def domain_losses(apply: Callable[[Any, jax.Array], jax.Array], params: Any, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of each domain `[K]` in nats a byte, of windows `[K, M, L]`, a domain at a time."""
    return jax.lax.map(lambda windows: jnp.mean(byte_losses(apply, params, windows)), tokens)


def byte_losses(apply: Callable[[Any, jax.Array], jax.Array], params: Any, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of each window `[B]` in nats a byte."""
    tokens = tokens.astype(jnp.int32)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply(params, tokens), tokens), axis=1)


def _in_order(name: str) -> Split:
    """All rows of a data set of which every fifth is in the test set, in the order before the split."""
    train, test = arrays(name, "train"), arrays(name, "test")
    count = len(train["index"]) + len(test["index"])
    tested = np.arange(count) % 5 == 4
    rows = np.empty(count, np.int64)
    rows[~tested], rows[tested] = np.arange(len(train["index"])), len(train["index"]) + np.arange(len(test["index"]))
    return {column: np.concatenate([train[column], test[column]])[rows] for column in train}


def _apart(texts: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Documents to train on and held-out ones: the last of every five runs."""
    tested = np.arange(len(texts)) // RUN % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return list(_where(texts, ~tested)), list(_where(texts, tested))


def _where(texts: list[bytes], chosen: np.ndarray) -> Iterator[bytes]:
    return (text for text, is_chosen in zip(texts, chosen, strict=True) if is_chosen)


def _cut(texts: list[bytes], length: int) -> np.ndarray:
    """Consecutive windows `[N, length]` of the texts, a new line between two."""
    joined = b"\n".join(texts)
    return np.frombuffer(joined[: len(joined) // length * length], np.uint8).reshape(-1, length)
