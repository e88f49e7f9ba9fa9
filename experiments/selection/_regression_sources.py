"""Sources to regress on of which a share is genuine: planted ones, those of an adversary, and days of bicycle hire."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from experiments.datasets import arrays

Task = Literal["clusters", "ten_groups", "line", "bicycles"]
Adversary = Literal["side", "ring", "chain", "quiet"]

NUM_SOURCES, SAMPLES, WIDTH, NOISE = 150, 32, 8, 0.3
NUM_TRUSTED = 16
LINE_LENGTH = 4.0
DAY, HOUR, WORKING_DAY, WEATHER = 13, 14, 17, [22, 24, 25]
"""columns of `bikeshare`; the weather is temperature, humidity and wind"""


class Problem(NamedTuple):
    """Sources and what is known or asked about them.

    Attributes:
      inputs, targets: `[S, N, D]` and `[S, N]`.
      genuine: `[S]` bool, seen by the oracles only.
      trusted: inputs `[T, D]` and targets `[T]` known to be genuine.
      error: of regressors `[..., D]`.
    """

    inputs: np.ndarray
    targets: np.ndarray
    genuine: np.ndarray
    trusted: tuple[np.ndarray, np.ndarray]
    error: Callable[[np.ndarray], np.ndarray]


def make_problem(task: Task, seed: int) -> Problem:
    """The sources of a task, drawn with a seed."""
    rng = np.random.default_rng(seed)
    problem = bicycles(rng) if task == "bicycles" else planted(rng, task)
    x, y, genuine, (trusted, answers), error = problem
    x, y, trusted, answers = (array.astype(np.float32) for array in (x, y, trusted, answers))
    return Problem(x, y, genuine, (trusted, answers), error)


def planted(rng: np.random.Generator, task: Task) -> Problem:
    """Normal inputs and known regressors; the error is the distance to the genuine one."""
    centers = rng.normal(size=(10, WIDTH))
    true, other = centers[:2]
    group = np.repeat(np.arange(10), 15) if task == "ten_groups" else np.repeat([0, 1, 2, 3], [45, 35, 35, 35])
    regressors = centers[group]
    if task == "line":
        steps = np.where(group > 0, rng.uniform(0, LINE_LENGTH, NUM_SOURCES), 0)
        regressors = true[None] + steps[:, None] * (other / np.linalg.norm(other))[None]
    inputs = rng.normal(size=(NUM_SOURCES, SAMPLES, WIDTH))
    targets = np.einsum("snd,sd->sn", inputs, regressors) + NOISE * rng.normal(size=(NUM_SOURCES, SAMPLES))
    if task == "clusters":
        targets[group == 3] = np.linalg.norm(true) * rng.normal(size=(35, SAMPLES))
    trusted = rng.normal(size=(NUM_TRUSTED, WIDTH))
    answers = trusted @ true + NOISE * rng.normal(size=NUM_TRUSTED)
    return Problem(inputs, targets, group == 0, (trusted, answers), lambda w: np.linalg.norm(w - true, axis=-1))


def imitators(adversary: Adversary, distance: float, seed: int) -> Problem:
    """Sources of an adversary that knows the filter: wrong regressors at a distance at which they may pass unseen.

    Of 150 sources 45 are genuine. The others are all at one point ("side"), there and without noise so that residuals
    tell nothing about the genuine ones ("quiet"), at seven points in orthogonal directions ("ring"), or spread between
    the genuine regressor and that point so that there is no gap to split at ("chain").
    """
    rng = np.random.default_rng(seed)
    true = rng.normal(size=WIDTH)
    directions = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    genuine = np.arange(NUM_SOURCES) < 45
    wrong = np.tile(directions[0], (NUM_SOURCES, 1))
    if adversary == "ring":
        wrong = directions[np.arange(NUM_SOURCES) % 7]
    lengths = rng.uniform(0, distance, NUM_SOURCES) if adversary == "chain" else np.full(NUM_SOURCES, distance)
    regressors = true[None] + np.where(genuine, 0, lengths)[:, None] * wrong
    noise = np.where(genuine | (adversary != "quiet"), NOISE, 0)
    inputs = rng.normal(size=(NUM_SOURCES, SAMPLES, WIDTH))
    targets = np.einsum("snd,sd->sn", inputs, regressors) + noise[:, None] * rng.normal(size=(NUM_SOURCES, SAMPLES))
    trusted = rng.normal(size=(NUM_TRUSTED, WIDTH))
    answers = trusted @ true + NOISE * rng.normal(size=NUM_TRUSTED)
    x, y, trusted, answers = (array.astype(np.float32) for array in (inputs, targets, trusted, answers))
    return Problem(x, y, genuine, (trusted, answers), lambda w: np.linalg.norm(w - true, axis=-1))


def bicycles(rng: np.random.Generator) -> Problem:
    """Days as sources; the error is the root mean square on other days off, in standard deviations of the target."""
    inputs, targets, working = days()
    off, work = (rng.permutation(np.flatnonzero(working == kind)) for kind in (False, True))
    off, test = np.split(off, [int(0.7 * len(off))])
    trusted, off = off[0], off[1:]
    sources = np.concatenate([off, work[: int(0.7 * len(work))]])
    hours = rng.permuted(np.tile(np.arange(24), (len(sources) + 1, 1)), axis=1)

    def error(regressors):
        residuals = np.einsum("tnd,...d->...tn", inputs[test], regressors) - targets[test]
        return np.sqrt(np.mean(residuals**2, axis=(-2, -1)))

    x, y = inputs[sources[:, None], hours[1:]], targets[sources[:, None], hours[1:]]
    some = hours[0, :NUM_TRUSTED]
    return Problem(x, y, ~working[sources], (inputs[trusted][some], targets[trusted][some]), error)


def days() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All complete days: inputs `[days, 24, 12]`, hires `[days, 24]` of mean 0 and variance 1, working day or not."""
    parts = [arrays("bikeshare", split) for split in ("train", "test")]
    features, hires = (np.concatenate([part[name] for part in parts]) for name in ("features", "target"))
    order = np.lexsort((features[:, HOUR], features[:, DAY]))
    features, hires = features[order], hires[order]
    _, number, counts = np.unique(features[:, DAY], return_inverse=True, return_counts=True)
    full = (counts == 24)[number]
    features, hires = features[full].reshape(-1, 24, features.shape[1]), hires[full].reshape(-1, 24)
    angles = features[:, :, HOUR, None] * (2 * np.pi / 24 * np.arange(1, 5))
    weather = features[:, :, WEATHER]
    weather = (weather - weather.mean((0, 1))) / weather.std((0, 1))
    ones = np.ones((*hires.shape, 1))
    inputs = np.concatenate([ones, np.sin(angles), np.cos(angles), weather], axis=2)
    return inputs, (hires - hires.mean()) / hires.std(), features[:, 0, WORKING_DAY] == 1
