"""The methods of `select_from_pool`: which arguments each takes, their defaults, and the job that each runs."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_choice, check_count, check_number, check_shape, check_whole
from minibatch_jax.pool._badge import badge_job
from minibatch_jax.pool._centers import centers_job
from minibatch_jax.pool._lightweight import lightweight_job
from minibatch_jax.pool._medoids import medoids_job
from minibatch_jax.pool._rounds import Job
from minibatch_jax.pool._rows import Rows, open_rows, usable
from minibatch_jax.pool._scores import uncertain_job
from minibatch_jax.pool._sift import sift_job
from minibatch_jax.pool._transport import transport_job
from minibatch_jax.selection.uncertainty import SCORES

METRICS = ("sqeuclidean", "euclidean", "cosine")


class Prepared(NamedTuple):
    """A choice that is ready to run.

    Attributes:
      rows: of the pool.
      job: its rounds.
      call: what its result depends on, but for the rows, as what JSON holds.
      dropped_queries: queries that do not count.
    """

    rows: Rows
    job: Job
    call: dict[str, Any]
    dropped_queries: int = 0


def prepare(method: str, pool: Any, k: int, block_size: int, given: dict[str, Any]) -> Prepared:
    """Check the arguments of a method that were given, that is, are not None, and make its job."""
    check_choice("method", method, tuple(METHODS))
    given = {name: value for name, value in given.items() if value is not None}
    taken = _taken(method)
    for name in given:
        if name not in taken:
            wanted = f"method {method!r} takes {', '.join(taken)}"
            others = [repr(other) for other in METHODS if name in _taken(other)]
            raise ValueError(f"{name} is given, but {wanted}; {name} is for {' and '.join(others)}.")
    for name, value in taken.items():
        if value.default is value.empty and name not in given:
            raise ValueError(f"{name} is None, wanted {WANTED[name]} for the method {method!r}.")
    return METHODS[method](pool, k, block_size, **given)


def _taken(method: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a method by name."""
    parameters = inspect.signature(METHODS[method]).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}


WANTED = {"queries": "[Q, D]", "logits": "[N, C], in what `open_pool` opens,"}


def _facility_location(pool, k, block_size, *, metric="sqeuclidean", rows_per_part=4096, seed=0):
    check_choice("metric", metric, METRICS)
    check_count("rows_per_part", rows_per_part)
    check_whole("seed", seed)
    rows = open_rows(pool, block_size, unit=metric == "cosine")
    k = _count(k, rows)
    if 2 * k > rows_per_part:
        raise ValueError(
            f"rows_per_part is {rows_per_part}, wanted at least 2 k = {2 * k}, so that a part leaves out half."
        )
    call = {"metric": metric, "rows_per_part": int(rows_per_part), "seed": int(seed)}
    return Prepared(rows, medoids_job(rows, k, metric, int(rows_per_part), int(seed)), call)


def _k_center(pool, k, block_size, *, metric="sqeuclidean", chosen=None):
    check_choice("metric", metric, METRICS)
    unit = metric == "cosine"
    rows = open_rows(pool, block_size, unit=unit)
    k, before = _count(k, rows), _row_numbers(chosen, rows)
    call = {"unit": unit, "chosen": _digest(before)}
    return Prepared(rows, centers_job(rows, k, unit, before), call)


def _sift(pool, k, block_size, *, queries, noise=0.01):
    check_number("noise", noise, 0, open_low=True)
    rows = open_rows(pool, block_size, unit=True)
    check_count("k", k)
    targets, dropped = _queries(queries, rows.width, unit=True)
    call = {"noise": float(noise), "queries": _digest(targets)}
    return Prepared(rows, sift_job(rows, int(k), targets, float(noise)), call, dropped)


def _got_d(pool, k, block_size, *, queries, epsilon=0.01, seed=0):
    check_number("epsilon", epsilon, 0, open_low=True)
    check_whole("seed", seed)
    rows = open_rows(pool, block_size)
    k = _count(k, rows)
    targets, dropped = _queries(queries, rows.width, unit=False)
    call = {"epsilon": float(epsilon), "seed": int(seed), "queries": _digest(targets)}
    return Prepared(rows, transport_job(rows, k, targets, float(epsilon), int(seed)), call, dropped)


def _badge(pool, k, block_size, *, logits, chosen=None, seed=0):
    check_whole("seed", seed)
    rows = open_rows(pool, block_size, logits=logits)
    assert rows.logits is not None
    _check_classes("logits", rows.logits)
    k, before = _count(k, rows), _row_numbers(chosen, rows)
    call = {"seed": int(seed), "chosen": _digest(before)}
    return Prepared(rows, badge_job(rows, k, before, int(seed)), call)


def _uncertain(pool, k, block_size, *, score="margin", chosen=None, seed=0):
    check_choice("score", score, tuple(SCORES))
    check_whole("seed", seed)
    rows = open_rows(pool, block_size, softmax=True)
    _check_classes("pool", rows)
    k, before = _count(k, rows), _row_numbers(chosen, rows)
    call = {"score": score, "seed": int(seed), "chosen": _digest(before)}
    return Prepared(rows, uncertain_job(rows, k, score, before, int(seed)), call)


def _lightweight_coreset(pool, k, block_size, *, weighting="unbiased", chosen=None, seed=0):
    check_choice("weighting", weighting, ("unbiased", "own"))
    check_whole("seed", seed)
    rows = open_rows(pool, block_size)
    k, before = _count(k, rows), _row_numbers(chosen, rows)
    call = {"weighting": weighting, "seed": int(seed), "chosen": _digest(before)}
    return Prepared(rows, lightweight_job(rows, k, weighting, before, int(seed)), call)


METHODS: dict[str, Callable[..., Prepared]] = {
    "facility_location": _facility_location,
    "k_center": _k_center,
    "sift": _sift,
    "got_d": _got_d,
    "badge": _badge,
    "uncertain": _uncertain,
    "lightweight_coreset": _lightweight_coreset,
}


def _count(k: Any, rows: Rows) -> int:
    check_count("k", k, rows.size, "the number of rows")
    return int(k)


def _check_classes(name: str, rows: Rows) -> None:
    if rows.width < 2:
        raise ValueError(f"{name} {rows.name} holds logits of one class, wanted at least 2 classes.")


def _row_numbers(chosen: Any, rows: Rows) -> np.ndarray:
    """Return the rows chosen before, in order, from a mask or from row numbers; N stands for no row."""
    if chosen is None:
        return np.zeros(0, np.int64)
    given: Any = np.asarray(chosen)
    if given.dtype == bool:
        check_shape("chosen", given, (rows.size,))
        given = np.flatnonzero(given)
    if given.ndim != 1 or not (np.issubdtype(given.dtype, np.integer) or given.size == 0):
        raise TypeError(
            f"chosen has dtype {given.dtype} and shape {list(given.shape)}, wanted row numbers [L] or a mask [N]."
        )
    if given.size and (given.min() < 0 or given.max() > rows.size):
        raise ValueError(f"chosen holds {given.min()} to {given.max()}, wanted row numbers from 0 to {rows.size - 1}.")
    numbers = np.unique(given[given < rows.size]).astype(np.int64)
    if len(numbers) == rows.size:
        raise ValueError(f"chosen holds all {rows.size} rows of pool {rows.name}: none is left to choose.")
    return numbers


def _queries(queries: Any, width: int, unit: bool) -> tuple[np.ndarray, int]:
    """Return the queries that count, and how many do not."""
    check_shape("queries", queries, (None, width))
    queries = np.asarray(queries)
    if not np.issubdtype(queries.dtype, np.floating):
        raise TypeError(f"queries has dtype {queries.dtype}, wanted a floating-point dtype.")
    with np.errstate(over="ignore"):
        queries = queries.astype(np.float32)
    finite = queries[np.asarray(usable(jnp.asarray(queries), unit)[1])]
    if not len(finite):
        raise ValueError(f"queries has no row of {len(queries)} that is finite in float32, wanted one or more.")
    return finite, len(queries) - len(finite)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
