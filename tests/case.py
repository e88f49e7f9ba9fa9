"""What the conformance suite needs to know of a factory. Each noun lists its own in `tests/<noun>/cases.py`."""

import dataclasses
from collections.abc import Callable

import numpy as np
import optax

from minibatch_jax.signals import SIGNALS

ROWS = 16  # a multiple of the 8 devices of the suite
PAIRWISE = frozenset(name for name, signal in SIGNALS.items() if signal.pairwise)
REPLICATED = frozenset(name for name, signal in SIGNALS.items() if signal.replicated)


def uniform(rng: np.random.Generator) -> np.ndarray:
    del rng
    return np.full(ROWS, 1 / ROWS, np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A factory of the public index, and data to run it on.

    Attributes:
      make: the factory with arguments that keep some of `ROWS` items and drop others.
      signals: draws the signals, with `ROWS` rows (and columns, if pairwise), float32 or int32.
      weights: draws the incoming weights, `[ROWS]` by default, `[ROWS, ROWS]` for pairs, no zeros.
      lowers_mass: True if the sum of weights may fall (filters), False if it is kept (couplings, `normalize`), None if
        it is kept in expectation only (unbiased samples).
      tolerance: relative, between one device and many, and under padding; 0 demands equality.
    """

    make: Callable[[], optax.GradientTransformationExtraArgs]
    signals: Callable[[np.random.Generator], dict[str, np.ndarray]]
    weights: Callable[[np.random.Generator], np.ndarray] = uniform
    lowers_mass: bool | None = True
    tolerance: float = 0.0


def losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"losses": rng.gamma(2.0, size=ROWS).astype(np.float32)}
