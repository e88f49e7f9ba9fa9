"""What the scripts of the gallery share: figures without pyplot, and digits as vectors."""

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.datasets import arrays
from minibatch_jax.plot import COLORS

BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = COLORS
LIGHT = "#BBBBBB"


def panels(count: int = 1, width: float = 3.4, height: float = 3.3):
    """Return a figure and its axes side by side, at most four in a row."""
    rows = 1 if count <= 4 else 2
    figure = Figure(figsize=(width * -(-count // rows), height * rows), layout="constrained")
    axes = figure.subplots(rows, -(-count // rows), squeeze=False).ravel()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def finish(figure, axes) -> None:
    """Put one legend, that of the given axes, above all panels, and save the figure beside the script."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        for one in figure.axes:
            if one.get_legend():
                one.get_legend().remove()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    image = Image.open(buffer).convert("RGB").quantize(40, dither=Image.Dither.NONE)  # a third of the bytes
    image.save(Path(sys.argv[0]).with_suffix(".png"), optimize=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1797 digits [N, 64], pixels between 0 and 1, and their labels [N], shuffled once."""
    splits = [arrays("digits", name) for name in ("train", "test")]
    image, label = (np.concatenate([split[key] for split in splits]) for key in ("image", "label"))
    order = np.random.default_rng(0).permutation(len(image))
    image = image[order].reshape(len(image), -1).astype(np.float32)
    return image / image.max(), label[order].astype(np.int32)


def two_axes(rows: np.ndarray) -> np.ndarray:
    """Return the first two principal components [N, 2]."""
    centered = rows - rows.mean(0)
    return centered @ np.linalg.svd(centered, full_matrices=False)[2][:2].T
