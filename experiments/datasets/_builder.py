"""One tensorflow-datasets builder for every data set of the catalog; features are read off the columns."""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments._data_folder import root
from experiments.datasets._archives import alone, checked_path, raise_if_disk_full, remove_if_empty
from experiments.datasets._catalog import CATALOG
from experiments.datasets._images import Columns, Splits

VERSION = "1.0.0"
SUMS = "sha256.json"


class PackagedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
    """Writes splits of columns as a tensorflow-datasets data set, and gives every example its row as `index`."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, name: str, splits: Splits, description: str, data_dir: Path):
        self.name = name  # pyright: ignore
        self._columns, self._description = splits, description
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {k: _feature(k, [split[k] for split in self._columns.values()]) for k in self._columns["train"]}
        features["index"] = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self, description=self._description, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(columns) for split, columns in self._columns.items()}

    def _generate_examples(self, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, values in enumerate(zip(*columns.values(), strict=True)):
            yield index, {**dict(zip(columns, values)), "index": index}


def prepared(name: str, data_dir: str | Path | None) -> Any:
    """Builder of a catalog data set, prepared: read from its folder if it is there, else built from the archive.

    Args:
      name: a name in the catalog.
      data_dir: folder of prepared data sets; by default `prepared` in the data folder.

    Raises:
      FileNotFoundError: if the archive is missing.
      ValueError: if the archive is not the pinned one, or the prepared files are damaged.
      OSError: if the disk is full.
    """
    folder = folder_of(name, data_dir)
    data_dir = folder.parent.parent
    if not folder.is_dir():
        dataset = CATALOG[name]
        paths = [checked_path(archive, name) for archive in dataset.pinned]
        splits = dataset.read((paths[0].parent if dataset.files else paths[0]) if paths else None)
        description = f"{dataset.holds}. Licence: {dataset.licence}."
        print(f"Preparing data set {name!r} in {data_dir} (once).", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with alone(folder.parent) as is_alone:
                for left in folder.parent.glob("preparing_*") if is_alone else ():  # of a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix="preparing_") as making:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        PackagedBuilder(f"packaged_{name}", splits, description, Path(making)).download_and_prepare()
                    made = folder_of(name, making)
                    (made / SUMS).write_text(json.dumps(_sums(made), indent=2), encoding="utf-8")
                    made.rename(folder)
        except Exception as error:
            remove_if_empty(folder.parent)
            raise_if_disk_full(error, f"preparing data set {name!r} in {data_dir}", 2 * _bytes(splits))
            if not folder.is_dir():  # else another process prepared it meanwhile
                raise
    _check_sums(folder)
    return tfds.builder_from_directory(folder)


def folder_of(name: str, data_dir: str | Path | None) -> Path:
    """Where a catalog data set lies once it is prepared."""
    return (root() / "prepared" if data_dir is None else Path(data_dir)) / f"packaged_{name}" / VERSION


def _sums(folder: Path) -> dict[str, str]:
    """The sha256 of each file of prepared data, by name."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _check_sums(folder: Path) -> None:
    try:
        wanted, found = json.loads((folder / SUMS).read_text(encoding="utf-8")), _sums(folder)
        wrong = [name for name in wanted if found.get(name) != wanted[name]]
    except (OSError, ValueError, TypeError) as error:
        wrong = [f"{SUMS} or another file cannot be read: {error}"]
    if wrong:
        raise ValueError(
            f"The prepared data set in {folder} is damaged ({', '.join(wrong)}). Delete that folder; the next run "
            "prepares it again."
        )


def _feature(name: str, columns: list[Any]) -> tfds.features.FeatureConnector:
    if name in ("label", "domain"):
        values = np.concatenate([np.asarray(column) for column in columns])
        if values.dtype.kind == "U":
            return tfds.features.ClassLabel(names=sorted(set(values.tolist())))
        return tfds.features.ClassLabel(num_classes=int(values.max()) + 1)
    if isinstance(columns[0], list):
        return tfds.features.Text()
    if columns[0].ndim == 1:
        return tfds.features.Scalar(columns[0].dtype.type)
    return tfds.features.Tensor(shape=columns[0].shape[1:], dtype=columns[0].dtype.type)


def _bytes(splits: Splits) -> int:
    columns = [values for split in splits.values() for values in split.values()]
    return sum(v.nbytes if isinstance(v, np.ndarray) else sum(map(len, v)) for v in columns)
