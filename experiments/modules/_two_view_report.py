"""The figure of the two-view experiment: correlation against the batch size."""

import math
import os
from pathlib import Path
from typing import Any

from experiments.engine.reports import Record, mean_and_error


def chance_correlation(width: int, rows: int) -> float:
    """Sum of canonical correlations of independent views of equal width, in the limit rows >> width >> 1.

    The whitened cross-covariance then has independent entries of variance 1 / (rows - 1), and its singular values the
    quarter-circle law, whose mean is 8 / (3 pi) times the square root of the width.
    """
    return 8 / (3 * math.pi) * width**1.5 / math.sqrt(rows - 1)


def draw(
    records: list[Record], estimates: list[Record], methods: dict[str, dict[str, int]], width: int, path: Path
) -> None:
    """Left: what batches of a fixed representation show; right: what training with such batches captures.

    Args:
      records: of the arms.
      estimates: of arms "paired" and "shuffled"; step is the batch size.
      methods: method -> {arm: batch size}; arms without a batch size, here 0, become horizontal lines.
      width: of the representation.
      path: of the PNG.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_estimates(left, estimates, width)
    _draw_methods(right, records, methods)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([20, 50, 100, 400, 1600], ["20", "50", "100", "400", "1600"])
        axes.minorticks_off()
        axes.set(xlabel="batch size")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def _draw_estimates(axes: Any, estimates: list[Record], width: int) -> None:
    sizes = sorted({r["step"] for r in estimates})
    for arm in ("paired", "shuffled"):
        means = [_mean(estimates, arm, "sum_of_correlations", size)[0] for size in sizes]
        axes.plot(sizes, means, marker="o", label=f"{arm} views, mean over batches")
    for arm, label in (("paired", "paired, all rows"), ("shuffled", None)):
        all_rows = _mean(estimates, arm, "sum_of_correlations", sizes[-1])[0]
        axes.axhline(all_rows, color="grey", linestyle=":", linewidth=1, label=label)
    large = [size for size in sizes if size >= 3 * width]
    axes.plot(large, [chance_correlation(width, size) for size in large], "k--", label="independent, closed form")
    axes.set_ylim(0, width * 1.05)
    axes.set_ylabel(f"sum of {width} canonical correlations")
    axes.set_title("What a batch shows of the same representation", fontsize=11)
    axes.legend(frameon=False, fontsize=9)


def _draw_methods(axes: Any, records: list[Record], methods: dict[str, dict[str, int]]) -> None:
    for method, arms in methods.items():
        present = {arm: size for arm, size in arms.items() if any(r["arm"] == arm for r in records)}
        if not present:
            continue
        stats = [_mean(records, arm, "correlation_test") for arm in present]
        if list(present.values()) == [0]:
            axes.axhline(stats[0][0], color="grey", linestyle="--", label=method)
            continue
        axes.errorbar(list(present.values()), [m for m, _ in stats], [e for _, e in stats], marker="o", label=method)
    axes.set_ylabel("correlation captured on test digits")
    axes.set_title("What training with such batches captures", fontsize=11)
    axes.legend(frameon=False, fontsize=9)


def _mean(records: list[Record], arm: str, metric: str, step: int | None = None) -> tuple[float, float]:
    values = [r["metrics"][metric] for r in records if r["arm"] == arm and step in (None, r["step"])]
    mean, error = mean_and_error(values)
    return mean, error if error == error else 0.0
