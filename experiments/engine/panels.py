"""One metric of several tasks side by side, each against the same x."""

import math
import os
from pathlib import Path
from typing import Any

from experiments.engine.axis_titles import axis_title
from experiments.engine.reports import Record, draw_band, mean_and_error


def draw_panels(
    records: dict[str, list[Record]], metric: str, xlabel: str, path: Path, *, log: tuple[bool, bool] = (True, True)
) -> None:
    """Draw a metric against the step, a panel for each task, mean over seeds with a band of ± one standard error.

    Args:
      records: task -> records; a color stands for the same arm everywhere.
      metric: in the records.
      xlabel: what the step is.
      path: of the PNG.
      log: whether x and y are logarithmic.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(r["arm"] for made in records.values() for r in made))
    width, height = min(len(records), 2), math.ceil(len(records) / 2)
    figure = Figure(figsize=(4.2 * width + 2.4, 3.2 * height + 0.4), layout="constrained")
    panels = figure.subplots(height, width, squeeze=False).ravel()
    for panel in panels[len(records) :]:
        panel.remove()
    for axes, (task, made) in zip(panels, records.items()):
        for number, arm in enumerate(arms):
            _draw(axes, arm, number, [r for r in made if r["arm"] == arm], metric)
        _dress(axes, task, sorted({r["step"] for r in made}), xlabel, metric, log)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside right upper")
    figure.savefig(path, dpi=150)


def _draw(axes: Any, arm: str, number: int, records: list[Record], metric: str) -> None:
    steps = sorted({r["step"] for r in records})
    stats = [mean_and_error(r["metrics"][metric] for r in records if r["step"] == step) for step in steps]
    style = "-" if number < 10 else "--"
    (line,) = axes.plot(steps, [m for m, _ in stats], style, marker="o", markersize=3, label=arm, color=f"C{number}")
    draw_band(axes, steps, stats, line.get_color(), 0.15)


def _dress(axes: Any, task: str, steps: list[int], xlabel: str, metric: str, log: tuple[bool, bool]) -> None:
    axes.set(xlabel=xlabel, ylabel=axis_title(metric), title=task.replace("_", " "))
    if log[0]:
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(step) for step in steps], minor=False)
    if log[1]:
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
