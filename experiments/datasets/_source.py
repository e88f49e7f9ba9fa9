"""Read a data set by name: random access, whole arrays, or an iterator of batches whose place can be saved."""

import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._data_folder import root
from experiments.datasets._catalog import CATALOG

MOST_EXAMPLES = 2**31 - 1


def source(name: str, split: str, data_dir: str | Path | None = None) -> Any:
    """Random-access source of examples, each a dict with its features and `index`, its row in the split.

    A name of the catalog (`python -m experiments.datasets list`) is prepared on first use if its archive is there. Any
    other name goes to `tfds.builder` and must be prepared: `cifar10`, or `mnist:3.*.*` for the stock version of a name
    that we have too.

    Args:
      name: name of the data set.
      split: as in tensorflow-datasets, `train`, `test`, `train[:10%]`, ... The order on disk is a fixed shuffle.
      data_dir: folder of prepared data sets; by default `prepared` in the data folder (ours), or the default of
        tensorflow-datasets (stock names).

    Returns:
      A `grain` random-access source: `len`, `[i]` and, in bulk, `__getitems__`.

    Raises:
      FileNotFoundError: if the archive is missing, or a stock data set is not prepared.
      ValueError: if the archive has the wrong sha256, or the name or split is unknown.
      OSError: if the disk is full.

    Examples:
      >>> import tempfile
      >>> digits = source("digits", "train", tempfile.mkdtemp())
      >>> len(digits), digits[0]["image"].shape, sorted(digits[0])
      (1438, (8, 8, 1), ['image', 'index', 'label'])
    """
    import tensorflow_datasets as tfds

    from experiments.datasets import _builder

    if name in CATALOG:
        return _builder.prepared(name, data_dir).as_data_source(split)
    builder: Any = tfds.builder(name, data_dir=data_dir)
    try:
        examples = builder.as_data_source(split)
    except NotImplementedError as error:
        raise FileNotFoundError(
            f"Data set {name!r} is not prepared for random access in {builder.data_dir}. tensorflow-datasets prepares "
            "its own data sets with TensorFlow and the network. Where both are, run: "
            f"tfds build {name} --file_format=array_record, then pass the folder that it names as data_dir."
        ) from error
    return examples if "index" in builder.info.features else _Indexed(examples)


def arrays(name: str, split: str, data_dir: str | Path | None = None) -> dict[str, np.ndarray]:
    """A whole split as arrays, sorted by index, so that row i of a whole split has index i.

    Args:
      name: name of the data set.
      split: name of the split, such as `train` or `test`.
      data_dir: folder of prepared data sets; by default `prepared` in the data folder (ours), or the default of
        tensorflow-datasets (stock names).

    Returns:
      One array per feature, examples on axis 0: `image` uint8 `[N, H, W, C]`, `label` and `index` int32 `[N]`; text is
      an object array of bytes; 64-bit numbers become 32-bit ones (integers only if they fit), as in JAX.

    Raises:
      FileNotFoundError: if the archive is missing, or a stock data set is not prepared.
      ValueError: if the archive has the wrong sha256, or the name or split is unknown.
      OSError: if the disk is full.

    Examples:
      >>> import tempfile
      >>> digits = arrays("digits", "test", tempfile.mkdtemp())
      >>> digits["image"].shape, digits["index"][:3].tolist()
      ((359, 8, 8, 1), [0, 1, 2])
    """
    examples = source(name, split, data_dir)
    items = sorted(examples.__getitems__(range(len(examples))), key=operator.itemgetter("index"))
    return _columns(items)


def check_fetched(*names: str, data_dir: str | Path | None = None) -> None:
    """Raise unless all these data sets can be read, so that one command fetches all that are missing.

    Args:
      *names: names in the catalog.
      data_dir: folder of prepared data sets; by default `prepared` in the data folder.

    Raises:
      FileNotFoundError: if some are neither prepared nor fetched; it names all of them.

    Examples:
      >>> check_fetched("digits", "wine")
    """
    from experiments.datasets import _builder

    absent = {
        archive.file: name
        for name in names
        if not _builder.folder_of(name, data_dir).is_dir()
        for archive in CATALOG[name].pinned
        if not (root() / archive.file).is_file()
    }
    if absent:
        lacking = list(dict.fromkeys(absent.values()))
        raise FileNotFoundError(
            f"Data sets {', '.join(lacking)} need the archives {', '.join(absent)} in {root()}, which are not "
            f"there. Run: python -m experiments.datasets fetch {' '.join(lacking)}"
        )


def batches(source_or_length: Any, batch_size: int, seed: int, epochs: int | None = None) -> Any:
    """Iterator of shuffled batches whose place can be saved: `get_state()`, `set_state(state)` resumes exactly.

    Every epoch is a new permutation of all examples; its last, incomplete batch is dropped, so that no batch holds an
    example twice. Given a length, batches hold indices only: keep the arrays on the device and index them there.

    Args:
      source_or_length: what `source` returns, or the number of examples.
      batch_size: examples in a batch, at most the number of examples.
      seed: of the permutations.
      epochs: how many; forever by default.

    Returns:
      A `grain` iterator of dicts of numpy arrays `[batch_size, ...]`; `{"index": int32 [batch_size]}` for a length.

    Raises:
      TypeError: if a count is not an int, or a source has no length.
      ValueError: if there are no examples or more than 2^31 - 1, as in a data set without an end, or a number does not
        fit.

    Examples:
      >>> iterator = batches(5, batch_size=2, seed=0)
      >>> first = next(iterator)["index"]
      >>> first.shape, len(set(first.tolist()) | set(next(iterator)["index"].tolist()))
      ((2,), 4)
    """
    import grain

    from minibatch_jax._checks import check_count, check_whole

    is_length = isinstance(source_or_length, int | np.integer)
    if not is_length and not hasattr(source_or_length, "__len__"):
        kind = type(source_or_length).__name__
        raise TypeError(f"source_or_length is of type {kind}, wanted a random-access source, with len, or an int.")
    length: Any = source_or_length if is_length else len(source_or_length)
    check_count("source_or_length", length)
    if length > MOST_EXAMPLES:
        raise ValueError(
            f"source_or_length has {length} examples, wanted at most {MOST_EXAMPLES}: their order is held in memory. "
            "A data set that repeats without end is one epoch here; give it without its repeat, as epochs=None repeats."
        )
    check_count("batch_size", batch_size, length, "the number of examples")
    check_whole("seed", seed)
    examples = None if is_length else source_or_length
    if epochs is not None:
        check_count("epochs", epochs)
    plan: Any = _Batches(examples, int(length), int(batch_size), seed, epochs)
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(grain.MapDataset.source(plan).to_iter_dataset(options))


class _Indexed:
    """A source whose examples get their position as `index`."""

    def __init__(self, examples: Any):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**self._examples[position], "index": np.int64(position)}

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        items = self._examples.__getitems__(positions)
        return [{**item, "index": np.int64(position)} for item, position in zip(items, positions)]


class _Batches:
    """Random-access source of batches: batch b of epoch e is a slice of the permutation drawn from (seed, e)."""

    def __init__(self, examples: Any, length: int, batch_size: int, seed: int, epochs: int | None):
        self._examples, self._length, self._batch_size = examples, length, batch_size
        self._seed, self._epochs = seed, epochs
        self._drawn = (-1, np.zeros(0, np.int32))

    def __len__(self) -> int:
        return sys.maxsize if self._epochs is None else self._epochs * (self._length // self._batch_size)

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, place = divmod(number, self._length // self._batch_size)
        if self._drawn[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._length)
            self._drawn = (epoch, order.astype(np.int32))
        chosen = self._drawn[1][place * self._batch_size : (place + 1) * self._batch_size]
        if self._examples is None:
            return {"index": chosen.copy()}
        items = self._examples.__getitems__(chosen.tolist())
        return _columns(items)


def _columns(items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {key: _column([item[key] for item in items]) for key in items[0]}


def _column(values: list[Any]) -> np.ndarray:
    if isinstance(values[0], bytes | str):
        column = np.empty(len(values), object)
        column[:] = values
        return column
    column = np.stack(values)
    narrow = {"int64": np.int32, "float64": np.float32}.get(column.dtype.name, column.dtype)
    if column.dtype == np.int64 and not np.array_equal(column, column.astype(np.int32)):
        return column
    return column.astype(narrow)
