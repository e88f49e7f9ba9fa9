"""The picture of `weighted_flow`: pairs of the weighted and of the entropic plan in each setting."""

import os
from pathlib import Path
from typing import Any

import numpy as np

PAIRS = 80


def draw_plans(found: dict[str, tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]], path: Path) -> None:
    """Draw pairs from both plans of each setting, and each point as large as its share in the plan."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(found), 6.4), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False)
    for column, (setting, (x0, x1, plans)) in zip(grid.T, found.items(), strict=True):
        for axes, name in zip(column, ("weighted", "entropic"), strict=True):
            _pairs(axes, x0, x1, np.asarray(plans[name], np.float64))
            axes.set_title(f"{setting}: {name}", fontsize=10)
            axes.set_aspect("equal")
            axes.set_axis_off()
    figure.savefig(path, dpi=130)


def _pairs(axes: Any, x0: np.ndarray, x1: np.ndarray, plan: np.ndarray) -> None:
    drawn = np.random.default_rng(0).choice(plan.size, PAIRS, p=plan.ravel() / plan.sum())
    rows, columns = np.unravel_index(drawn, plan.shape)
    ends = np.stack([x0[rows], x1[columns]])
    axes.plot(ends[..., 0], ends[..., 1], color="gray", linewidth=0.5, alpha=0.6)
    for points, mass, color in ((x0, plan.sum(1), "tab:blue"), (x1, plan.sum(0), "tab:orange")):
        axes.scatter(*points.T, s=8 * mass * len(mass) / mass.sum(), color=color, linewidths=0)
