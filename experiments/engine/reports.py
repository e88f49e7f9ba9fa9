"""What an experiment leaves behind: JSON lines, a table with mean ± standard error, and plots with seed bands."""

import json
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from experiments.engine.axis_titles import axis_title

Record = dict[str, Any]
Summary = Callable[[list[Record]], dict[str, float]]


class Sink(Protocol):
    """A copy of the records in another form."""

    def write(self, records: Iterable[Record]) -> None: ...
    def rewrite(self, arm: str, seed: int, records: Iterable[Record]) -> None: ...


class Records:
    """The evaluations of an experiment, in a file with one JSON object per line.

    The last entry of a line is the CRC-32 of the others. A last line torn by a kill is dropped when the file is opened.
    What the file holds, and what is written to it later, also goes to the sink, if there is one.
    """

    def __init__(self, path: Path, sink: Sink | None = None):
        self._path, self._sink = path, sink
        self.all: list[Record] = []
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        for number, line in enumerate(lines[:-1], 1):
            try:
                self.all.append(_record(json.loads(line)))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}, is not a JSON record: {error}. Delete that line; what it held "
                    "is made again."
                ) from error
        if lines[-1]:
            self._rewrite()
        if sink is not None:
            sink.write(self.all)

    def of(self, arm: str, seed: int) -> list[Record]:
        """The records of one run, in order."""
        return [r for r in self.all if (r["arm"], r["seed"]) == (arm, seed)]

    def append(self, record: Record) -> None:
        """Write one record, so that a kill after this call does not lose it."""
        self.extend([record])

    def extend(self, records: list[Record]) -> None:
        """Write several records at once: after a kill, all or none are there."""
        lines = b"".join(_line(record).encode() for record in records)
        try:
            with self._path.open("ab", buffering=0) as file:
                written = file.write(lines)
            if written != len(lines):
                os.truncate(self._path, self._path.stat().st_size - written)
                raise OSError("the record was written in part")
        except OSError as error:
            raise _write_failed(self._path, error) from error
        self.all.extend(records)
        if self._sink is not None:
            self._sink.write(records)

    def drop(self, arm: str, seed: int, after: int) -> None:
        """Forget the records of a run later than a step, which the run will make again."""
        kept = [r for r in self.all if (r["arm"], r["seed"]) != (arm, seed) or r["step"] <= after]
        if len(kept) < len(self.all):
            self.all = kept
            self._rewrite()
            if self._sink is not None:
                self._sink.rewrite(arm, seed, self.of(arm, seed))

    def sync(self) -> None:
        """Wait until all records are on disk."""
        if self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _rewrite(self) -> None:
        write_text(self._path, "".join(map(_line, self.all)))


def _line(record: Record) -> str:
    return json.dumps(record | {"crc32": _crc32(record)}, allow_nan=False) + "\n"


def _crc32(record: Record) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _record(value: Any) -> Record:
    """The record, if the value of a line is one."""
    if not isinstance(value, dict):
        raise ValueError(f"it is {value!r:.60}, wanted an object")
    absent = [name for name in FIELDS if name not in value]
    wrong = [name for name in FIELDS if name in value and not FIELDS[name](value[name])]
    if absent or wrong:
        raise ValueError(f"it lacks {absent} and has wrong {wrong}, wanted {list(FIELDS)}")
    record = {name: entry for name, entry in value.items() if name != "crc32"}
    if value["crc32"] != _crc32(record):
        raise ValueError("its crc32 is another, so something in it was changed")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FIELDS: dict[str, Callable[[Any], bool]] = {
    "arm": lambda value: isinstance(value, str),
    "seed": lambda value: _is_number(value) and isinstance(value, int),
    "step": _is_number,
    "metrics": lambda value: isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values()),
    "seconds": _is_number,
    "crc32": _is_number,
}


def folder_name(arm: str) -> str:
    """The name of an arm as that of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", arm)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move, so that a kill leaves the old or the new one."""
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _write_failed(path, error) from error


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard error over seeds, `s / sqrt(n)` with n - 1 degrees of freedom; NaN for a single seed."""
    values = list(values)
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def last_record(records: list[Record]) -> dict[str, float]:
    """Metrics of the last evaluation of a run: the default summary of the table."""
    return {name: math.nan if v is None else v for name, v in records[-1]["metrics"].items()}


def table(records: list[Record], summary: Summary = last_record) -> list[list[str]]:
    """Rows of text: a header, then one row per arm with mean ± standard error over seeds for each metric."""
    runs: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        runs.setdefault(record["arm"], {}).setdefault(record["seed"], []).append(record)
    finals = {arm: [summary(run) for run in seeds.values()] for arm, seeds in runs.items()}
    metrics = list(dict.fromkeys(name for values in finals.values() for value in values for name in value))
    rows = [["arm", "seeds", *metrics]]
    for arm, values in finals.items():
        cells = [_cell([v[name] for v in values if name in v]) for name in metrics]
        rows.append([arm, str(len(values)), *cells])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """The table as markdown text."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def print_table(rows: list[list[str]], title: str) -> None:
    """Show the table on the terminal, on its side if it is wide; no cell is cut."""
    from rich.console import Console
    from rich.table import Table

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    rows, title = [[_printable(text, encoding) for text in row] for row in rows], _printable(title, encoding)
    if len(rows[0]) > len(rows):
        rows = [list(column) for column in zip(*rows)]
    view = Table(title=title, title_justify="left")
    for i, name in enumerate(rows[0]):
        view.add_column(name.replace("_", " "), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows[1:]:
        view.add_row(row[0].replace("_", " "), *row[1:])
    console = Console()
    console.width = max(console.width, Console(width=10_000).measure(view).maximum)
    console.print(view)


def _printable(text: str, encoding: str) -> str:
    """The text with other characters for those that the encoding of a terminal lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text


def plot(records: list[Record], out: Path, xlabel: str = "step") -> list[Path]:
    """Draw each metric against the step, mean over seeds with a band of ± one standard error; returns the files."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    paths = []
    arms = list(dict.fromkeys(r["arm"] for r in records))
    seeds = len({r["seed"] for r in records})
    for metric in dict.fromkeys(name for r in records for name in r["metrics"]):
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for arm in arms:
            _draw(axes, arm, [r for r in records if r["arm"] == arm and r["metrics"].get(metric) is not None], metric)
        axes.set(xlabel=xlabel, ylabel=axis_title(metric))
        axes.set_title(
            f"{out.name}: " + (f"mean ± standard error, {seeds} seeds" if seeds > 1 else "one seed"), fontsize=11
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        paths.append(out / f"{metric}.png")
        try:
            figure.savefig(paths[-1], dpi=150)
        except OSError as error:
            paths[-1].unlink(missing_ok=True)
            raise _write_failed(paths[-1], error) from error
    return paths


def _draw(axes: Any, arm: str, records: list[Record], metric: str) -> None:
    by_step: dict[int, list[float]] = {}
    for record in records:
        by_step.setdefault(record["step"], []).append(record["metrics"][metric])
    steps = sorted(by_step)
    stats = [mean_and_error(by_step[step]) for step in steps]
    (line,) = axes.plot(steps, [m for m, _ in stats], label=arm, linewidth=1.8)
    draw_band(axes, steps, stats, line.get_color(), 0.2)


def draw_band(axes: Any, steps: list[int], stats: list[tuple[float, float]], color: Any, alpha: float) -> None:
    """Fill mean ± standard error; an error is NaN where there is a single seed, and without any there is no band."""
    if any(e == e for _, e in stats):
        low, high = ([m + sign * (e if e == e else 0) for m, e in stats] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=color, alpha=alpha, linewidth=0)


def _cell(values: list[float]) -> str:
    """Mean ± standard error of the finite values, and how many they are if not all."""
    finite = [v for v in values if math.isfinite(v)]
    count = f" ({len(finite)}/{len(values)})" if len(finite) < len(values) else ""
    if not finite:
        return f"-{count}"
    mean, error = mean_and_error(finite)
    size = error if error > 0 else abs(mean) / 100
    digits = min(max(1 - math.floor(math.log10(size)), 0), 3 if abs(mean) > 0.01 else 5) if size > 0 else 3
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "") + count


def _write_failed(path: Path, error: OSError) -> OSError:
    return OSError(
        f"Could not write {path} ({error}). If the disk is full, free space; then start the same command again."
    )
