"""Fashion-MNIST, or MNIST, as vectors of standardized pixels."""

import numpy as np

from experiments.datasets import arrays

HELD_OUT = 10_000


def fashion(pool: int, validate: bool, name: str = "fashion_mnist") -> dict[str, dict[str, np.ndarray]]:
    """Splits train and test: `image` float32 [N, (28 // pool)**2], means over squares, and `label` [N].

    To validate, the training set is cut in two: its last 10 000 images are the test split.
    """
    train, test = arrays(name, "train"), arrays(name, "test")
    if validate:
        train, test = ({k: v[part] for k, v in train.items()} for part in (slice(-HELD_OUT), slice(-HELD_OUT, None)))
    mean, deviation = train["image"].mean(), train["image"].std()

    def pooled(split):
        side = split["image"].shape[1] // pool
        means = split["image"].reshape(-1, side, pool, side, pool).mean((2, 4), dtype=np.float32)
        return {"image": (means.reshape(len(means), -1) - mean) / deviation, "label": split["label"]}

    return {"train": pooled(train), "test": pooled(test)}
