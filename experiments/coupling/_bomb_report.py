"""Pictures of `hierarchical_transport`: where the particles of a flow arrive, and the posteriors of ABC."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.reports import Record

SIDE = 5


def draw_flow(
    particles: dict[str, dict[str, np.ndarray]],
    ends: dict[str, tuple[Any, Any]],
    records: list[Record],
    path: Path,
) -> None:
    """Draw the particles of each arm (column) at the end of the flow, points above and images below."""
    last = max(r["step"] for r in records)
    by_arm = {r["arm"]: r for r in reversed(records) if r["step"] == last}
    figure = _figure(figsize=(2.3 * (len(particles) + 2), 4.2))
    rows = figure.subplots(2, len(particles) + 2, height_ratios=(1, 2))
    target = np.asarray(ends["moons"][1])
    limits = np.stack([target.min(0) - 0.1, target.max(0) + 0.1])
    columns = {"start": {name: end[0] for name, end in ends.items()}, **particles}
    columns["target"] = {name: end[1] for name, end in ends.items()}
    for (top, below), (name, found) in zip(rows.T, columns.items()):
        top.scatter(*target.T, s=3, color="0.75")
        top.scatter(*np.asarray(found["moons"]).T, s=5, color="tab:blue")
        top.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
        _show(below, np.asarray(found["digits"]))
        metrics = by_arm[name]["metrics"] if name in by_arm else None
        for axes, flow in ((top, "moons"), (below, "digits")):
            axes.set_title(name + (f"\nW2 {metrics[f'w2_{flow}']:.3f}" if metrics else "\n"), fontsize=9)
            axes.set_axis_off()
    figure.savefig(path, dpi=130)


def draw_posteriors(found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw the cumulative distribution of the accepted variances of each arm, and the true posterior."""
    if not found:
        return
    figure = _figure(figsize=(8.4, 4.2))
    axes = figure.subplots()
    for name, values in found.items():
        levels = (np.arange(len(values["found"])) + 0.5) / len(values["found"])
        axes.plot(values["found"], levels, label=name, linewidth=1.5)
    truth = next(iter(found.values()))["truth"]
    axes.plot(truth, (np.arange(len(truth)) + 0.5) / len(truth), "k--", label="true posterior")
    axes.set(xlabel="variance", ylabel="share of the posterior below", xlim=(0, 1.6 * truth.mean()))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=130)


def _show(axes: Any, images: np.ndarray) -> None:
    images = np.resize(images, (SIDE**2, 64))
    tiles = np.pad(images.reshape(SIDE, SIDE, 8, 8), 2 * ((0, 0),) + 2 * ((1, 1),))
    axes.imshow(tiles.transpose(0, 2, 1, 3).reshape(SIDE * 10, -1), cmap="gray", vmin=0, vmax=1)


def _figure(figsize: tuple[float, float]) -> Any:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained")
