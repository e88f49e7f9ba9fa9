"""Which losses of `zero_shot_retrieval` differ by more than their seeds do."""

import math
import os
from pathlib import Path

from experiments.engine.axis_titles import axis_title
from experiments.engine.reports import Record, mean_and_error

Rows = list[list[str]]


def differences(records: list[Record], metric: str, names: list[str], level: float = 0.05) -> Rows:
    """Each arm less the best one, paired by seed, with Holm's correction for the number of arms compared.

    Returns:
      Rows of text with a header: arm, mean, difference to the best ± standard error, and whether it exceeds the spread
      of the seeds.
    """
    values = {n: {r["seed"]: r["metrics"][metric] for r in records if r["arm"] == n} for n in names}
    means = {n: mean_and_error(v.values())[0] for n, v in values.items() if v}
    order = sorted(means, key=lambda n: -means[n])
    best = order[0]
    paired = {n: [values[n][seed] - values[best][seed] for seed in values[best]] for n in order[1:]}
    clear = holm({n: p_value(v) for n, v in paired.items()}, level)
    rows = [["arm", metric, "less the best", "beyond the seeds"], [best, f"{means[best]:.3f}", "", ""]]
    for name, gaps in paired.items():
        gap = "{:.3f} ± {:.3f}".format(*mean_and_error(gaps))
        rows.append([name, f"{means[name]:.3f}", gap, _word(name in clear)])
    return rows


def p_value(gaps: list[float]) -> float:
    """Two-sided p-value of the t-test that the mean of the gaps is 0."""
    from jax.scipy.special import betainc

    mean, error = mean_and_error(gaps)
    if not error > 0:
        return 0.0 if error == 0 and mean else 1.0
    degrees = len(gaps) - 1
    return float(betainc(degrees / 2, 0.5, degrees / (degrees + (mean / error) ** 2)))


def holm(p_values: dict[str, float], level: float) -> set[str]:
    """The names whose hypothesis is rejected at a family-wise error rate."""
    rejected = set()
    for i, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > level / (len(p_values) - i):
            break
        rejected.add(name)
    return rejected


def draw_scores(records: list[Record], metric: str, path: Path) -> None:
    """One row for each arm, best first: a dot for each seed, a bar at the mean."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    values = {name: [r["metrics"][metric] for r in records if r["arm"] == name] for name in {r["arm"] for r in records}}
    means = {name: math.fsum(v) / len(v) for name, v in values.items()}
    order = sorted(means, key=means.__getitem__)
    figure = Figure(figsize=(7.2, 0.28 * len(order) + 1), layout="constrained")
    axes = figure.subplots()
    for height, name in enumerate(order):
        axes.plot(values[name], [height] * len(values[name]), "o", color="tab:blue", alpha=0.5, markersize=4)
        axes.plot([means[name]], [height], "|", color="black", markersize=12)
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel=axis_title(metric), title="A dot for each seed, a bar at the mean")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
