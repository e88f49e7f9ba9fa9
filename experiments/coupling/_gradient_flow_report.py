"""Picture of `transport_gradient_flow`: where the particles of each arm end."""

import os
from pathlib import Path
from typing import Any

import numpy as np


def draw_particles(particles: dict[str, dict[str, Any]], targets: dict[str, Any], path: Path) -> None:
    """Draw the particles of each arm (column) over the items of each target (row)."""
    if not particles:
        return
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * len(particles), 2.4 * len(targets)), layout="constrained")
    grid = figure.subplots(len(targets), len(particles), squeeze=False)
    for row, (target, items) in zip(grid, targets.items()):
        items = np.asarray(items)
        edge = 0.1 * np.ptp(items, axis=0)
        low, high = items.min(0) - edge, items.max(0) + edge
        for axes, (arm, found) in zip(row, particles.items()):
            axes.scatter(*items.T, s=3, color="0.75")
            axes.scatter(*np.asarray(found[target]).T, s=4, color="tab:blue")
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", title=arm)
            axes.title.set_fontsize(9)
            axes.set_axis_off()
    figure.savefig(path, dpi=130)
