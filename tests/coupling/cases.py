import numpy as np

from minibatch_jax import coupling
from tests.case import ROWS, Case


def pairs(rng):
    a, b = rng.uniform(0.5, 1, ROWS), rng.uniform(0.5, 1, ROWS)
    return np.asarray(np.outer(a / a.sum(), b / b.sum()), np.float32)


def cost(rng):
    x0, x1 = rng.normal(size=(2, ROWS, 3))
    return {"cost": np.sum((x0[:, None] - x1[None]) ** 2, axis=-1).astype(np.float32)}


def nothing(rng):
    del rng
    return {}


CASES: dict[str, Case] = {
    "couple_exact": Case(coupling.couple_exact, cost, pairs, lowers_mass=False, tolerance=1e-6),
    "couple_independent": Case(coupling.couple_independent, nothing, pairs, lowers_mass=False, tolerance=1e-6),
    "couple_sinkhorn": Case(
        lambda: coupling.couple_sinkhorn(0.1, relative_to="mean"), cost, pairs, lowers_mass=False, tolerance=1e-5
    ),
    "couple_transport": Case(coupling.couple_transport, cost, pairs, lowers_mass=False, tolerance=1e-5),
    "couple_partial": Case(lambda: coupling.couple_partial(0.6), cost, pairs, tolerance=1e-5),
    "couple_partial_sinkhorn": Case(
        lambda: coupling.couple_partial_sinkhorn(0.6, 0.1, relative_to="mean"), cost, pairs, tolerance=1e-4
    ),
    "couple_unbalanced": Case(
        lambda: coupling.couple_unbalanced(0.1, 1.0, relative_to="mean"), cost, pairs, tolerance=1e-4
    ),
    "couple_quantized": Case(lambda: coupling.couple_quantized(8), cost, pairs, lowers_mass=False, tolerance=1e-6),
    "couple_nearest": Case(coupling.couple_nearest, cost, pairs, lowers_mass=False, tolerance=1e-6),
    "couple_by_kernel": Case(
        lambda: coupling.couple_by_kernel(0.5, relative_to="mean", normalization="batch"),
        cost,
        pairs,
        lowers_mass=False,
        tolerance=1e-5,
    ),
    "couple_semidiscrete": Case(
        lambda: coupling.couple_semidiscrete(0.5, 0.1), cost, pairs, lowers_mass=False, tolerance=1e-5
    ),
}
