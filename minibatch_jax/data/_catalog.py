"""The table of data sets: what each is called, which archive holds it, and who reads it. We ship none of the data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from minibatch_jax.data import _images
from minibatch_jax.data._archives import Archive


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One row: archive (None: installed already), reader, what it holds, licence as the package states it."""

    archive: Archive | None
    read: Callable[[Path | None], _images.Splits]
    holds: str
    licence: str


CATALOG: dict[str, Dataset] = {
    "digits": Dataset(None, _images.digits, "1797 handwritten digits 8x8x1, 10 classes", "BSD-3 (scikit-learn)"),
}
