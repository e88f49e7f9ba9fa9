"""Training runs of language models over data mixtures, of which RegMix published the losses (data set `regmix`)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.datasets import arrays
from experiments.datasets._mixtures import DOMAINS as DOMAINS
from experiments.datasets._mixtures import VALIDATED as VALIDATED

SPLITS = ("train", "test_1m", "test_60m", "test_1b")


class Runs(NamedTuple):
    """`mixtures` [N, 17] over `DOMAINS`, each summing to 1; `losses` [N, 13] on the validation data of `VALIDATED`."""

    mixtures: np.ndarray
    losses: np.ndarray

    def target(self, name: str) -> np.ndarray:
        """Loss to predict [N]: of one validation domain, or "mean" over all."""
        return self.losses.mean(axis=1) if name == "mean" else self.losses[:, VALIDATED.index(name)]


def mixture_runs(split: str, data_dir: str | Path | None = None) -> Runs:
    """Runs of one split: `train` (512 of 1M parameters), `test_1m` and `test_60m` (the same 256), `test_1b` (64)."""
    columns = arrays("regmix", split, data_dir)
    return Runs(columns["mixture"], columns["losses"])
