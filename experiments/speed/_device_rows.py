"""Rows of the device run: what a part hands over, and how a row is measured so that its failure ends nothing else."""

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed._timing import milliseconds

CHECK = "check"
Values = Mapping[str, float | str]


class Row(NamedTuple):
    """One row of a part.

    Attributes:
      name: what is measured, and at which sizes.
      measure: makes the data, runs, and returns name -> number; a string in place of a number says why there is none.
        Whatever it raises becomes the row's message.
      unit: of the numbers; in `ms` the first number is ours and the others are compared with it. `CHECK` for a row of
        correctness; what it returns are figures for the reader.
    """

    name: str
    measure: Callable[[], Values]
    unit: str = "ms"


def measured(rows: Iterable[Row], seconds: float) -> Iterator[dict[str, Any]]:
    """Measure rows one by one while time is left, and say of each how it went.

    Args:
      rows: of one part; they are made lazily, and where that fails the part ends with a failed row.
      seconds: after which no row is begun any more.

    Yields:
      For each row its `name`, `unit`, `result` ("ok", "failed" or "not run"), `values`, `message` and `seconds`.
    """
    end, given = time.monotonic() + seconds, iter(rows)
    while True:
        begin, name, unit = time.monotonic(), "the rows of this part", ""
        try:
            row = next(given, None)
            if row is None:
                return
            name, unit = row.name, row.unit
            if begin > end:
                found = {"result": "not run", "message": f"the {seconds:.0f} s of the part were up"}
            else:
                found = {"result": "ok", "values": dict(row.measure())}
        except Exception as error:
            found = {"result": "failed", "message": message_of(error)}
        lasted = time.monotonic() - begin
        yield {"name": name, "unit": unit, "values": {}, "message": "", "seconds": lasted} | found


def message_of(error: BaseException) -> str:
    """What an error says, with its kind, in at most 400 characters of one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def timed(calls: Mapping[str, Callable[[], Any]], repeats: int = 9, seconds: float = 0.3) -> dict[str, float | str]:
    """Time calls in turns, each warm; a peer that fails ends none of the others.

    Args:
      calls: name -> call, ours first. What a call returns is waited for if it holds arrays of JAX.
      repeats: how often each is timed at most.
      seconds: how long the timed calls of one may take together; each is timed at least once.

    Returns:
      Name -> median of the milliseconds, or the message of a peer that failed.

    Raises:
      Exception: that of our call, if it fails.
    """
    found: dict[str, float | str] = {}
    times, counts = {}, {}
    for name, call in calls.items():
        try:
            times[name] = milliseconds(lambda c=call: jax.block_until_ready(c()), 1)
            counts[name] = min(repeats, int(1e3 * seconds / max(times[name][0], 1e-3)))
        except Exception as error:
            if not times:
                raise
            found[name] = message_of(error)
    for turn in range(1, max(counts.values(), default=0)):
        for name in (name for name, count in counts.items() if turn < count):
            times[name] += milliseconds(lambda c=calls[name]: jax.block_until_ready(c()), 1, warmup=0)
    return {name: found.get(name) or statistics.median(times[name]) for name in calls}


def jitted(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call of the compiled function, its arguments placed on the device outside the clock."""
    compiled, placed = jax.jit(function), jax.device_put(arguments)
    return lambda: compiled(*placed)


def lazily(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """A call that is made when it is first called, in `timed`: imports that fail are then failures of it alone."""
    made = functools.cache(make)
    return lambda: made()()


def installed(*packages: str) -> bool:
    """Whether all these packages can be imported."""
    return all(find_spec(package) is not None for package in packages)


def missing(peer: str, *packages: str) -> dict[str, str]:
    """A row's entry for a peer that is not here; empty if it is."""
    absent = [package for package in packages if not installed(package)]
    return {peer: f"not installed: {', '.join(absent)}"} if absent else {}


def beside(ours: Mapping[str, Callable[[], Any]], peers: Mapping[str, tuple[Any, ...]], **options: Any) -> Values:
    """Time ours and those peers that are installed, and name the others.

    Args:
      ours: name -> call.
      peers: name -> how to make its call, and the packages that it needs.
      options: for `timed`.
    """
    calls, absent = dict(ours), {}
    for name, (make, *packages) in peers.items():
        absent |= missing(name, *packages)
        if name not in absent:
            calls[name] = lazily(make)
    return timed(calls, **options) | absent


def torch_place() -> str:
    """Where torch is to compute: beside JAX on a GPU, else on the host."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def megabytes(function: Callable[..., Any], *shapes: Any) -> float:
    """MB of temporaries that the compiler reserves on a device."""
    memory = jax.jit(function).lower(*shapes).compile().memory_analysis()
    if memory is None:
        raise NotImplementedError("this backend reports no memory")
    return memory.temp_size_in_bytes / 1e6


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def on_host(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the compiled function gives on the CPU of this machine, its products in float32, as numpy arrays."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise RuntimeError("JAX sees no CPU backend; leave JAX_PLATFORMS unset, or end it with ,cpu") from error
    with jax.default_device(host), jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, jax.jit(function)(*jax.device_put(arguments, host)))


def on_device(function: Callable[..., Any], *arguments: Any, precision: str = "highest") -> Any:
    """What the compiled function gives on the device, its products in this precision, as numpy arrays."""
    with jax.default_matmul_precision(precision):
        return jax.tree.map(np.asarray, jitted(function, *arguments)())


def largest_gap(one: Any, other: Any) -> float:
    """Largest difference of two arrays, as a share of the largest number."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-30))
