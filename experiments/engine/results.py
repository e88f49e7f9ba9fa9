"""The result of an experiment as JSON, which `docs/results.md`, the tests and `--check` read.

A result holds the configuration, the versions, the minutes, and a table for each call of `run` or `compare`, by the
folder it wrote to below `config.out` ("" for `config.out` itself):

    {"name": ..., "minutes": ..., "versions": {...}, "config": {...},
     "tables": {"": {"config": what differs from the configuration above, "seeds": [...], "better": {metric: "higher"},
                     "arms": {arm: {"seconds": of all seeds, "metrics": {metric: figure}}},
                     "differences": {arm: {"baseline": another arm, "metrics": {metric: figure}}}}}}

A figure is the mean over seeds, its standard error and the number of finite values; a difference is paired by seed.
"""

import contextlib
import contextvars
import dataclasses
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import optax

import minibatch_jax
from experiments.engine.reports import Record, Summary, mean_and_error, write_text

RESULTS = Path(__file__).parents[1] / "results"
DIGITS = 6
PACKAGES = (minibatch_jax, jax, np, optax, flax)

Baseline = str | Mapping[str, str] | None
Better = Mapping[str, str] | None


class Result(NamedTuple):
    """The tables that the calls of one experiment have given so far; with `only`, of that arm alone."""

    name: str
    config: Any
    tables: dict[str, dict[str, Any]]
    only: str | None = None


class FirstTableMade(Exception):
    """Ends an experiment of which only the first table is wanted."""


_current: contextvars.ContextVar[Result | None] = contextvars.ContextVar("result", default=None)


@contextlib.contextmanager
def gathered(name: str, config: Any) -> Iterator[None]:
    """Gather the tables of an experiment's calls; at its end write them to `config.out`.

    They are written to `experiments/results` as well if the configuration is the default one, which runs all arms and
    seeds; `out` may be another.
    """
    result = Result(name, config, {})
    token = _current.set(result)
    try:
        yield
    finally:
        _current.reset(token)
    if not result.tables:
        return
    text = as_text(result)
    write_text(Path(config.out) / "result.json", text)
    if config == type(config)(out=config.out):
        RESULTS.mkdir(exist_ok=True)
        write_text(RESULTS / f"{name}.json", text)
        print(f"Written to {RESULTS / name}.json, as the configuration is the default one.")


def first_table(arm: str, main: Callable[[], Any]) -> dict[str, Any]:
    """Run an experiment with one arm until its first call is done, and return the table of that."""
    result = Result("", None, {}, arm)
    token = _current.set(result)
    try:
        main()
    except FirstTableMade:
        pass
    finally:
        _current.reset(token)
    return result.tables["first"]


def only_arm() -> str | None:
    """The arm that alone is to be run, if there is one."""
    result = _current.get()
    return result and result.only


def add_table(
    config: Any, records: list[Record], summary: Summary, baseline: Baseline = None, better: Better = None
) -> None:
    """Add the table of these records to the result of the experiment, and write that to `config.out`."""
    out, result = Path(config.out), _current.get()
    if result is None:
        result = Result(type(config).__module__.rpartition(".")[2], config, {})
    table = table_of(records, summary, baseline, better)
    if result.only is not None:
        result.tables["first"] = table
        raise FirstTableMade
    whole = Path(result.config.out)
    key = out.relative_to(whole).as_posix() if out.is_relative_to(whole) else out.name
    result.tables["" if key == "." else key] = {"config": _changed(config, result.config), **table}
    write_text(
        out / "result.json",
        as_text(result if out == whole else Result(result.name, config, {"": {"config": {}, **table}})),
    )


def table_of(
    records: list[Record], summary: Summary, baseline: Baseline = None, better: Better = None
) -> dict[str, Any]:
    """Figures of all arms, and differences to the baseline paired by seed."""
    runs: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        runs.setdefault(record["arm"], {}).setdefault(record["seed"], []).append(record)
    values = {arm: {seed: summary(run) for seed, run in seeds.items()} for arm, seeds in runs.items()}
    seconds = {arm: sum(run[-1]["seconds"] for run in seeds.values()) for arm, seeds in runs.items()}
    arms = {
        arm: {"seconds": round(seconds[arm], 1), "metrics": figures(list(by_seed.values()))}
        for arm, by_seed in values.items()
    }
    differences = {}
    for arm, base in baselines(baseline, list(values)).items():
        common = [seed for seed in values[arm] if seed in values[base]]
        pairs = [{m: values[arm][s][m] - values[base][s].get(m, math.nan) for m in values[arm][s]} for s in common]
        shared = [m for m in arms[arm]["metrics"] if m in arms[base]["metrics"]]
        differences[arm] = {"baseline": base, "metrics": {m: f for m, f in figures(pairs).items() if m in shared}}
    seeds = sorted({record["seed"] for record in records})
    return {"seeds": seeds, "better": dict(better or {}), "arms": arms, "differences": differences}


def baselines(baseline: Baseline, arms: list[str]) -> dict[str, str]:
    """Arm -> its baseline, of those that both ran."""
    given = dict.fromkeys(arms, baseline) if isinstance(baseline, str) else dict(baseline or {})
    return {arm: base for arm, base in given.items() if base in arms and arm in arms and arm != base}


def check_claim(baseline: Baseline, better: Better, arms: Mapping[str, Any]) -> None:
    """Raise ValueError for a baseline that is no arm, and for a direction that is none."""
    named = [baseline] if isinstance(baseline, str) else [*(baseline or {}), *(baseline or {}).values()]
    unknown = [name for name in named if name not in arms]
    if unknown:
        raise ValueError(f"baseline has {unknown}, wanted some of {list(arms)}.")
    if not set((better or {}).values()) <= {"higher", "lower"}:
        raise ValueError(f"better is {dict(better or {})}, wanted 'higher' or 'lower' for each metric.")


def figures(values: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, standard error and number of the finite values of each metric; None where there is no such number."""
    found = {}
    for metric in dict.fromkeys(name for value in values for name in value):
        finite = [float(v[metric]) for v in values if math.isfinite(v.get(metric, math.nan))]
        mean, error = mean_and_error(finite) if finite else (math.nan, math.nan)
        found[metric] = {"mean": _rounded(mean), "error": _rounded(error), "finite": len(finite)}
    return found


def as_text(result: Result) -> str:
    """The result as JSON, with a line for each figure."""
    seconds = sum(arm["seconds"] for table in result.tables.values() for arm in table["arms"].values())
    versions = {"python": platform.python_version(), **{package.__name__: package.__version__ for package in PACKAGES}}
    head = {"name": result.name, "minutes": max(round(seconds / 60, 1), 0.1), "versions": versions}
    value = {**head, "config": _fields(result.config), "tables": result.tables}
    return json_text(value) + "\n"


def json_text(value: Any, indent: str = "") -> str:
    """The value as JSON; objects without objects in them stay on one line, where that is short."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    flat = not isinstance(value, dict) or not any(isinstance(v, dict) for v in value.values())
    if not isinstance(value, dict) or not value or (flat and len(line) + len(indent) <= 100):
        return line
    inner = indent + " "
    entries = (f"{inner}{json.dumps(k, ensure_ascii=False)}: {json_text(v, inner)}" for k, v in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _fields(config: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    return json.loads(json.dumps({name: value for name, value in fields.items() if name != "out"}))


def _changed(config: Any, whole: Any) -> dict[str, Any]:
    before = _fields(whole)
    return {name: value for name, value in _fields(config).items() if name not in before or before[name] != value}


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
