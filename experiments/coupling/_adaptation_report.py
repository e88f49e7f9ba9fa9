"""Picture of `domain_adaptation`: what the two domains look like."""

import os
from pathlib import Path

import numpy as np

SHOWN = 6, 10


def draw_domains(images: np.ndarray, num_source: int, path: Path) -> None:
    """Draw source images (a column for each class) beside target images as they come."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    rows, columns = SHOWN
    side = round(images.shape[1] ** 0.5)
    source = images[:num_source].reshape(columns, -1, side, side)[:, :rows].transpose(1, 0, 2, 3)
    target = images[num_source : num_source + rows * columns].reshape(rows, columns, side, side)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, tiles, title in zip(figure.subplots(1, 2), (source, target), ("source", "target (training items)")):
        padded = np.pad(tiles, 2 * ((0, 0),) + 2 * ((1, 1),), constant_values=0.5)
        axes.imshow(padded.transpose(0, 2, 1, 3).reshape(rows * (side + 2), -1), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.savefig(path, dpi=130)
