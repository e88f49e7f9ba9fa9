"""BADGE on a pool: draws by k-means++ among gradients of the last layer, many of them from each pass over the files.

A draw takes the row of the largest score, the logarithm of the squared distance to the nearest gradient drawn before
plus Gumbel noise. A pass over both files updates the distances of all rows. Each further draw can only lower distances,
so what is left from the pass bounds the score of every row from above. For each of the next `ROUND` draws, the
`CANDIDATES` rows of the highest bounds are read into memory, where their distances are kept up to date. If the best of
them is above the bound of all other rows, it is the draw, and no other row has been read. Otherwise the next pass
begins.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.geometry import product
from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows
from minibatch_jax.selection._gradient_factors import (
    GradientFactors,
    gradient_factors,
    squared_distances_to,
    without_rounding,
)

CANDIDATES = 64
ROUND = 128


class _Candidates(NamedTuple):
    """Rows `[T, M]` that T draws may take, in ascending order, N for none; their distances and noise, and the bound.

    No other row can have a score above the bound `[T]`.
    """

    rows: np.ndarray
    nearest: np.ndarray
    noise: np.ndarray
    bound: np.ndarray


def badge_job(rows: Rows, k: int, chosen: np.ndarray, seed: int) -> Job:
    """Make the job. Its state: the squared distance of each own gradient to the nearest that was drawn, and all draws.

    The distance is -inf for rows that cannot be drawn.
    """
    return Job(
        init=lambda: _init(rows, chosen, seed),
        step=lambda state: _choose(rows, k, seed, state),
        progress=lambda state: int(state["passed"]) / k,
        result=lambda state: _result(rows, state),
    )


def _init(rows: Rows, chosen: np.ndarray, seed: int) -> State:
    """Draw the first among the longest gradients."""
    squares = np.empty(rows.own_rows, np.float32)
    for number in rows.own:
        squares[rows.places(number)] = np.asarray(_squares(rows.chunk(number), _logits(rows).chunk(number)))
    rows.report()
    squares[rows.are_among(chosen)] = -np.inf
    free = squares > -np.inf
    longest = max(float(part["top"]) for part in gather({"top": squares.max(initial=-np.inf)}))
    chances = np.where(free, squares == longest, -np.inf).astype(np.float32)
    (first,), _ = _draw(rows, chances, seed, range(1))
    return {
        "nearest": np.where(free, np.inf, -np.inf).astype(np.float32),
        "indices": np.array([first]),
        "distances": np.array([np.inf if first < rows.size else 0], np.float32),
        "passed": np.array(0),
    }


def _choose(rows: Rows, k: int, seed: int, state: State) -> State:
    """Update the distances by one pass with the new draws, then draw as many as are certain without another pass."""
    indices, passed = state["indices"], int(state["passed"])
    new = indices[passed:][indices[passed:] < rows.size]
    nearest = _nearest_in_pool(rows, state["nearest"], new)
    drawn, distances = _draw(rows, nearest, seed, range(len(indices), min(k, len(indices) + ROUND)))
    return {
        "nearest": nearest,
        "indices": np.append(indices, drawn),
        "distances": np.append(state["distances"], distances),
        "passed": np.array(len(indices)),
    }


def _result(rows: Rows, state: State) -> tuple:
    indices, left, count = state["indices"], 0.0, int(np.sum(state["indices"] < rows.size))
    for part in gather({"nearest": state["nearest"]}):
        free = part["nearest"][part["nearest"] > -np.inf]
        left, count = left + float(free.sum(dtype=np.float64)), count + len(free)
    weights = np.where(indices < rows.size, 1, 0).astype(np.float32)
    return indices, weights, np.sqrt(state["distances"]), left / max(count, 1)


def _draw(rows: Rows, nearest: np.ndarray, seed: int, draws: range) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the next draws, as many as are certain, and their squared distances to earlier draws."""
    if not draws:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    apart = any(part["apart"] for part in gather({"apart": np.array(np.any(nearest > 0))}))
    candidates = _candidates(rows, nearest, seed, draws, apart)
    known, places = np.unique(candidates.rows, return_index=True)
    distances = candidates.nearest.reshape(-1)[places]
    factors = _factors_at(rows, np.minimum(known, rows.size - 1))
    drawn, squares = [], []
    for row, noise, bound in zip(candidates.rows, candidates.noise, candidates.bound):
        places = np.searchsorted(known, row)
        scores = _scores(distances[places], noise, apart)
        best = int(np.argmax(scores))
        if drawn and (scores[best] == -np.inf or scores[best] <= bound):
            break
        if scores[best] == -np.inf:  # no row is left
            return np.full(len(draws), rows.size), np.zeros(len(draws), np.float32)
        place = places[best]
        drawn.append(known[place])
        squares.append(distances[place])
        distances = np.minimum(distances, np.asarray(_distances_to(factors, place))[: len(known)])
        distances[place] = -np.inf
    return np.array(drawn, np.int64), np.array(squares, np.float32)


def _candidates(rows: Rows, nearest: np.ndarray, seed: int, draws: range, apart: bool) -> _Candidates:
    """Return the rows of the highest scores of each draw, over all processes. Ties go to the lowest rows."""
    key, count = jax.random.key(seed), min(CANDIDATES + 1, rows.own_rows)
    shape = len(draws), count
    found: State = {name: np.zeros(shape, np.float32) for name in ("scores", "nearest", "noise")}
    found |= {"rows": np.zeros(shape, np.int64)}
    for t, draw in enumerate(draws) if count else ():
        noise = np.asarray(_noise(key, draw, rows.first, size=rows.size, own=rows.own_rows))
        scores = _scores(nearest, noise, apart)
        top = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        values = {"scores": scores[top], "nearest": nearest[top], "noise": noise[top], "rows": rows.first + top}
        for name, value in values.items():
            found[name][t] = value
    everyone = gather(found)
    scores, nearest, noise, row = (
        np.concatenate([part[name] for part in everyone], axis=1) for name in ("scores", "nearest", "noise", "rows")
    )
    row, nearest = np.where(scores > -np.inf, row, rows.size), np.where(scores > -np.inf, nearest, -np.inf)
    order = np.lexsort((row, -scores))
    ranked = np.take_along_axis(scores, order, axis=1)
    bound = ranked[:, CANDIDATES] if ranked.shape[1] > CANDIDATES else np.full(len(draws), -np.inf)
    order = order[:, :CANDIDATES]
    row, nearest, noise = (np.take_along_axis(array, order, axis=1) for array in (row, nearest, noise))
    order = np.argsort(row, axis=1, kind="stable")
    return _Candidates(*(np.take_along_axis(array, order, axis=1) for array in (row, nearest, noise)), bound)


def _scores(nearest: np.ndarray, noise: np.ndarray, apart: bool) -> np.ndarray:
    """Return the logarithms of the chances plus noise, -inf for no chance; all chances are one if not `apart`."""
    if not apart:
        return np.where(nearest > -np.inf, noise, -np.inf)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(nearest, 0)) + noise


def _nearest_in_pool(rows: Rows, nearest: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the distances after one pass over both files with some new draws, which can no longer be drawn."""
    nearest, count = nearest.copy(), len(centers)
    if count:
        factors = _factors_at(rows, centers)
        for number in rows.own:
            places = rows.places(number)
            chunk = rows.chunk(number), _logits(rows).chunk(number)
            nearest[places] = np.asarray(_nearer(*chunk, nearest[places], factors, np.int32(count)))
        nearest[rows.are_among(centers)] = -np.inf
    return nearest


def _factors_at(rows: Rows, indices: np.ndarray) -> GradientFactors:
    """Return the factors of rows of the pool, and of more rows, so that few shapes are compiled."""
    padded = np.append(indices, np.full((1 << (len(indices) - 1).bit_length()) - len(indices), indices[0]))
    return _factors(rows.at(padded), _logits(rows).at(padded))


def _logits(rows: Rows) -> Rows:
    assert rows.logits is not None
    return rows.logits


_distances_to = jax.jit(squared_distances_to)


@jax.jit
def _factors(features, logits):
    return gradient_factors(logits, features)[0]


@jax.jit
def _squares(features, logits):
    factors, free = gradient_factors(logits, features)
    return jnp.where(free, factors.squares, -jnp.inf)


@jax.jit
def _nearer(features, logits, nearest, centers, count):
    factors = _factors(features, logits)
    inner = product(factors.residuals, centers.residuals.T) * product(factors.inputs, centers.inputs.T)
    squared = without_rounding(factors.squares[:, None], centers.squares[None], inner)
    squared = jnp.where((jnp.arange(centers.squares.shape[0]) < count)[None], squared, jnp.inf)
    return jnp.minimum(nearest, jnp.min(squared, axis=1))


@functools.partial(jax.jit, static_argnames=("size", "own"))
def _noise(key, draw, first, *, size, own):
    """Return the part `[own]` of the noise `[size]` of a draw, 0 past its end."""
    noise = jax.random.gumbel(jax.random.fold_in(key, draw), (size,), jnp.float32)
    return jax.lax.dynamic_slice(jnp.pad(noise, (0, own)), (first,), (own,))
