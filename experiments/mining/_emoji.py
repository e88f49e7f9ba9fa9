"""Rows of four images of one class: emoji in four styles, or images of a class of digits."""

import numpy as np

from experiments.datasets import arrays, check_fetched

EMOJI = ("emoji", "emoji_twitter", "emoji_apple", "emoji_facebook")


IMAGES_PER_ROW = 4


def rows_of_one_class(dataset: str, validate: bool) -> dict[str, dict[str, np.ndarray]]:
    """Splits train and test of different classes: `image` float32 [rows, 4, pixels], `label` [rows]."""
    if dataset == "emoji":
        train, test = emoji_rows("train"), emoji_rows("test")
        if validate:
            cut = len(train["label"]) * 4 // 5
            train, test = ({k: v[rows] for k, v in train.items()} for rows in (slice(cut), slice(cut, None)))
    else:
        first, end = (3, 5) if validate else (5, 10)
        train = class_rows(dataset, "train", 0, first)
        test = class_rows(dataset, "train" if validate else "test", first, end)
    mean, deviation = train["image"].mean(), train["image"].std()
    return {k: {**v, "image": (v["image"] - mean) / deviation} for k, v in {"train": train, "test": test}.items()}


def emoji_rows(split: str) -> dict[str, np.ndarray]:
    """One row for each emoji: its four drawings, averaged to 16x16 pixels."""
    check_fetched(*EMOJI)
    styles = [arrays(name, split)["image"] for name in EMOJI]
    images = np.stack(styles, axis=1).reshape(-1, len(EMOJI), 16, 4, 16, 4, 3).mean((3, 5), dtype=np.float32)
    return {"image": images.reshape(*images.shape[:2], -1), "label": np.arange(len(images), dtype=np.int32)}


def class_rows(dataset: str, split: str, first: int, end: int) -> dict[str, np.ndarray]:
    """Rows of four images of one class, for the classes first <= label < end."""
    data = arrays(dataset, split)
    images, labels = [], []
    for label in range(first, end):
        of_class = data["image"][data["label"] == label].astype(np.float32)
        rows = of_class[: len(of_class) // IMAGES_PER_ROW * IMAGES_PER_ROW].reshape(
            -1, IMAGES_PER_ROW, of_class[0].size
        )
        images.append(rows)
        labels.append(np.full(len(rows), label, np.int32))
    return {"image": np.concatenate(images), "label": np.concatenate(labels)}
