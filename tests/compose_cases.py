import jax.numpy as jnp
import numpy as np

from minibatch_jax import compose
from tests.case import ROWS, Case


def nothing(rng):
    del rng
    return {}


CASES = {
    "normalize": Case(compose.normalize, nothing, lowers_mass=False, tolerance=1e-6),
    "mask_rows": Case(compose.mask_rows, lambda rng: {"mask": np.asarray(rng.random(ROWS) < 0.5)}),
    "record": Case(lambda: compose.record({"mass": jnp.sum}), nothing),
}
