"""Case Q: every query strategy on 100,000 rows of 20 classes, against small-text and scikit-activeml.

Features of width 64 and length 1 around 200 centers, committees of 10 members, 200 labeled rows; 100 rows are chosen,
by BatchBALD 10. A peer that would take minutes or more than 4 GB runs on fewer rows, and ours beside it too: "beside a
peer" says on how many. Calls of ours and of the peer take turns in one process, each warm; the ratio is the time of the
peer divided by ours. Name strategies to run a few: the table comes from several processes of a few each.

jax 0.10.2, small-text 1.4.1, scikit-activeml 1.0.1, scikit-learn 1.9.1, on one core of a machine that other work kept
busy (load average 5 to 17 on 2 cores), so that medians of one table differ up to tenfold from those of a quiet machine;
the ratio is what it tells.

  ms, median (minimum)        100,000 rows  beside a peer           ours            peer ratio  peer
  least confidence             5.84 (4.36)   100000 k=100    5.84 (4.36)      6.61 (6.6)  1.13  small-text
  margin                       11.9 (5.33)   100000 k=100    11.9 (5.33)       266 (262)  22.3  small-text
  entropy                         100 (76)    10000 k=100    49.8 (26.8)   33500 (32900)   673  small-text
  BALD                         3000 (2890)   100000 k=100    3000 (2890)     6160 (3760)  2.05  small-text
  vote entropy                 38.2 (35.3)   100000 k=100    38.2 (35.3)       190 (132)  4.98  scikit-activeml
  BatchBALD, 512 samples     11600 (11600)       1000 k=4    24.1 (12.3)      1740 (941)  72.3  scikit-activeml
  EGL, last layer                932 (880)              -              -               -     -  none without torch
  EGL-word, 16 words         77200 (77200)              -              -               -     -  none without torch
  CAL                          3400 (3350)     4000 k=100    46.9 (43.7)       882 (821)  18.8  small-text
  core-set                     8760 (5560)      4000 k=20      148 (140)     4870 (4710)  32.9  small-text
  light-weight core-set        43.4 (37.5)   100000 k=100    43.4 (37.5)     90.7 (78.4)  2.09  small-text
  embedding k-means          20900 (17400)   100000 k=100  20900 (17400)   32400 (27000)  1.55  small-text
  BADGE                        3410 (3400)    10000 k=100      425 (413)   26300 (20600)  61.8  scikit-activeml
  ProbCover                 37500 (37500)*     4000 k=100    4460 (3830)   19600 (19200)   4.4  scikit-activeml
  TypiClust                  48500 (48500)    10000 k=100    2360 (2310)     3380 (3160)  1.43  scikit-activeml
  discriminative, 1 round        186 (186)   100000 k=100      186 (186)       212 (183)  1.14  scikit-activeml
  CVIRS                        6370 (5420)   100000 k=100    6370 (5420)     6730 (6620)  1.06  small-text
  adaptive inconsistency        297 (85.6)              -              -               -     -  none in small-text 1.4.1
  stop by kappa                95.5 (92.3)     100000 k=1    95.5 (92.3)       180 (175)  1.89  small-text

* on 20,000 rows: the time grows with their square. Compilation took 0.6 s for a score in the quietest run, 6 to 45 s
under load, longest for ProbCover, k-means and TypiClust. small-text measures the core-set against all chosen rows again
in each step, and has CAL look for neighbors in the pool. Discriminative active learning of scikit-activeml fits one
logistic regression by L-BFGS on all rows, ours one by 100 steps. EGL of small-text needs torch, and small-text has no
BADGE, ProbCover, TypiClust or BatchBALD; ProbCover of scikit-activeml keeps all pairs, 80 GB for 100,000 rows.
"""

import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import _strategies_peers as peers
from experiments.speed._strategies_peers import Pool
from minibatch_jax import selection, weights_of

CLASSES, WIDTH, MEMBERS, LABELED = 20, 64, 10, 200
RADIUS = 1.0


class Case(NamedTuple):
    """One strategy.

    Attributes:
      ours: `ours(pool, k) -> choice`, of a pool of JAX arrays.
      peer: `peer(pool, k)` makes the call of the peer; None if none is installed here.
      rows: on how many rows both run.
      k: how many rows they choose.
      peer_name: whose it is, and what differs.
      repeats: calls of each that are timed.
    """

    ours: Callable[[Pool, int], Any]
    peer: Callable[[Pool, int], Callable[[], Any]] | None
    rows: int
    k: int
    peer_name: str
    repeats: int = 3


def pool_of(rows: int, seed: int = 0) -> Pool:
    """Return a pool of clusters, with predictions by a linear layer."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(200, WIDTH))
    x = centers[rng.integers(0, 200, rows + LABELED)] + rng.normal(size=(rows + LABELED, WIDTH))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    layers = 8 * rng.normal(size=(MEMBERS, WIDTH, CLASSES)).astype(np.float32)
    logits = x @ layers[0]
    committee = np.stack([x[:rows] @ (layers[0] + layer / 4) for layer in layers], axis=1)
    known = logits[rows:]
    return Pool(logits[:rows], x[:rows], committee, known, x[rows:], known.argmax(1), known > 4)


def top(scores: jax.Array, k: int) -> jax.Array:
    return selection.topk_mask(scores, k, key=0)


def with_known(pool: Pool) -> tuple[jax.Array, jax.Array]:
    """Return features of pool and labeled rows, and the mask of the labeled ones."""
    rows = jnp.concatenate([pool.features, pool.known_features])
    return rows, jnp.arange(rows.shape[0]) >= pool.features.shape[0]


def core_set(pool: Pool, k: int) -> jax.Array:
    rows, labeled = with_known(pool)
    return selection.k_center(rows, k, chosen=labeled).indices


def lightweight(pool: Pool, k: int) -> Any:
    select = selection.keep_lightweight_coreset(k, 0, weighting="own")
    return weights_of(select, jnp.ones(pool.features.shape[0]), features=pool.features)


def prob_cover(pool: Pool, k: int) -> jax.Array:
    rows, labeled = with_known(pool)
    return selection.prob_cover_indices(0, rows, k, RADIUS, metric="euclidean", labeled=labeled).indices


def typi_clust(pool: Pool, k: int) -> jax.Array:
    rows, labeled = with_known(pool)
    return selection.typi_clust_indices(0, rows, k, LABELED + k, metric="euclidean", labeled=labeled)


def discriminative(pool: Pool, k: int) -> jax.Array:
    rows, labeled = with_known(pool)
    return selection.discriminative_indices(0, rows, k, labeled, num_rounds=1)


def words(pool: Pool, k: int) -> jax.Array:
    """Texts of 16 of 5,000 words: a bag of embeddings and a linear layer."""
    numbers = jax.random.randint(jax.random.key(0), (pool.features.shape[0], 16), 0, 5000)
    return top(selection.expected_word_gradient_length(_bag, jnp.resize(pool.features, (5000, WIDTH)), numbers), k)


def _bag(vectors: jax.Array, _: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.mean(vectors, axis=0)) @ jnp.ones((WIDTH, CLASSES))


def kappa(pool: Pool, k: int) -> jax.Array:
    rule = selection.stop_by_kappa(window=1)
    state = rule.update(rule.init(pool.logits.shape[0]), pool.logits)[1]
    return rule.update(state, pool.committee[:, 0])[0]


MANY = 100_000
CASES = {
    "least confidence": Case(
        lambda p, k: top(selection.least_confidence(p.logits), k),
        peers.uncertainty("LeastConfidence"),
        MANY,
        100,
        "small-text",
    ),
    "margin": Case(
        lambda p, k: top(selection.negative_margin(p.logits), k),
        peers.uncertainty("BreakingTies"),
        MANY,
        100,
        "small-text",
    ),
    "entropy": Case(
        lambda p, k: top(selection.prediction_entropy(p.logits), k),
        peers.uncertainty("PredictionEntropy"),
        10_000,
        100,
        "small-text",
        2,
    ),
    "BALD": Case(
        lambda p, k: top(selection.consensus_divergence(p.committee), k), peers.bald, MANY, 100, "small-text", 3
    ),
    "vote entropy": Case(
        lambda p, k: top(selection.vote_entropy(p.committee), k), peers.vote_entropy, MANY, 100, "scikit-activeml", 3
    ),
    "BatchBALD, 512 samples": Case(
        lambda p, k: selection.batch_bald_indices(0, p.committee, k, num_samples=512).indices,
        peers.batch_bald,
        1000,
        4,
        "scikit-activeml",
        2,
    ),
    "EGL, last layer": Case(
        lambda p, k: top(selection.expected_gradient_length(p.logits, p.features), k),
        None,
        MANY,
        100,
        "none without torch",
    ),
    "EGL-word, 16 words": Case(words, None, MANY, 100, "none without torch", 2),
    "CAL": Case(
        lambda p, k: top(selection.contrastive_scores(p.logits, p.features, p.known_logits, p.known_features), k),
        peers.contrast,
        4000,
        100,
        "small-text, neighbors in the pool",
        2,
    ),
    "core-set": Case(core_set, peers.core_set, 4000, 20, "small-text", 2),
    "light-weight core-set": Case(lightweight, peers.lightweight, MANY, 100, "small-text"),
    "embedding k-means": Case(
        lambda p, k: selection.k_means_indices(0, p.features, k), peers.k_means, MANY, 100, "small-text", 2
    ),
    "BADGE": Case(
        lambda p, k: selection.badge_indices(0, p.logits, p.features, k), peers.badge, 10_000, 100, "scikit-activeml", 2
    ),
    "ProbCover": Case(prob_cover, peers.prob_cover, 4000, 100, "scikit-activeml", 2),
    "TypiClust": Case(typi_clust, peers.typi_clust, 10_000, 100, "scikit-activeml", 2),
    "discriminative, 1 round": Case(discriminative, peers.discriminative, MANY, 100, "scikit-activeml, L-BFGS", 2),
    "CVIRS": Case(
        lambda p, k: top(selection.cvirs_scores(p.logits, p.several), k), peers.cvirs, MANY, 100, "small-text", 2
    ),
    "adaptive inconsistency": Case(
        lambda p, k: top(selection.adaptive_inconsistency(p.logits, 2.0), k),
        None,
        MANY,
        100,
        "none in small-text 1.4.1",
    ),
    "stop by kappa": Case(kappa, peers.kappa, MANY, 1, "small-text", 3),
}
FEW = {"BatchBALD, 512 samples": 10}  # k of ours alone
ALONE = {"ProbCover": 20_000}  # rows of ours alone, where all are too many
SLOW = ("BatchBALD, 512 samples", "ProbCover", "TypiClust", "EGL-word, 16 words")  # once on all rows


def once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def shown(times: list[float]) -> str:
    return f"{statistics.median(times):.3g} ({min(times):.3g})" if times else "-"


def measure(name: str, case: Case, pool: Pool) -> None:
    """Print the row of one strategy: both on the rows that the peer can take, and ours on all."""
    own, theirs, alone, compiling = [], [], [], 0.0
    most = ALONE.get(name, MANY)
    for rows in dict.fromkeys((case.rows, most)):
        part = Pool(*(a[:rows] if len(a) == MANY else a for a in pool))
        arrays, k = jax.tree.map(jnp.asarray, part), case.k if rows == case.rows else FEW.get(name, 100)
        program = jax.jit(lambda p, k=k: case.ours(p, k))
        start = time.perf_counter()
        compiled = program.lower(arrays).compile()
        compiling = 1e3 * (time.perf_counter() - start)
        call = lambda compiled=compiled, arrays=arrays: jax.block_until_ready(compiled(arrays))  # noqa: E731
        if rows == case.rows and case.peer is not None:
            peer = case.peer(part, case.k)
            call()
            for _ in range(case.repeats):
                own.append(once(call))
                theirs.append(once(peer))
        if rows == most:
            calls = 1 if name in SLOW else 4  # the first of several is not counted
            alone = own if own and rows == case.rows else [once(call) for _ in range(calls)][-3:]
    ratio = f"{statistics.median(theirs) / statistics.median(own):.3g}" if own else "-"
    beside = (f"{case.rows} k={case.k}", shown(own), shown(theirs), ratio) if own else ("-",) * 4
    print(line(name, shown(alone), f"{compiling:.0f}", *beside, case.peer_name))
    sys.stdout.flush()


def line(*cells: str) -> str:
    """Return a row of the table."""
    widths = -25, 16, 8, 13, 16, 16, 6
    return " ".join(f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(cells, widths)) + f"  {cells[-1]}"


def main(names: tuple[str, ...] = ()) -> None:
    """Print the table; with names, only those strategies."""
    jax.config.update("jax_enable_compilation_cache", False)
    versions = [
        f"{p} {importlib.metadata.version(p)}" for p in ("jax", "small-text", "scikit-activeml", "scikit-learn")
    ]
    print(f"Q. query strategies, {', '.join(versions)}; load average {os.getloadavg()[0]:.1f}")
    print(line("ms", "ours, all rows", "compile", "beside a peer", "ours", "peer", "ratio", "the peer"))
    pool = pool_of(MANY)
    for name in names or CASES:
        measure(name, CASES[name], pool)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
