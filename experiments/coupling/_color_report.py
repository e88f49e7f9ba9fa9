"""Picture of `color_transfer`: the photographs and the results, with their colours."""

import os
from pathlib import Path

import numpy as np

SHOWN_COLORS = 1500
PER_ROW = 5


def draw_results(images: dict[str, np.ndarray], path: Path) -> None:
    """Draw each image, and under it its pixels in the plane of blue (upwards) and red (rightwards)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    rows = -(-len(images) // PER_ROW)
    figure = Figure(figsize=(3.2 * PER_ROW, 4.4 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, PER_ROW, height_ratios=rows * (1, 1))
    for axes in grid.ravel():
        axes.set_axis_off()
    chosen = np.random.default_rng(0)
    for number, (name, image) in enumerate(images.items()):
        row, column = divmod(number, PER_ROW)
        top, below = grid[2 * row, column], grid[2 * row + 1, column]
        top.imshow(image)
        top.set_title(name, fontsize=11)
        pixels = chosen.permutation(image.reshape(-1, 3))[:SHOWN_COLORS]
        below.scatter(pixels[:, 0], pixels[:, 2], s=4, c=pixels)
        below.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", facecolor="0.9")
        below.set_axis_on()
        below.set(xticks=[], yticks=[])
    grid[1, 0].set(xlabel="red", ylabel="blue")
    figure.savefig(path, dpi=110)
