"""Light-weight core-set of a pool, in two passes over the file: the mean, then the squared distances to it."""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows, usable


def lightweight_job(rows: Rows, k: int, weighting: str, chosen: np.ndarray, seed: int) -> Job:
    """Make the job. Its state: the mean, then the squared distance of own rows to it, -1 for what does not count."""
    return Job(
        init=lambda: {"mean": _mean(rows, chosen), "squares": np.zeros(0, np.float32), "done": np.array(0)},
        step=lambda state: _measure(rows, chosen, state),
        progress=lambda state: int(state["done"]),
        result=lambda state: _draw(rows, k, weighting, seed, state),
    )


def _mean(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """Return the mean of the rows that count. Chunks are summed in one order, for any number of processes."""
    taken, sums = rows.are_among(chosen), np.zeros((len(rows.own), rows.width + 1))
    for place, number in enumerate(rows.own):
        sums[place] = np.append(*map(np.asarray, _sum(rows.chunk(number), taken[rows.places(number)])))
    rows.report()
    total = np.concatenate([part["sums"] for part in gather({"sums": sums})]).sum(0)
    return (total[:-1] / max(total[-1], 1)).astype(np.float32)


def _measure(rows: Rows, chosen: np.ndarray, state: State) -> State:
    taken, squares = rows.are_among(chosen), np.empty(rows.own_rows, np.float32)
    for number in rows.own:
        places = rows.places(number)
        squares[places] = np.asarray(_squares(rows.chunk(number), taken[places], state["mean"]))
    return state | {"squares": squares, "done": np.array(1)}


def _draw(rows: Rows, k: int, weighting: str, seed: int, state: State) -> tuple:
    """Return the rows that are drawn, with weights, probabilities, and the mean squared distance to the mean."""
    squares = np.concatenate([part["squares"] for part in gather({"squares": state["squares"]})])[: rows.size]
    counts = squares >= 0
    number, scattered = max(int(counts.sum()), 1), np.where(counts, squares, 0).astype(np.float64)
    scatter = scattered.sum()
    chances = counts / number if scatter == 0 else (counts / number + scattered / scatter) / 2
    if weighting == "own":
        noise = np.asarray(jax.random.gumbel(jax.random.key(seed), (rows.size,), jnp.float32))
        scores = np.where(counts, np.log(np.where(counts, chances, 1)) + noise, -np.inf)
        kept = np.argsort(-scores, kind="stable")[: min(k, int(counts.sum()))]
        weights = np.ones(len(kept))
    else:  # in double precision: in single, a million rows have chances of a few units in the last place
        cumulative = np.cumsum(chances)
        draws = np.searchsorted(cumulative, cumulative[-1] * (1 - np.random.default_rng(seed).random(k)))
        kept, times = np.unique(draws if counts.any() else draws[:0], return_counts=True)
        weights = times / (k * chances[kept])
    missing = np.zeros(k - len(kept))
    indices = np.append(kept, np.full(len(missing), rows.size))
    found = (np.append(value, missing).astype(np.float32) for value in (weights, chances[kept]))
    return indices, *found, float(scatter / number)


@jax.jit
def _sum(chunk, taken):
    points, counts = usable(chunk, unit=False)
    counts &= ~taken
    return jnp.sum(jnp.where(counts[:, None], points, 0), 0), jnp.sum(counts, dtype=jnp.float32)


@jax.jit
def _squares(chunk, taken, mean):
    points, counts = usable(chunk, unit=False)
    return jnp.where(counts & ~taken, jnp.sum((points - mean[None]) ** 2, 1), -1)
