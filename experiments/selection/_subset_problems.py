"""Problems in which a subset may teach more than all rows: unequal noise, a wrong model, and tables and images."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm, qmc

from experiments.datasets import arrays

Task = Literal["noise", "bicycles", "step", "fashion_mnist"]

NOISE_ROWS, NOISE_WIDTH, NOISE_SPREAD, NOISE_KNOWN = 2000, 20, 1.5, 0.8
"""the logarithm of the variance has this standard deviation, and this correlation to what the weak model says"""
STEP_ROWS, STEP_WEAK = 4000, 200
BICYCLE_ROWS, BICYCLE_WEAK = 1000, 300
IMAGE_ROWS, IMAGE_WEAK, IMAGE_VALIDATION, DIMENSIONS = 6000, 300, 2000, 40
CLOTHES = (0, 2, 3, 4, 6)
"""tops, coats and dresses, to be told from the other classes"""
RIDGES = (1e-2, 1e-3, 1e-4)


class Problem(NamedTuple):
    """Rows to choose from, and what is done with a choice.

    Attributes:
      uncertainty: `[N]`, what a weak model says of the rows: the variance of the noise or of the label.
      error: of a fit with the weights `[N]`.
      theory: of the same with infinitely many rows, or its leading term; it gets the function from uncertainties to
        probabilities to be kept, and whether rows are divided by them. None where it is not known.
    """

    uncertainty: np.ndarray
    error: Callable[[np.ndarray], float]
    theory: Callable[[Callable[[np.ndarray], np.ndarray], bool], float] | None = None


def make_problem(task: Task, seed: int) -> Problem:
    """The rows of a task, drawn with a seed."""
    made = {"noise": unequal_noise, "bicycles": bicycles, "step": step, "fashion_mnist": clothes}
    return made[task](np.random.default_rng(seed))


def unequal_noise(rng: np.random.Generator) -> Problem:
    """Linear regression on normal inputs; each row has a noise of its own variance. The error is that of the slopes.

    With the share g of the rows and the variance s the expected error of least squares on rows kept with probability p
    is `D / N * E[p s] / g^2`, and `D / N * E[s / p]` with rows divided by p: the latter is never less than all rows'.
    """
    known = rng.normal(size=NOISE_ROWS)
    rest = rng.normal(size=NOISE_ROWS)
    variance = np.exp(NOISE_SPREAD * (NOISE_KNOWN * known + np.sqrt(1 - NOISE_KNOWN**2) * rest))
    inputs, slopes = rng.normal(size=(NOISE_ROWS, NOISE_WIDTH)), rng.normal(size=NOISE_WIDTH)
    targets = inputs @ slopes + np.sqrt(variance) * rng.normal(size=NOISE_ROWS)

    def theory(probabilities, unbiased):
        points = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
        kept = probabilities(np.exp(NOISE_SPREAD * points))
        means = np.exp(NOISE_SPREAD * NOISE_KNOWN * points + NOISE_SPREAD**2 * (1 - NOISE_KNOWN**2) / 2)
        factor = np.mean(means / kept) if unbiased else np.mean(kept * means) / np.mean(kept) ** 2
        return NOISE_WIDTH / NOISE_ROWS * factor

    error = lambda weights: np.sum((least_squares(inputs, targets, weights) - slopes) ** 2)  # noqa: E731
    return Problem(np.exp(NOISE_SPREAD * known), error, theory)


def step(rng: np.random.Generator) -> Problem:
    """Two classes on either side of a smooth step, and a linear model. The error is that on new rows.

    The theory fits to 16 384 evenly spread points with their probabilities to be kept as weights.
    """

    def drawn(inputs):
        chance = expit(50 * (inputs[:, 1] - 1.5 * np.tanh(2 * inputs[:, 0])))
        return np.column_stack([inputs, np.ones(len(inputs))]), chance

    population, chances = drawn(norm.ppf(np.clip(qmc.Sobol(2, rng=0).random(2**14), 1e-6, 1 - 1e-6)))
    inputs, chance = drawn(rng.normal(size=(STEP_ROWS, 2)))
    label = (rng.random(STEP_ROWS) < chance).astype(float)
    weak, weak_chance = drawn(rng.normal(size=(STEP_WEAK, 2)))
    judge = logistic(weak, (rng.random(STEP_WEAK) < weak_chance).astype(float), np.ones(STEP_WEAK) / STEP_WEAK, 1e-3)

    def error(parameters):
        return np.mean(np.where(population @ parameters > 0, 1 - chances, chances))

    def theory(probabilities, unbiased):
        kept = probabilities(spread(population @ judge))
        weights = np.ones(len(chances)) if unbiased else kept
        return error(logistic(population, chances, weights / len(chances), 1e-4))

    fitted = lambda weights: error(logistic(inputs, label, weights / STEP_ROWS, 1e-4))  # noqa: E731
    return Problem(spread(inputs @ judge), fitted, theory)


def bicycles(rng: np.random.Generator) -> Problem:
    """Hires of an hour, by linear regression on the hour, the working day and the weather; the noise grows with them.

    The error is the mean square on the rows that are left, in variances of the target.
    """
    parts = [arrays("bikeshare", split) for split in ("train", "test")]
    features, hires = (np.concatenate([part[name] for part in parts]).astype(float) for name in ("features", "target"))
    hours = np.eye(24)[features[:, 14].astype(int)]
    weather = features[:, [17, 22, 24, 25]]
    inputs = np.column_stack([hours, (weather - weather.mean(0)) / weather.std(0)])
    targets = (hires - hires.mean()) / hires.std()
    weak, rows, test = np.split(rng.permutation(len(targets)), [BICYCLE_WEAK, BICYCLE_WEAK + BICYCLE_ROWS])
    judge = least_squares(inputs[weak], targets[weak], np.ones(BICYCLE_WEAK), 1.0)
    squares = (targets[weak] - inputs[weak] @ judge) ** 2
    of_noise = least_squares(inputs[weak], np.log(squares + 1e-3), np.ones(BICYCLE_WEAK), 10.0)

    def error(weights):
        found = least_squares(inputs[rows], targets[rows], weights, 0.1)
        return np.mean((inputs[test] @ found - targets[test]) ** 2)

    return Problem(np.exp(inputs[rows] @ of_noise), error)


def clothes(rng: np.random.Generator) -> Problem:
    """Two groups of clothes, told apart by logistic regression on principal components of the images."""
    train, test = (arrays("fashion_mnist", split) for split in ("train", "test"))
    sizes = np.cumsum([IMAGE_ROWS, IMAGE_WEAK, IMAGE_VALIDATION])
    chosen, weak, validation, _ = np.split(rng.permutation(len(train["label"])), sizes)
    pixels = train["image"][chosen[:4000]].reshape(-1, train["image"][0].size).astype(np.float32)
    mean = pixels.mean(0)
    components = np.linalg.svd(pixels - mean, full_matrices=False)[2][:DIMENSIONS].T
    deviation = ((pixels - mean) @ components).std(0)

    def rows(data, which):
        flat = data["image"][which].reshape(-1, len(mean)).astype(np.float32)
        inputs = np.column_stack([(flat - mean) @ components / deviation, np.ones(len(flat))])
        return inputs.astype(float), np.isin(data["label"][which], CLOTHES).astype(float)

    inputs, label = rows(train, chosen)
    judged, held, tested = rows(train, weak), rows(train, validation), rows(test, slice(None))

    def fit(inputs, label, weights):
        """The ridge is that of the least validation loss; each fit begins where that of the larger ridge ended."""
        found = [np.zeros(inputs.shape[1])]
        for ridge in RIDGES:
            found.append(logistic(inputs, label, weights, ridge, start=found[-1]))
        return min(found[1:], key=lambda parameters: log_loss(*held, np.ones(len(held[1])), parameters))

    judge = fit(*judged, np.ones(IMAGE_WEAK) / IMAGE_WEAK)

    def error(weights):
        parameters = fit(inputs, label, weights / len(label))
        return np.mean((tested[0] @ parameters > 0) != (tested[1] > 0))

    return Problem(spread(inputs @ judge), error)


def spread(logits: np.ndarray) -> np.ndarray:
    """Variance of a label with these logits, at least 1e-6."""
    return np.maximum(expit(logits) * expit(-logits), 1e-6)


def least_squares(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Weighted least squares."""
    weighted = (inputs * weights[:, None]).T
    return np.linalg.solve(weighted @ inputs + ridge * np.eye(inputs.shape[1]), weighted @ targets)


def log_loss(inputs: np.ndarray, label: np.ndarray, weights: np.ndarray, parameters: np.ndarray) -> float:
    """Weighted sum of the logistic losses."""
    logits = inputs @ parameters
    return float(weights @ (np.logaddexp(0, logits) - label * logits))


def logistic(inputs, label, weights, ridge: float, start: np.ndarray | None = None) -> np.ndarray:
    """Minimum of `sum(weights * losses) + ridge / 2 * |parameters|^2`, by Newton steps that are halved if they fail.

    Labels may be chances in [0, 1]. Rows of weight 0 are left out.
    """
    kept = weights > 0
    inputs, label, weights = inputs[kept], label[kept], weights[kept]
    parameters = np.zeros(inputs.shape[1]) if start is None else start
    value = log_loss(inputs, label, weights, parameters) + ridge / 2 * parameters @ parameters
    for _ in range(30):
        chance = expit(inputs @ parameters)
        gradient = inputs.T @ (weights * (chance - label)) + ridge * parameters
        curvature = (inputs * (weights * chance * (1 - chance))[:, None]).T @ inputs + ridge * np.eye(len(parameters))
        direction = np.linalg.solve(curvature, gradient)
        if gradient @ direction < 1e-9 * max(value, 1e-6):
            break
        for size in (1.0, 0.5, 0.25, 0.0625):
            tried = parameters - size * direction
            lower = log_loss(inputs, label, weights, tried) + ridge / 2 * tried @ tried
            if lower < value:
                break
        else:
            break
        parameters, value = tried, lower
    return parameters
