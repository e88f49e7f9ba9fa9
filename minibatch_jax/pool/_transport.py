"""GOT-D on a pool: the rows that move it most towards targets, by the potentials of entropic transport.

Only the potentials of the targets are unknown. They start from those of a sample of the rows. Each round is then a pass
over the pool, which adds up what one iteration of Newton's method needs, and the potentials of the rows themselves.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.geometry import squared_distances
from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows, usable
from minibatch_jax.selection import _semidual
from minibatch_jax.selection.got_d import transport_scores_in_blocks

SAMPLE = 8192
TOLERANCE = 1e-3
PASSES = 50
FIELDS = ("potentials", "dual", "error", "value", "columns", "squares", "damping", "trial", "passes")


def transport_job(rows: Rows, k: int, targets: np.ndarray, epsilon: float, seed: int) -> Job:
    """Make the job. Its state: Newton's ascent, the potential of each own row, epsilon and the mean cost."""
    return Job(
        init=lambda: _init(rows, targets, epsilon, seed),
        step=lambda state: _pass(rows, targets, state),
        progress=lambda state: 1.0 if _is_done(state) else min(int(state["passes"]) / PASSES, 0.99),
        result=lambda state: _result(rows, k, state),
    )


def _init(rows: Rows, targets: np.ndarray, epsilon: float, seed: int) -> State:
    origin = targets.mean(0)
    sums = [np.asarray(_moments(rows.chunk(number), origin)) for number in rows.own]
    everyone = gather({"sums": np.reshape(sums, (-1, rows.width + 2)).astype(np.float64).sum(0)})
    total = np.sum([part["sums"] for part in everyone], axis=0)
    rows.report()
    mean, square, count = total[:-2] / total[-1], total[-2] / total[-1], total[-1]
    centered = (targets - origin).astype(np.float64)
    scale = max(square + np.mean(np.sum(centered**2, axis=1)) - 2 * mean @ centered.mean(0), 0)
    scale = np.float32(scale if scale > 0 else 1)
    chosen = np.random.default_rng(seed).choice(rows.size, min(SAMPLE, rows.size), replace=False)
    potentials = _of_sample(rows.at(np.sort(chosen)), targets, np.float32(epsilon))
    state = _as_state(_semidual.start(potentials))
    own = np.full(rows.own_rows, np.nan, np.float32)
    return state | {"own": own, "scale": scale, "epsilon": np.float32(epsilon) * scale, "count": np.float32(count)}


def _pass(rows: Rows, targets: np.ndarray, state: State) -> State:
    """Add up what Newton's method needs at the potentials to try, and take them if the dual rose."""
    own = np.full(rows.own_rows, np.nan, np.float32)
    size = len(targets)
    total = {"value": np.zeros(()), "columns": np.zeros(size), "squares": np.zeros((size, size))}
    origin, masses = targets.mean(0), np.full(size, 1 / size, np.float32)
    for number in rows.own:
        inputs = targets, origin, masses, state["trial"], state["epsilon"], 1 / state["count"]
        sums, own[rows.places(number)] = _sums(rows.chunk(number), *inputs)
        for name, value in sums._asdict().items():
            total[name] += np.asarray(value, np.float64)
    everyone = gather(total)
    added = (np.sum([part[name] for part in everyone], axis=0) for name in total)
    sums = _semidual.Sums(*(jnp.asarray(x, jnp.float32) for x in added))
    ascent = _advance(_as_ascent(state), sums, masses, state["epsilon"], state["scale"])
    taken = np.array_equal(ascent.potentials, state["trial"])
    return state | _as_state(ascent) | ({"own": own} if taken else {})


def _is_done(state: State) -> bool:
    return not bool(_semidual.goes_on(_as_ascent(state), TOLERANCE, PASSES))


def _result(rows: Rows, k: int, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    if state["error"] > TOLERANCE:
        warnings.warn(
            f"the transport to the queries has the error {float(state['error']):.2g} after {int(state['passes'])} "
            f"passes, wanted at most {TOLERANCE}: raise epsilon.",
            RuntimeWarning,
            stacklevel=4,
        )
    own = state["own"].astype(np.float64)
    exists = np.isfinite(own)
    best = np.argsort(np.where(exists, own, np.inf), kind="stable")[: min(k, int(exists.sum()))]
    part = {"rows": rows.first + best, "own": own[best], "sums": np.array([own[exists].sum(), exists.sum()])}
    everyone = gather(part)
    numbers, potentials = (np.concatenate([found[name] for found in everyone]) for name in ("rows", "own"))
    total, count = np.sum([found["sums"] for found in everyone], axis=0)
    order = np.argsort(potentials, kind="stable")[:k]
    missing = k - len(order)
    scores = potentials[order] - (total - potentials[order]) / max(count - 1, 1)
    indices = np.append(numbers[order], np.full(missing, rows.size)).astype(np.int64)
    weights = (indices < rows.size).astype(np.float32)
    return indices, weights, np.append(scores, np.zeros(missing)).astype(np.float32), float(state["dual"])


def _as_state(ascent: _semidual.Ascent) -> State:
    arrays = ascent._asdict()
    return {
        name: np.asarray(array) for name, array in (arrays | arrays.pop("sums")._asdict()).items() if name != "sums"
    }


def _as_ascent(state: State) -> _semidual.Ascent:
    arrays = {name: jnp.asarray(state[name]) for name in FIELDS}
    sums = _semidual.Sums(*(arrays.pop(name) for name in _semidual.Sums._fields))
    return _semidual.Ascent(sums=sums, **arrays)


_advance = jax.jit(_semidual.advance)


@jax.jit
def _of_sample(rows, targets, epsilon):
    found = transport_scores_in_blocks(rows, targets, epsilon=epsilon, tolerance=TOLERANCE, max_iterations=PASSES)
    return found.potentials


@jax.jit
def _moments(chunk, origin):
    """Return the sum of the rows, of their squared lengths, and their number, `[D + 2]`, about an origin."""
    points, exists = usable(chunk, unit=False)
    points = jnp.where(exists[:, None], points - origin[None], 0)
    return jnp.append(jnp.sum(points, axis=0), jnp.stack([jnp.sum(points**2), jnp.sum(exists, dtype=jnp.float32)]))


@jax.jit
def _sums(chunk, targets, origin, masses, potentials, epsilon, mass):
    points, exists = usable(chunk, unit=False)
    cost = squared_distances(points, targets, origin=origin)
    sums, own = _semidual.sums_of_block(cost, jnp.where(exists, mass, 0), potentials, masses, epsilon)
    return sums, jnp.where(exists, own, jnp.nan)
