"""Exact k-center on a pool, with many new centers from each pass over the file.

A pass over the file updates the distance of every row to its nearest center. The `CANDIDATES` farthest rows are then
read into memory, and centers are chosen among them. A new center can only lower distances, so every row outside memory
stays at most as far as the farthest row that was not read. While the farthest row in memory is farther than that, it is
the farthest row of the whole pool, and it becomes a center without another pass. Otherwise the next pass begins.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.geometry import squared_distances, unit_rows
from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows, usable

CANDIDATES = 4096
BLOCK = 512


def centers_job(rows: Rows, k: int, unit: bool, chosen: np.ndarray) -> Job:
    """Make the job. Its state: the nearest center of each own row, the squared distance to it, and all centers.

    `before` is the squared distance to the nearest row that was chosen before, and -inf for chosen rows and centers.
    """
    return Job(
        init=lambda: _init(rows, unit, chosen),
        step=lambda state: _choose(rows, k, unit, state),
        progress=lambda state: min(int(state["passed"]) / k, 1.0),
        result=lambda state: _result(rows, k, state),
    )


def nearest_center(rows: Rows, unit: bool, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distance `[own rows]` to the nearest center, infinite for non-finite rows, and its number."""
    return _nearest_in_pool(rows, unit, centers, *_nothing(rows))


def _init(rows: Rows, unit: bool, chosen: np.ndarray) -> State:
    """Start from the rows chosen before, or with the row nearest to the mean as the first center."""
    nearest, owners = _nothing(rows)
    start = {"nearest": nearest, "owners": owners, "before": nearest, "passed": np.array(0)}
    nobody = {"centers": np.zeros(0, np.int64), "radii": np.zeros(0, np.float32)}
    chosen = np.array([], np.int64) if not len(chosen) else chosen[_measurable(rows, unit, chosen)]
    if len(chosen):
        before, _ = nearest_center(rows, unit, points_at(rows, chosen, unit))
        rows.report()
        return start | nobody | {"before": _marked(rows, before, chosen)}
    mean = _mean(rows, unit)
    distances = _nearest_in_pool(rows, unit, mean, *_nothing(rows))[0]
    rows.report()
    place = int(np.argmin(distances)) if len(distances) else 0
    found = gather({"distance": distances[place : place + 1], "row": np.array([rows.first + place])})
    best = min((f for f in found if len(f["distance"])), key=lambda f: (f["distance"][0], f["row"][0]))
    return start | {"centers": best["row"].astype(np.int64), "radii": np.array([np.inf], np.float32)}


def _choose(rows: Rows, k: int, unit: bool, state: State) -> State:
    """Update the distances by one pass over the pool with the new centers, then pick more centers."""
    centers, passed = state["centers"], int(state["passed"])
    new = centers[passed:][centers[passed:] < rows.size]
    points = points_at(rows, new, unit)
    nearest, owners = _nearest_in_pool(rows, unit, points, state["nearest"], state["owners"], passed)
    before = _marked(rows, state["before"], new)
    picked, radii = _pick(rows, np.minimum(before, nearest), k - len(centers), unit)
    return state | {
        "nearest": nearest,
        "owners": owners,
        "before": before,
        "centers": np.append(centers, picked),
        "radii": np.append(state["radii"], radii),
        "passed": np.array(len(centers)),
    }


def _result(rows: Rows, k: int, state: State) -> tuple:
    counts, costs = np.zeros(k), [0.0]
    for part in gather({name: state[name] for name in ("owners", "nearest", "before")}):
        counts += np.bincount(part["owners"][np.isfinite(part["nearest"])], minlength=k)
        left = np.minimum(part["nearest"], part["before"])
        costs.append(float(np.sqrt(left[np.isfinite(left)].max(initial=0))))
    return (state["centers"], counts.astype(np.float32), state["radii"], max(costs))


def _marked(rows: Rows, distances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the distances of this process's rows with -inf for those that are chosen."""
    return np.where(rows.are_among(chosen), -np.inf, distances).astype(np.float32)


def _measurable(rows: Rows, unit: bool, chosen: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(usable(jnp.asarray(rows.at(part)), unit)[1]) for part in _blocks(chosen)])


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + BLOCK] for start in range(0, len(array), BLOCK)]


def _nothing(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    return np.full(rows.own_rows, np.inf, np.float32), np.zeros(rows.own_rows, np.int32)


def _nearest_in_pool(
    rows: Rows, unit: bool, centers: np.ndarray, nearest: np.ndarray, owners: np.ndarray, offset: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Update the nearest centers in one pass over the pool, `BLOCK` centers at a time; skip non-finite rows."""
    nearest, owners = nearest.copy(), owners.copy()
    blocks = [(start, centers[start : start + BLOCK]) for start in range(0, len(centers), BLOCK)]
    padded = [(start, len(b), np.pad(b, ((0, _power_of_two(len(b)) - len(b)), (0, 0)))) for start, b in blocks]
    for number in rows.own if blocks else ():
        chunk, places = jnp.asarray(rows.chunk(number)), rows.places(number)
        best = jnp.asarray(nearest[places]), jnp.asarray(owners[places])
        for start, count, block in padded:
            best = _nearer(chunk, *best, block, np.int32(count), np.int32(offset + start), unit=unit)
        nearest[places], owners[places] = map(np.asarray, best)
    return nearest, owners


@functools.partial(jax.jit, static_argnames="unit")
def _nearer(chunk, nearest, owners, centers, count, offset, *, unit):
    points, finite = usable(chunk, unit)
    squares = squared_distances(points, centers, origin=centers[0])
    numbers = jnp.arange(centers.shape[0], dtype=jnp.int32)
    squares = jnp.where((numbers < count)[None], squares, jnp.inf)
    least = jnp.min(squares, 1)
    which = jnp.min(jnp.where(squares == least[:, None], numbers[None], centers.shape[0] - 1), 1)
    least = jnp.where(jnp.isfinite(least), jnp.sum((points - centers[which]) ** 2, 1), least)  # no cancellation
    closer = finite & (least < nearest)
    return jnp.where(closer, least, nearest), jnp.where(closer, which + offset, owners)


def _pick(rows: Rows, nearest: np.ndarray, count: int, unit: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the next centers, as many as are certain without another pass, and their distances to earlier centers."""
    if count == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    places = _farthest(nearest, CANDIDATES + 1)
    found = gather({"row": rows.first + places, "distance": nearest[places]})
    row, distance = (np.concatenate([f[name] for f in found]) for name in ("row", "distance"))
    order = np.lexsort((row, -distance))
    bound = distance[order[CANDIDATES]] if len(order) > CANDIDATES else -np.inf
    order = np.sort(order[:CANDIDATES])
    row, distance = row[order], distance[order].copy()
    if not len(row):
        return np.full(count, rows.size), np.zeros(count, np.float32)
    points, picked, radii = points_at(rows, row, unit), [], []
    while len(picked) < count:
        j = int(np.argmax(distance))
        if distance[j] == -np.inf or (picked and distance[j] <= bound):
            break
        picked.append(row[j])
        radii.append(np.sqrt(distance[j]))
        distance = np.minimum(distance, np.sum((points - points[j]) ** 2, 1))
        distance[j] = -np.inf
    if len(picked) == len(row) < count and bound == -np.inf:
        missing = count - len(picked)
        picked, radii = picked + [rows.size] * missing, radii + [0] * missing
    return np.array(picked, np.int64), np.array(radii, np.float32)


def _farthest(nearest: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest finite entries in ascending order. Ties go to the lowest place."""
    places = np.flatnonzero(np.isfinite(nearest))
    if len(places) <= count:
        return places
    values = nearest[places]
    cut = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = places[values > cut], places[values == cut]
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def points_at(rows: Rows, indices: np.ndarray, unit: bool) -> np.ndarray:
    """Return rows of the pool, of any number, scaled to length 1 if `unit`."""
    points = rows.at(indices)
    if not unit:
        return points
    padded = np.pad(points, ((0, _power_of_two(len(points)) - len(points)), (0, 0)))  # few shapes, few compilations
    return np.asarray(_unit_rows(padded))[: len(points)]


def _mean(rows: Rows, unit: bool) -> np.ndarray:
    """Return the mean `[1, D]` of the finite rows. Chunks are summed in one order, for any number of processes."""
    sums = [np.append(*map(np.asarray, _sum(rows.chunk(number), unit=unit))) for number in rows.own]
    everyone = np.concatenate([g["sums"] for g in gather({"sums": np.reshape(sums, (-1, rows.width + 1))})])
    total = everyone.astype(np.float64).sum(0)
    return (total[:-1] / max(total[-1], 1)).astype(np.float32)[None]


@functools.partial(jax.jit, static_argnames="unit")
def _sum(chunk, *, unit):
    points, finite = usable(chunk, unit)
    return jnp.sum(points, 0), jnp.sum(finite, dtype=jnp.float32)


_unit_rows = jax.jit(unit_rows)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
