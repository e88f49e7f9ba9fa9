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
}
