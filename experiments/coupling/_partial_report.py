"""Picture of `partial_transport`: which points of two sides the averaged plans pair."""

import os
from pathlib import Path
from typing import Any

import numpy as np


def draw_plans(
    source: np.ndarray,
    target: np.ndarray,
    source_label: np.ndarray,
    target_label: np.ndarray,
    plans: dict[str, Any],
    path: Path,
) -> None:
    """Draw the pairs of each plan as lines, those between different clusters in red."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(plans), 3.6), layout="constrained")
    for axes, (name, plan) in zip(figure.subplots(1, len(plans), sharey=True), plans.items()):
        plan = np.asarray(plan)
        i, j = np.nonzero(plan)
        wrong = source_label[i] != target_label[j]
        for chosen, color in ((~wrong, "0.6"), (wrong, "tab:red")):
            segments = [*np.stack([source[i[chosen]], target[j[chosen]]], axis=1)]
            axes.add_collection(LineCollection(segments, colors=color, linewidths=0.4, alpha=0.5))
        axes.scatter(*source.T, s=5, color="tab:blue", label="source", zorder=3)
        axes.scatter(*target.T, s=5, color="tab:orange", label="target", zorder=3)
        axes.set_title(f"{name}: {plan[i, j][wrong].sum() / plan.sum():.1%} of the mass crosses", fontsize=10)
        axes.set_axis_off()
    figure.axes[-1].legend(frameon=False, loc="center")
    figure.savefig(path, dpi=130)
