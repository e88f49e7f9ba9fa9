"""Readers of image data: archive -> splits of columns.

Every reader takes the archive's path (None: the data is installed) and returns `{split: {column: values}}`; the values
are an array with the examples on axis 0, or a list of str. `label` columns hold integers or class names.
"""

from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, Any]
Splits = dict[str, Columns]


def every_fifth_to_test(columns: Columns) -> Splits:
    """Split columns that come without a test set: rows 4, 9, 14, ... are the test set, order kept."""
    count = len(next(iter(columns.values())))
    test = np.arange(count) % 5 == 4

    def rows(values: Any, chosen: np.ndarray) -> Any:
        return values[chosen] if isinstance(values, np.ndarray) else [v for v, c in zip(values, chosen) if c]

    return {split: {k: rows(v, m) for k, v in columns.items()} for split, m in (("train", ~test), ("test", test))}


def digits(archive: Path | None) -> Splits:
    """The 1797 handwritten digits that scikit-learn carries: 8x8x1 with values 0 to 16."""
    del archive
    import sklearn.datasets

    data = sklearn.datasets.load_digits()
    return every_fifth_to_test({"image": data.images.astype(np.uint8)[..., None], "label": data.target})
