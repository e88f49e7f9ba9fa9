"""Exact SIFT on a pool, with one pass over the file for each choice.

The kernel is an inner product, so the posterior covariance after some choices is a matrix `[D, D]`, and a pass needs
one product of every row with a vector. The state holds `Q + 1` numbers for every row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.geometry import product
from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows, usable


def sift_job(rows: Rows, k: int, queries: np.ndarray, noise: float) -> Job:
    """Make the job. Its state: variance of each own row and its covariance with the queries, the choices, the next."""
    norms = np.sqrt(np.sum(queries.astype(np.float64) ** 2, 1, keepdims=True))
    targets = queries / np.where(norms > 0, norms, 1)

    def result(state):
        left, indices = state["left"].astype(np.float32), state["indices"]
        weights = np.where(indices < rows.size, 1, 0).astype(np.float32)
        return (indices, weights, left, float(left[-1]))

    return Job(
        init=lambda: _init(rows, targets, noise),
        step=lambda state: _choose(rows, targets, noise, state),
        progress=lambda state: len(state["indices"]) / k,
        result=result,
    )


def _init(rows: Rows, targets: np.ndarray, noise: float) -> State:
    cross = np.zeros((rows.own_rows, len(targets)), np.float32)
    variance, gains = (np.full(rows.own_rows, -np.inf, np.float32) for _ in range(2))
    for number in rows.own:
        places, found = rows.places(number), _start(rows.chunk(number), targets.astype(np.float32), np.float32(noise))
        cross[places], variance[places], gains[places] = map(np.asarray, found)
    rows.report()
    return {
        "cross": cross,
        "variance": variance,
        "unknown": np.eye(rows.width),
        "next": np.array(_best(rows, gains)),
        "indices": np.zeros(0, np.int64),
        "left": np.zeros(0),
    }


def _choose(rows: Rows, targets: np.ndarray, noise: float, state: State) -> State:
    """Choose the next row, condition every row of the pool on it in one pass, and find the row to choose after it."""
    following, unknown = int(state["next"]), state["unknown"]
    row = rows.at(np.array([min(following, rows.size - 1)]))[0].astype(np.float64)
    norm = np.sqrt(np.sum(row**2))
    direction = unknown @ row / norm if following < rows.size and norm > 0 else np.zeros(rows.width)
    direction /= np.sqrt(direction @ row / max(norm, 1e-300) + noise)
    seen = targets @ direction
    cross, variance = state["cross"].copy(), state["variance"].copy()
    gains = np.empty_like(variance)
    for number in rows.own:
        places = rows.places(number)
        inputs = cross[places], variance[places], direction.astype(np.float32), seen.astype(np.float32)
        updated = _update(rows.chunk(number), *inputs, np.float32(noise))
        cross[places], variance[places], gains[places] = map(np.asarray, updated)
    before = state["left"][-1] if len(state["left"]) else np.sum(targets**2)
    return {
        "cross": cross,
        "variance": variance,
        "unknown": unknown - np.outer(direction, direction),
        "next": np.array(_best(rows, gains)),
        "indices": np.append(state["indices"], following),
        "left": np.append(state["left"], max(before - np.sum(seen**2), 0)),
    }


def _best(rows: Rows, gains: np.ndarray) -> int:
    """Return the row of the largest gain in the whole pool, or N if none may be chosen. Ties go to the lowest row."""
    place = int(np.argmax(gains)) if len(gains) else 0
    gain = gains[place] if len(gains) else np.float32(-np.inf)
    found = gather({"gain": np.array(gain), "row": np.array(rows.first + place)})
    best = max(found, key=lambda f: (f["gain"], -f["row"]))
    return int(best["row"]) if best["gain"] > -np.inf else rows.size


@jax.jit
def _start(chunk, targets, noise):
    points, finite = usable(chunk, unit=True)
    cross = product(points, targets.T)
    variance = jnp.where(finite, jnp.sum(points**2, 1), -jnp.inf)
    return cross, variance, _gains(cross, variance, noise)


@jax.jit
def _update(chunk, cross, variance, direction, seen, noise):
    points, finite = usable(chunk, unit=True)
    new = product(points, direction)
    cross = cross - new[:, None] * seen[None]
    variance = jnp.where(finite, jnp.maximum(variance - new**2, 0), -jnp.inf)
    return cross, variance, _gains(cross, variance, noise)


def _gains(cross, variance, noise):
    gains = jnp.sum(cross**2, 1) / (variance + noise)
    return jnp.where(variance > -jnp.inf, gains, -jnp.inf)
