"""What a leaderboard leaves for the site: a file with its table, and a plot."""

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.engine.axis_titles import axis_title
from experiments.engine.folders import OUTPUT
from experiments.engine.reports import Record, write_text
from experiments.engine.results import RESULTS, json_text
from experiments.leaderboard._race import Outcome, call_text, name_of

PICTURES = RESULTS.parents[1] / "docs" / "_static"


def publish(task: ModuleType, config: Any, outcome: Outcome) -> None:
    """Write leaderboard.json and leaderboard.png to `config.out`, and to the site if the configuration is the default.

    Args:
      task: module of the task.
      config: its configuration.
      outcome: what its `main` returned.
    """
    name, out = task.__name__.rpartition(".")[2], Path(config.out)
    board = board_of(task, name, outcome, json.loads((out / "result.json").read_text(encoding="utf-8")))
    files = {out / "leaderboard.json": out / "leaderboard.png"}
    if config == type(config)(out=config.out):
        files[RESULTS / "leaderboard" / f"{name}.json"] = PICTURES / f"leaderboard_{name}.png"
    for path, picture in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json_text(board) + "\n")
        if OUTPUT.get().plots:
            draw(outcome.records, board["table"]["better"], board["baselines"], picture)
    print(f"Written to {', '.join(str(path) for path in files)}.")


def board_of(task: ModuleType, name: str, outcome: Outcome, result: dict[str, Any]) -> dict[str, Any]:
    """The table of a result with what the page says beside it."""
    calls, table = (
        {name_of(method): call_text(method) for method in task.METHODS},
        next(iter(result["tables"].values())),
    )
    bases = {arm: less["baseline"] for arm, less in table["differences"].items()}
    return {
        "name": name,
        "noun": task.NOUN,
        **{key: result[key] for key in ("minutes", "versions", "config")},
        "baselines": sorted({*bases.values(), task.BASELINE}),
        "calls": {arm: calls.get(arm, arm) for arm in table["arms"]},
        "missing": {method: ", ".join(lacks) for method, lacks in outcome.missing.items() if lacks},
        "no_entry": task.NO_ENTRY,
        "titles": {metric: axis_title(metric) for metric in table["better"]},
        "table": table,
    }


def draw(records: list[Record], better: dict[str, str], baselines: list[str], path: Path) -> None:
    """One row for each method, best first: its score and its CPU seconds, a dot for each seed and a bar at the mean."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    from minibatch_jax.plot import COLORS

    last = max(r["step"] for r in records)
    values: dict[str, list[dict[str, float]]] = {}
    for record in records:
        if record["step"] == last:
            values.setdefault(record["arm"], []).append(record["metrics"])
    metric, direction = next(iter(better.items()))
    means = {
        arm: {m: sum(v[m] for v in runs) / len(runs) for m in (metric, "cpu_seconds")} for arm, runs in values.items()
    }
    order = sorted(means, key=lambda arm: means[arm][metric], reverse=direction == "lower")
    figure = Figure(figsize=(9, 0.3 * len(order) + 1.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {metric: f"{axis_title(metric)} ({direction} is better)", "cpu_seconds": "CPU seconds of training"}
    for axes, (shown, title) in zip(panels, titles.items()):
        for height, arm in enumerate(order):
            color = COLORS[1] if arm in baselines else COLORS[0]
            runs = [value[shown] for value in values[arm]]
            axes.plot(runs, [height] * len(runs), "o", color=color, alpha=0.5, markersize=4)
            axes.plot([means[arm][shown]], [height], "|", color="black", markersize=11)
        for arm in baselines:
            if arm in means:
                axes.axvline(means[arm][shown], color=COLORS[1], linewidth=0.8, linestyle="--")
        axes.set_xlabel(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_yticks(range(len(order)), order)
    seconds = [mean["cpu_seconds"] for mean in means.values()]
    if max(seconds) > 10 * min(seconds):
        panels[1].set_xscale("log")
        panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panels[1].xaxis.set_major_formatter("{x:g}")
        panels[1].xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=110)
