"""Picture of `transport_generator`: what each arm draws from the same codes."""

import os
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 6


def draw_samples(samples: dict[str, Any], path: Path) -> None:
    """Draw the samples `[36, 784]` of each arm as a square of images."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    columns = -(-len(samples) // 2)
    figure = Figure(figsize=(2.6 * columns, 5.6), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (arm, images) in zip(grid, samples.items()):
        tiles = np.asarray(images).reshape(SIDE, SIDE, 28, 28).transpose(0, 2, 1, 3)
        axes.imshow(tiles.reshape(SIDE * 28, -1), cmap="gray", vmin=0, vmax=1)
        axes.set_title(arm, fontsize=9)
    figure.savefig(path, dpi=130)
