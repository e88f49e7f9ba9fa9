"""Facility location on a pool, level by level, as in distributed greedy (GreeDi).

Level 0 shuffles all rows into parts that fit in memory, and chooses k medoids in each part. The medoids of all parts,
weighted by the rows that each stands for, are the rows of the next level, until one part holds a whole level. The
greedy in this last part makes the final choice.

In all other parts, medoids are chosen to represent the members of their own part. In the last part, this would measure
the choice by a few medoids only. The last medoids are therefore chosen to represent a random sample of the level
before: of all rows, or of weighted medoids.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.pool._centers import nearest_center, points_at
from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._similarities import similarity, usable_features
from minibatch_jax.selection.coresets import medoid_weights

ITEMS = 4  # the last medoids represent a sample of at most this many times the rows of a part


class Plan(NamedTuple):
    """What all rounds share.

    Attributes:
      k: medoids of each part.
      metric: metric of the distances.
      rows_per_part: most rows of a part.
      seed: seed of all shuffles.
      order: `[N]`, shuffled rows of level 0.
      level_sizes: most rows of each level.
    """

    k: int
    metric: str
    rows_per_part: int
    seed: int
    order: np.ndarray
    level_sizes: list[int]


def medoids_job(rows: Rows, k: int, metric: str, rows_per_part: int, seed: int) -> Job:
    """Make the job. Its state: rows and weights of this level (empty at level 0), and medoids of the finished parts."""
    sizes = [rows.size]
    while sizes[-1] > rows_per_part:
        sizes.append(_parts(sizes[-1], rows_per_part) * k)
    total = sum(_parts(size, rows_per_part) for size in sizes)
    plan = Plan(k, metric, rows_per_part, seed, np.random.default_rng(seed).permutation(rows.size), sizes)
    nobody = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Job(
        init=lambda: _level(0, *nobody, *nobody, done=0),
        step=lambda state: _choose(rows, plan, state),
        progress=lambda state: int(state["done"]) / total,
        result=lambda state: _result(rows, plan, state),
    )


def _choose(rows: Rows, plan: Plan, state: State) -> State:
    """Choose the medoids of one part in each process. After the last part, the medoids become the next level."""
    level, part = int(state["level"]), int(state["part"])
    members, weights = state["rows"], state["weights"]
    if level == 0:
        members, weights = plan.order, np.ones(rows.size, np.float32)
    count = _parts(plan.level_sizes[level], plan.rows_per_part)
    mine = part + jax.process_index()
    if mine < count:
        found = slice(len(members) * mine // count, len(members) * (mine + 1) // count)
        items = (state["items"], state["item_weights"]) if count == 1 and len(state["items"]) else None
        state = _keep(state, mine, *_of_part(rows, plan, members[found], weights[found], items))
    done = int(state["done"]) + min(jax.process_count(), count - part)
    if part + jax.process_count() < count:
        return state | {"part": np.array(part + jax.process_count()), "done": np.array(done)}
    everyone = gather({name: value for name, value in state.items() if name.startswith("kept")})
    kept = {name: np.concatenate([e[name] for e in everyone]) for name in everyone[0]}
    by_part = np.argsort(kept["kept_part"], kind="stable")
    survivors, survived, gains = (kept[f"kept_{name}"][by_part] for name in ("rows", "weights", "gains"))
    items = np.sort(np.random.default_rng((plan.seed, level)).permutation(len(members))[: ITEMS * plan.rows_per_part])
    return _level(level + 1, survivors, survived, members[items], weights[items], done) | {"gains": gains}


def _result(rows: Rows, plan: Plan, state: State) -> tuple:
    chosen, missing, unit = state["rows"], plan.k - len(state["rows"]), plan.metric == "cosine"
    squares, owners = nearest_center(rows, unit, points_at(rows, chosen, unit))
    exists = np.isfinite(squares)
    dropped = rows.report().dropped
    distances = np.sqrt(squares[exists]) if plan.metric == "euclidean" else squares[exists]
    counts = np.bincount(owners[exists], minlength=plan.k).astype(np.float64)
    found = gather({"counts": counts, "cost": np.array(distances.sum(dtype=np.float64))})
    return (
        np.append(chosen, np.full(missing, rows.size)),
        np.sum([f["counts"] for f in found], 0).astype(np.float32),
        np.append(state["gains"], np.zeros(missing, np.float32)),
        sum(float(f["cost"]) for f in found) / (rows.size - dropped),
    )


def _parts(size: int, rows_per_part: int) -> int:
    return -(-size // rows_per_part)


def _level(
    level: int, members: np.ndarray, weights: np.ndarray, items: np.ndarray, item_weights: np.ndarray, done: int
) -> State:
    return {
        "level": np.array(level),
        "part": np.array(0),
        "done": np.array(done),
        "rows": members,
        "weights": weights,
        "items": items,
        "item_weights": item_weights,
        "kept_rows": np.zeros(0, np.int64),
        "kept_weights": np.zeros(0, np.float32),
        "kept_gains": np.zeros(0, np.float32),
        "kept_part": np.zeros(0, np.int64),
    }


def _keep(state: State, part: int, members: np.ndarray, weights: np.ndarray, gains: np.ndarray) -> State:
    new = {
        "kept_rows": members,
        "kept_weights": weights,
        "kept_gains": gains,
        "kept_part": np.full(len(members), part),
    }
    return state | {name: np.append(state[name], value) for name, value in new.items()}


def _of_part(
    rows: Rows, plan: Plan, members: np.ndarray, weights: np.ndarray, items: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return medoids of some rows, their weights and gains. They represent `items`, or the rows if `items` is None."""
    missing = plan.rows_per_part - len(members)
    features, weights = np.pad(rows.at(members), ((0, missing), (0, 0))), np.pad(weights, (0, missing))
    if items is None:
        chosen = _medoids(features, weights, plan.k, plan.metric)
    else:
        chosen = _medoids_of_items(features, weights, rows.at(items[0]), items[1], plan.k, plan.metric)
    indices, represented, gains = map(np.asarray, chosen)
    found = indices < len(members)
    return members[indices[found]], represented[found], gains[found]


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def _medoids(features, weights, k, metric):
    points, exists = usable_features(features, weights > 0, metric=metric)
    represented = jnp.where(exists, weights, 0)
    found = similarity(points, exists, metric)
    nearness = found.rows(jnp.arange(points.shape[0]))
    medoids = _greedy.of_matrix(nearness, found.bound, k, represented, exists)
    return medoids.indices, medoid_weights(medoids, item_weights=represented), medoids.gains


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def _medoids_of_items(features, weights, item_features, item_weights, k, metric):
    candidates = features.shape[0]
    points, exists = usable_features(jnp.concatenate([features, item_features]), metric=metric)
    exists &= jnp.concatenate([weights > 0, item_weights > 0])
    represented = jnp.where(exists, jnp.concatenate([jnp.zeros_like(weights), item_weights]), 0)[candidates:]
    found = similarity(points, exists, metric)
    nearness = found.rows(jnp.arange(candidates))[:, candidates:]
    medoids = _greedy.of_matrix(nearness, found.bound, k, represented, exists[:candidates])
    return medoids.indices, medoid_weights(medoids, item_weights=represented, own_self=False), medoids.gains
