"""Case Q: every query strategy on 100,000 rows of 20 classes, against small-text and scikit-activeml.

Features of width 64 and length 1 around 200 centers, committees of 10 members, 200 labeled rows; 100 rows are chosen,
by BatchBALD 10. A peer that would take minutes or more than 4 GB runs on fewer rows, and ours beside it too: "beside a
peer" says on how many. Calls of ours and of the peer take turns in one process, each warm; the ratio is the time of the
peer divided by ours. Name strategies to run a few.

jax 0.10.2, small-text 1.4.1, scikit-activeml 1.0.1, scikit-learn 1.9.1, one run on two cores of a quiet machine:

  ms, median (minimum)        100,000 rows  beside a peer           ours            peer ratio  peer
  least confidence              6.48 (6.28)   100000 k=100     6.48 (6.28)     6.61 (6.52)  1.02  small-text
  margin                        6.85 (6.84)   100000 k=100     6.85 (6.84)       256 (254)  37.4  small-text
  entropy                       4.96 (3.62)    10000 k=100     0.908 (0.7)     1300 (1300)  1440  small-text
  BALD                            86.5 (84)   100000 k=100       86.5 (84)     91.5 (90.8)  1.06  small-text
  vote entropy                    14.3 (12)   100000 k=100       14.3 (12)     72.9 (71.7)  5.09  scikit-activeml
  BatchBALD, 512 samples        2270 (2270)       1000 k=4     13.1 (12.9)       318 (107)  24.3  scikit-activeml
  EGL, last layer               30.3 (25.8)              -               -               -     -  none without torch
  EGL-word, 16 words            3880 (3880)              -               -               -     -  none without torch
  CAL                             270 (267)     4000 k=100     12.6 (10.6)       151 (138)    12  small-text
  core-set                        416 (405)      4000 k=20     14.2 (10.9)       345 (329)  24.3  small-text
  light-weight core-set         15.1 (11.7)   100000 k=100     15.1 (11.7)     23.3 (22.8)  1.54  small-text
  embedding k-means               777 (760)   100000 k=100       777 (760)     1590 (1510)  2.05  small-text
  BADGE                           241 (233)    10000 k=100     32.2 (32.1)      1010 (977)  31.6  scikit-activeml
  ProbCover                    1050 (1050)*     4000 k=100       139 (131)       801 (772)  5.76  scikit-activeml
  TypiClust                     2800 (2800)    10000 k=100       293 (289)       462 (452)  1.58  scikit-activeml
  discriminative, 1 round         151 (149)   100000 k=100       151 (149)       261 (203)  1.73  scikit-activeml
  CVIRS                         1390 (1390)   100000 k=100     1390 (1390)     2130 (2070)  1.54  small-text
  adaptive inconsistency         6.79 (5.3)              -               -               -     -  none in small-text
  stop by kappa                 5.04 (4.32)     100000 k=1     5.04 (4.32)     16.3 (15.9)  3.24  small-text

* on 20,000 rows: the time grows with their square. Compilation took 0.3 to 0.4 s for a score and 1.6 s at most,
for TypiClust. small-text measures the core-set against all chosen rows again
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
