"""What the cases of the conformance suite share. A test file carries the case of its transformation in `CASES`."""

import numpy as np

from minibatch_jax.testing import ROWS as ROWS  # a multiple of the 8 devices of the suite
from minibatch_jax.testing import Case as Case


def losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"losses": rng.gamma(2.0, size=ROWS).astype(np.float32)}
