"""Pictures of `hierarchical_flow`: trajectories, and samples by number of evaluations."""

import os
from pathlib import Path
from typing import Any

import numpy as np


def draw_samples(shown: dict[str, tuple[dict[str, np.ndarray], np.ndarray]], items: np.ndarray, path: Path) -> None:
    """Draw each arm's trajectories (first row) and its samples (a row for each number of evaluations), and the data."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    names = next(iter(shown.values()))[0]
    figure = Figure(figsize=(2.1 * (len(shown) + 1), 2.1 * (len(names) + 1)), layout="constrained")
    grid = figure.subplots(len(names) + 1, len(shown) + 1, squeeze=False)
    draw = _histogram if items.shape[1] == 1 else _scatter
    for column, (arm, (samples, paths)) in zip(grid.T, shown.items()):
        _trajectories(column[0], paths)
        column[0].set_title(arm, fontsize=10)
        for axes, points in zip(column[1:], samples.values()):
            draw(axes, points, items)
    draw(grid[1, -1], items, items)
    grid[1, -1].set_title("data", fontsize=10)
    for axes in (grid[0, -1], *grid[2:, -1]):
        axes.set_axis_off()
    for axes, label in zip(
        grid[:, 0], ["8 evaluations:\ntrajectories", *(f"{n} evaluation{'s' * (n != '1')}" for n in names)]
    ):
        axes.set_ylabel(label, fontsize=9)
    for axes in grid.ravel():
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=130)


def _trajectories(axes: Any, paths: np.ndarray) -> None:
    if paths.shape[2] == 1:
        axes.plot(np.linspace(0, 1, len(paths)), paths[..., 0], color="tab:blue", alpha=0.5, linewidth=0.7)
        axes.set(ylim=(-3, 3))
        axes.set_xticks((0, 1), ("t = 0", "t = 1"))
    else:
        axes.plot(paths[..., 0], paths[..., 1], color="tab:blue", alpha=0.5, linewidth=0.7)
        axes.plot(*paths[-1].T, ".", color="black", markersize=2)
        axes.set(xlim=(-3, 3), ylim=(-3, 3))


def _histogram(axes: Any, points: np.ndarray, items: np.ndarray) -> None:
    bins = np.linspace(-2, 2, 61)
    axes.hist(items[:, 0], bins, density=True, color="lightgray")
    if points is not items:
        axes.hist(points[:, 0], bins, density=True, histtype="step", color="tab:blue")
    axes.set(xlim=(-2, 2), ylim=(0, 2.6))


def _scatter(axes: Any, points: np.ndarray, items: np.ndarray) -> None:
    axes.plot(*points[:1500].T, ".", color="gray" if points is items else "tab:blue", markersize=1, alpha=0.6)
    axes.set(xlim=(-3, 3), ylim=(-3, 3))
