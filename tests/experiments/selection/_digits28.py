"""Digits enlarged to 28x28 pixels, in place of Fashion-MNIST."""

import functools
from typing import Any

import numpy as np

from experiments.datasets import arrays


@functools.cache
def digits28(pool: int = 1, validate: bool = False) -> dict[str, Any]:
    """Splits train and test: `image` float32 [N, 784] and `label` [N]."""

    def split(name):
        data = arrays("digits", name)
        images = np.kron(data["image"].reshape(-1, 8, 8).astype(np.float32) / 8 - 1, np.ones((1, 3, 3), np.float32))
        return {"image": np.pad(images, ((0, 0), (2, 2), (2, 2))).reshape(-1, 784), "label": data["label"]}

    return {"train": split("train"), "test": split("test")}
