"""Pictures and costs of `ot_flow_matching`: quality against Euler steps, grids of samples, milliseconds of a step."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.engine.loops import Arm
from experiments.engine.reports import Record, markdown, mean_and_error, print_table, write_text

SIDE = 6
LABELS = {
    "sliced_w2": "sliced 2-Wasserstein distance to test images",
    "w2": "exact 2-Wasserstein distance to test images",
    "spread": "variance over that of test images",
}


def print_few_steps(
    records: list[Record],
    euler_steps: tuple[int, ...],
    floors: dict[str, float],
    path: Path,
    labels: dict[str, str] = LABELS,
) -> None:
    """Print each distance of the final models by number of Euler steps, with the floor of training images."""
    texts = []
    for metric, label in labels.items():
        rows = [["arm", *(f"{n} steps" for n in euler_steps)]]
        for arm, finals in _finals(records).items():
            stats = [mean_and_error(m[f"{metric}_at_{n}"] for m in finals) for n in euler_steps]
            rows.append(
                [arm, *(f"{mean:.3f}" + (f" ± {error:.3f}" if error == error else "") for mean, error in stats)]
            )
        title = f"{label}, by Euler steps (training images: {floors[metric]:.3f})"
        print_table(rows, title)
        texts.append(f"{title}\n\n{markdown(rows)}")
    write_text(path, "\n".join(texts))


def draw_few_steps(
    records: list[Record],
    euler_steps: tuple[int, ...],
    floors: dict[str, float],
    path: Path,
    labels: dict[str, str] = LABELS,
) -> None:
    """Draw each distance of the final models against the number of Euler steps, with the floor of training images."""
    figure = _figure(figsize=(4 * len(labels) + 2, 4))
    for axes, (metric, label) in zip(figure.subplots(1, len(labels)), labels.items()):
        for arm, finals in _finals(records).items():
            stats = [mean_and_error(m[f"{metric}_at_{n}"] for m in finals) for n in euler_steps]
            means, errors = (np.array(values) for values in zip(*stats))
            (line,) = axes.plot(euler_steps, means, marker="o", markersize=4, label=arm)
            band = means - np.nan_to_num(errors), means + np.nan_to_num(errors)
            axes.fill_between(euler_steps, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.axhline(floors[metric], color="black", linestyle="--", linewidth=1, label="training images")
        axes.set_xscale("log", base=2)
        axes.set_xticks(euler_steps, [str(n) for n in euler_steps])
        axes.set(xlabel="Euler steps", title=label)
        axes.title.set_size(10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def draw_samples(
    samples: dict[str, dict[str, np.ndarray]], euler_steps: tuple[str, ...], test: np.ndarray, path: Path
) -> None:
    """Draw images for each number of Euler steps (row) and arm (column), from the same noise, beside test images."""
    figure = _figure(figsize=(2.7 * (len(samples) + 1), 2.9 * len(euler_steps)))
    for number, (row, n) in enumerate(zip(figure.subplots(len(euler_steps), len(samples) + 1), euler_steps)):
        for axes, (arm, by_steps) in zip(row, samples.items()):
            _show(axes, by_steps[n], f"{arm}, {n} Euler steps")
        _show(row[-1], test[number * SIDE**2 :], "test images")
    figure.savefig(path, dpi=130)


def by_x(*metrics: str) -> Callable[[list[Record]], dict[str, float]]:
    """A summary of a curve: these metrics at every x."""
    return lambda records: {f"{m}_at_{r['step']:g}": r["metrics"][m] for m in metrics for r in records}


def print_costs(arms: dict[str, Arm], pairings: dict[str, Callable], images: np.ndarray, path: Path) -> None:
    """Time a step of each arm and the pairing in it, arms in turn; medians, and the load of the machine."""
    noise = jax.random.normal(jax.random.key(0), images.shape)
    calls = {}
    for name, arm in arms.items():
        state = jax.jit(arm.init)(jax.random.key(0))
        calls[name, "step"] = jax.jit(arm.step), (state, {"image": images})
        calls[name, "pairing"] = jax.jit(pairings[name]), (jax.random.key(0), noise, images)
    ms = _median_ms(calls)
    rows = [["arm", "ms a step", "ms of pairing", "us a pair", "step / independent"]]
    base = ms["independent", "step"]
    for name in arms:
        step, pairing = ms[name, "step"], ms[name, "pairing"]
        cells = [f"{step:.2f}", f"{pairing:.2f}", f"{1e3 * pairing / len(images):.1f}", f"{step / base:.2f}"]
        rows.append([name, *cells])
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    write_text(path, markdown(rows) + f"\n{load}\n")
    print_table(rows, f"Cost of a step at batch size {len(images)}, {load}")


def _finals(records: list[Record]) -> dict[str, list[dict[str, float]]]:
    last = max(r["step"] for r in records)
    arms = dict.fromkeys(r["arm"] for r in records)
    return {arm: [r["metrics"] for r in records if (r["arm"], r["step"]) == (arm, last)] for arm in arms}


def _median_ms(calls: dict[Any, tuple[Any, tuple]], repeats: int = 30) -> dict[Any, float]:
    for function, args in calls.values():
        jax.block_until_ready(function(*args))
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (function, args) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _show(axes: Any, images: np.ndarray, title: str) -> None:
    width = round(images.shape[1] ** 0.5)
    tiles = np.pad(images[: SIDE**2].reshape(SIDE, SIDE, width, width), 2 * ((0, 0),) + 2 * ((1, 1),))
    axes.imshow(tiles.transpose(0, 2, 1, 3).reshape(SIDE * (width + 2), -1), cmap="gray", vmin=-1, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _figure(figsize: tuple[float, float]) -> Any:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained")
