"""Texts of four domains, of which a pool has plenty of two and a target has all alike."""

from typing import Literal, NamedTuple

import numpy as np

from experiments.datasets import arrays
from experiments.shared.latent import latent_vectors

Task = Literal["newsgroups", "sentiment"]
DOMAINS = {"newsgroups": (1, 3, 4, 6), "sentiment": (0, 1, 2, 3)}
"""comp, rec, sci, talk; amazon, movies, news, tweets"""

POOL, BEFORE, TARGET, TEST = 2500, 1000, 300, 800
PLENTY_SHARE = 0.45
"""of the candidates, for each of two domains; the other two have what is left"""
DIMENSIONS = 200


class Rows(NamedTuple):
    """Features `[N, D]` of unit length, labels `[N]`, and whether the domain is scarce in the pool, `[N]`."""

    features: np.ndarray
    label: np.ndarray
    scarce: np.ndarray


def draw_rows(task: Task, validate: bool, seed: int) -> list[Rows]:
    """Candidates, rows trained on before, target and test rows, all different."""
    rng = np.random.default_rng(seed)
    texts, label, domain = documents(task, "train")
    scarce = rng.permutation(DOMAINS[task])[2:]
    parts = [(texts[rows], label[rows], domain[rows]) for rows in drawn(rng, domain, scarce)]
    if not validate:
        test = documents(task, "test")
        rows = even_sample(rng, test[2], DOMAINS[task], TEST)
        parts[3] = test[0][rows], test[1][rows], test[2][rows]
    features = embeddings([list(texts) for texts, _, _ in parts])
    return [Rows(x, label, np.isin(domain, scarce)) for x, (_, label, domain) in zip(features, parts)]


def documents(task: Task, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts, labels and domains of all rows of the four domains."""
    data = arrays(task, split)
    rows = np.isin(data["domain"], DOMAINS[task])
    return data["text"][rows], data["label"][rows], data["domain"][rows]


def drawn(rng: np.random.Generator, domain: np.ndarray, scarce: np.ndarray) -> list[np.ndarray]:
    """Disjoint row numbers of the candidates, the rows before, the target, and rows to validate on."""
    sizes = [POOL, BEFORE, TARGET, TEST]
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for name in np.unique(domain):
        rows = rng.permutation(np.flatnonzero(domain == name))
        share = 0.5 - PLENTY_SHARE if name in scarce else PLENTY_SHARE
        counts = [round(size * s) for size, s in zip(sizes, (share, share, 0.25, 0.25))]
        for part, chosen in zip(parts, np.split(rows, np.cumsum(counts))):
            part.append(chosen)
    return [np.concatenate(part) for part in parts]


def even_sample(rng: np.random.Generator, domain: np.ndarray, names: tuple[int, ...], size: int) -> np.ndarray:
    """Rows of all domains in equal numbers."""
    each = size // len(names)
    return np.concatenate([rng.permutation(np.flatnonzero(domain == name))[:each] for name in names])


def embeddings(texts: list[list[bytes]]) -> list[np.ndarray]:
    """Latent semantics of the candidates' words and a constant, `[N, D + 1]` for each list of texts."""
    decoded = [[text.decode() for text in part] for part in texts]
    vectors = latent_vectors(decoded, DIMENSIONS, min_df=3, max_df=0.3)
    return [np.concatenate([v, np.full((len(v), 1), 0.1, np.float32)], axis=1) for v in vectors]
