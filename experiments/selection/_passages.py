"""Passages of Python source to choose from, with copies if wanted, and texts among them to continue."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets import arrays
from experiments.shared.latent import latent_vectors

Pool = Literal["single", "duplicates", "near copies"]

PROMPT = 128
POOL, COPIES, EVERY = 3000, 16, 4
TYPOS = 0.02
"""share of the bytes of a near copy that are others"""
DIMENSIONS = 128
PYTHON, PART_BEFORE = 2, 0.4


class Problem(NamedTuple):
    """What to choose from for each query.

    Attributes:
      passages: `[P, 256]` bytes of the pool.
      features: `[P, D]`.
      original: `[P]`, number of the passage that each is, or is a copy of.
      windows: `[Q, 256]` bytes; the first half of each is known.
      queries: `[Q, D]`, features of those halves.
    """

    passages: jax.Array
    features: jax.Array
    original: jax.Array
    windows: jax.Array
    queries: jax.Array


def windows_before() -> np.ndarray:
    """What the model is trained on before: all but the later Python windows, `[N, 256]`."""
    data = arrays("python_text", "train")
    python = np.flatnonzero(data["label"] == PYTHON)
    return np.delete(data["tokens"], python[int(PART_BEFORE * len(python)) :], axis=0)


@functools.lru_cache(maxsize=1)
def draw_problem(num_queries: int, validate: bool, pool: Pool, seed: int) -> Problem:
    """Successive windows as the pool, with copies of some, and windows among them as the queries, drawn with a seed."""
    rng = np.random.default_rng(seed)
    splits = [arrays("python_text", split) for split in ("train", "test")]
    passages, others = (data["tokens"][data["label"] == PYTHON] for data in splits)
    first = rng.integers(int(PART_BEFORE * len(passages)), len(passages) - POOL + 1)
    inside = np.arange(-(-first // 4), (first + POOL) // 4)  # four windows to train on, then one to test on
    windows = others[rng.permutation(inside[inside % 2 == validate])[:num_queries]]
    passages = passages[first : first + POOL]
    original = np.repeat(np.arange(POOL), np.where((np.arange(POOL) % EVERY == 0) & (pool != "single"), COPIES, 1))
    is_copy = (np.diff(original, prepend=-1) == 0) & (pool == "near copies")
    copies = with_typos(passages[original[is_copy]], rng)
    found = embeddings(passages, windows[:, :PROMPT], *([copies] if len(copies) else []))
    copied, features = passages[original], found[0][original]
    if len(copies):
        copied[is_copy], features[is_copy] = copies, found[2]
    return Problem(*map(jnp.asarray, (copied, features, original, windows, found[1])))


def with_typos(passages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Passages with some of their bytes replaced by random bytes of them."""
    if not len(passages):
        return passages
    return np.where(rng.random(passages.shape) < TYPOS, rng.choice(passages.ravel(), passages.shape), passages)


def embeddings(*windows: np.ndarray) -> list[np.ndarray]:
    """Latent semantics of runs of 3 to 5 characters in the words of the first windows; of all windows."""
    texts = [[row.tobytes().decode("latin-1") for row in rows] for rows in windows]
    return latent_vectors(texts, DIMENSIONS, analyzer="char_wb", ngram_range=(3, 5))
