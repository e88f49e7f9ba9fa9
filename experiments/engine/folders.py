"""The folder of an experiment: one process at a time, one config, its records."""

import contextlib
import contextvars
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments._terminal import print_all_characters
from experiments.engine.reports import Record, Records, Summary, markdown, plot, print_table, table, write_text
from experiments.engine.results import Baseline, Better, add_table, only_arm
from experiments.engine.sinks import TensorBoard
from minibatch_jax._locks import locked_folder

NOT_IN_FILE = ("seeds", "out", "arms")


class Output(NamedTuple):
    """What an experiment shows: whether no bar, lines and table; whether plots; whether points for TensorBoard too."""

    quiet: bool = False
    plots: bool = True
    tensorboard: bool = False


OUTPUT = contextvars.ContextVar("OUTPUT", default=Output())  # noqa: B039  a tuple does not change


@contextlib.contextmanager
def open_folder(config: Any) -> Iterator[Records]:
    """The records in `config.out`, locked against other processes; refuses a folder with runs of another config."""
    print_all_characters()
    out = Path(config.out)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"seeds is {config.seeds}, wanted one or more different integers.")
    with locked_folder(f"out {str(out)!r}", out):
        _check_same_config(config, out / "config.json")
        sink = TensorBoard(out / "tensorboard") if OUTPUT.get().tensorboard else None
        try:
            yield Records(out / "records.jsonl", sink)
        finally:
            if sink is not None:
                sink.close()


def chosen_arms(config: Any, arms: Mapping[str, Any]) -> dict[str, Any]:
    """The arms that `config.arms` names, all if the config has no such field or it is empty."""
    only = only_arm()
    names = (only,) if only is not None else getattr(config, "arms", ()) or tuple(arms)
    unknown = [name for name in names if name not in arms]
    if unknown:
        raise ValueError(f"arms has {unknown}, wanted some of {list(arms)}.")
    return {name: arms[name] for name in arms if name in names}


def report(
    config: Any,
    records: list[Record],
    summary: Summary,
    xlabel: str | None = "step",
    *,
    baseline: Baseline = None,
    better: Better = None,
) -> None:
    """Write the result, write and print the table, and draw a plot per metric against `xlabel` unless that is None."""
    out = Path(config.out)
    rows = table(records, summary)
    write_text(out / "table.md", markdown(rows))
    add_table(config, records, summary, baseline, better)
    plots = [] if xlabel is None or not OUTPUT.get().plots else plot(records, out, xlabel)
    if not OUTPUT.get().quiet:
        print_table(rows, f"{out.name}: mean ± standard error over seeds")
    print(
        f"Written to {out}: {', '.join(['records.jsonl', 'table.md', 'result.json', *(path.name for path in plots)])}"
    )


def progress_bar(unit: str) -> Progress:
    """A bar that counts `unit`, with the time gone and left; its console prints nothing where the output is quiet."""
    # Names are no markup; nor can Rich import its parser while another thread imports tensorflow-datasets.
    description, elapsed, left = (
        TextColumn(text, markup=False) for text in ("{task.description}", f"{unit}, elapsed", "left")
    )
    columns = description, BarColumn(), MofNCompleteColumn(), elapsed, TimeElapsedColumn(), left, TimeRemainingColumn()
    return Progress(*columns, console=Console(quiet=True) if OUTPUT.get().quiet else None)


def line(record: Record) -> str:
    """A record as one line of text."""
    metrics = "  ".join(f"{k} {v:.3g}" if v is not None else f"{k} nan" for k, v in record["metrics"].items())
    return f"{record['arm']}, seed {record['seed']}: {metrics}  ({record['seconds']:.1f} s)"


def _check_same_config(config: Any, path: Path) -> None:
    values = json.loads(json.dumps({k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_FILE}))
    if not path.exists():
        write_text(path, json.dumps(values, indent=2) + "\n")
    old = _saved_config(path)
    changed = [
        f"{k} was {old.get(k)!r}, now {values.get(k)!r}" for k in {**old, **values} if old.get(k) != values.get(k)
    ]
    if changed:
        raise ValueError(
            f"{path.parent} holds runs of another config ({'; '.join(changed)}): choose another --out or delete it."
        )


def _saved_config(path: Path) -> dict[str, Any]:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(old, dict):
            raise ValueError(f"it holds {old!r:.60}, wanted an object")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}). If the runs in {path.parent} were made with this config, delete the file "
            "and it is written again; if not, choose another --out."
        ) from error
    return old
