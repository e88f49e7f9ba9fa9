"""A sampler as the source of a grain pipeline: batches of the rows that it draws, with its state in `get_state`."""

import base64
import collections
import concurrent.futures
import functools
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_count, check_whole
from minibatch_jax._extras import require
from minibatch_jax.sampling import Rows, Sampler
from minibatch_jax.sampling._sampler import ignore

grain = require("grain", "grain")


class DrawnBatch(NamedTuple):
    """A batch of a `SampledDataset`.

    Attributes:
      data: tree of numpy arrays `[b / process_count, ...]`, the share of this process. Padding holds row 0.
      rows: `indices` and `weights` `[b]` of the whole batch, numpy arrays, for `weights=` of `value_and_grad` and for
        `update`. Padding has index -1 and weight 0.
    """

    data: Any
    rows: Rows


def sampled_dataset(
    sampler: Sampler,
    state: Any,
    source: Any,
    *,
    read_ahead: int = 0,
    process_index: int | None = None,
    process_count: int | None = None,
) -> "SampledDataset":
    """Make a grain `IterDataset` without end whose elements are the batches that a sampler draws.

    What is fed back after a step goes to the iterator: `iterator.update(rows, losses=losses)`. The state of the sampler
    is in `get_state`, as text that grain's checkpoint handler and Orbax save, and `set_state` goes on to the same bits.

    With `read_ahead=2`, rows are drawn two batches early, and two threads read their data while the model trains. The
    moment of a draw depends on the calls of `next` and `update` alone, not on how fast a thread is: so a run can be
    repeated and resumed to the bit, and all processes draw the same. `ThreadPrefetchDatasetIterator(iterator, 2)` of
    grain draws whenever its thread comes to it. Then a batch may or may not know the feedback of the step before, and a
    checkpoint lacks what was fed back after its last draw.

    `mp_prefetch` reads in worker processes, which draw on their own. A sampler that is fed back to refuses them, since
    nothing fed back here would reach them. For the others, a worker that should leave the accelerator alone needs
    `worker_init_fn=lambda index, count: jax.config.update("jax_platforms", "cpu")`.

    Args:
      sampler: which rows come next. Each process draws the same rows and must be given the same feedback.
      state: of the sampler, as `sampler.init` returns it. Draws run on the device on which it lies.
      source: the data set. A `MapDataset`, or anything else with `len` and `source[i]`, whose rows are read one by one
        and stacked; or a tree (array, dict, tuple) of arrays `[N, ...]`.
      read_ahead: batches that are drawn and read early, and threads that read them.
      process_index: which share of each batch to read, by default `jax.process_index()`.
      process_count: number of shares, which must divide the batch, by default `jax.process_count()`.

    Returns:
      The dataset. Put transformations of rows before it, `source.map(...)`.

    Raises:
      ImportError: if grain is missing.
      TypeError: if `source` is neither a source of rows nor a tree of arrays, or a number is no int.
      ValueError: if the numbers do not fit, or arrays have different numbers of rows.

    Examples:
      >>> from minibatch_jax.sampling import weighted
      >>> sampler = weighted(2)
      >>> state = sampler.init(0, weights=jnp.array([0.0, 1.0, 0.0]))
      >>> iterator = iter(sampled_dataset(sampler, state, {"x": jnp.array([5, 6, 7])}))
      >>> data, rows = next(iterator)
      >>> data["x"].tolist(), rows.weights.tolist()
      ([6, 6], [0.5, 0.5])
      >>> iterator.update(rows, losses=jnp.array([3.0, 3.0]))
    """
    check_whole("read_ahead", read_ahead)
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    check_count("process_count", count)
    check_whole("process_index", index)
    if index >= count:
        raise ValueError(f"process_index is {index}, wanted less than {count} (process_count).")
    batch_size = jax.eval_shape(sampler.sample, state)[0].indices.shape[0]
    if batch_size % count:
        raise ValueError(f"process_count is {count}, wanted a divisor of {batch_size} (the rows of a batch).")
    share = batch_size // count
    return SampledDataset(sampler, state, _source_of(source), read_ahead, slice(index * share, (index + 1) * share))


class SampledDataset(grain.IterDataset):
    """What `sampled_dataset` returns: batches of the rows that a sampler draws."""

    def __init__(self, sampler: Sampler, state: Any, source: "_Source", read_ahead: int, share: slice):
        """Keep what an iterator needs; call `sampled_dataset` instead, which checks it."""
        super().__init__()
        self.sampler, self.state, self.source, self.read_ahead, self.share = sampler, state, source, read_ahead, share
        self.every, self.first = 1, 0

    def __iter__(self) -> "SampledIterator":
        """Return a new iterator from the first state."""
        return SampledIterator(self)

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        """Leave every n-th batch to this copy, as grain asks of the copy in each of n workers.

        Args:
          sl: `slice(worker, None, n)`.
          sequential_slice: must be False, because the batches have no end.

        Raises:
          ValueError: if the sampler is fed back to, or the slice is sequential.
        """
        self._check_no_feedback()
        if sequential_slice:
            raise ValueError("sequential_slice is True, wanted False: the batches of a sampler have no end.")
        self.first, self.every = sl.start, sl.step

    def __getstate__(self) -> dict[str, Any]:
        """Return numbers in place of arrays on devices, for a worker process."""
        self._check_no_feedback()
        return {**self.__dict__, "state": jax.tree.map(_Leaf.of, self.state)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Put the numbers on a device again."""
        leaves = jax.tree.map(lambda leaf: leaf.array(), saved["state"], is_leaf=lambda x: isinstance(x, _Leaf))
        self.__dict__.update({**saved, "state": leaves})

    def _check_no_feedback(self) -> None:
        if self.sampler.update is not ignore:
            raise ValueError(
                "a sampler that is fed back to cannot draw in worker processes or copies, which no feedback reaches, "
                "wanted read_ahead= of sampled_dataset in place of mp_prefetch."
            )


class SampledIterator(grain.DatasetIterator):
    """Iterator over the batches of a `SampledDataset`, which takes feedback."""

    def __init__(self, dataset: SampledDataset):
        """Start from the first state of the dataset."""
        super().__init__()
        self._dataset, self._state, self._drawn = dataset, dataset.state, 0
        self._ahead: collections.deque[tuple[Rows, Any]] = collections.deque()
        self._sample, self._update = _compiled(dataset.sampler)
        self._threads: Any = concurrent.futures.ThreadPoolExecutor(dataset.read_ahead) if dataset.read_ahead else None
        self._lock, self._drawn_by = threading.Lock(), None

    @property
    def sampler_state(self) -> Any:
        """State of the sampler after the last draw and the last update.

        To change it, as to give `by_proxies` other classes, make a new `sampled_dataset` with the changed state.
        Batches that were drawn ahead are then dropped: read these first, or use `read_ahead=0`.
        """
        return self._state

    def __next__(self) -> DrawnBatch:
        """Draw and read a batch."""
        self._assert_not_closed()
        with self._lock:
            self._drawn_by = threading.get_ident()
            while len(self._ahead) <= self._dataset.read_ahead:
                self._ahead.append(self._begin(self._draw()))
            rows, reading = self._ahead.popleft()
        return self._read(rows) if reading is None else reading.result()

    def update(self, rows: Rows, **signals: Any) -> None:
        """Feed back what was seen of the rows of a batch, late or out of order.

        Args:
          rows: of the batch that the signals are about, as `next` returned them.
          **signals: of the whole batch, the same on every process.

        Raises:
          RuntimeError: if another thread draws, and there are several processes, which would then draw different rows.
        """
        if self._drawn_by not in (None, threading.get_ident()) and jax.process_count() > 1:
            raise RuntimeError(
                "another thread draws the batches, so that each process would know other feedback at a draw, wanted "
                "read_ahead= of sampled_dataset in place of a prefetch of grain."
            )
        if self._dataset.sampler.update is not ignore:
            with self._lock:
                self._state = self._update(self._state, Rows(*map(jnp.asarray, rows)), signals)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the sampler, and the rows that were drawn ahead, as text and numbers.

        Returns:
          A dict that `json.dumps` takes, with the bytes of each array in base64.
        """
        with self._lock:
            ahead = [_encode(rows) for rows, _ in self._ahead]
            return {"sampler": _encode(self._state), "ahead": ahead, "drawn": self._drawn}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the same sampler, arrays of one size, and any `read_ahead`.

        Args:
          state: as `get_state` returned it.

        Raises:
          ValueError: if it is the state of another sampler or data set.
        """
        with self._lock:
            rows = jax.eval_shape(self._dataset.sampler.sample, self._state)[0]
            self._state = _decode(state["sampler"], self._state)
            ahead = [_decode(saved, rows) for saved in state["ahead"]]
            self._ahead = collections.deque(self._begin(rows) for rows in ahead)
            self._drawn = state["drawn"]

    def close(self) -> None:
        """Stop the threads that read."""
        super().close()
        threads, self._threads = getattr(self, "_threads", None), None
        if threads is not None and not sys.is_finalizing():  # then Python has stopped them, and modules are gone
            threads.shutdown(wait=False, cancel_futures=True)

    def __str__(self) -> str:
        """Return the name under which grain shows this step."""
        return f"SampledIterator(read_ahead={self._dataset.read_ahead})"

    def _draw(self) -> Rows:
        """Draw until it is the turn of this worker; without workers, it always is."""
        while True:
            rows, self._state = self._sample(self._state)
            self._drawn += 1
            if (self._drawn - 1) % self._dataset.every == self._dataset.first:
                return rows

    def _begin(self, rows: Rows) -> tuple[Rows, Any]:
        return rows, self._threads.submit(self._read, rows) if self._threads is not None else None

    def _read(self, rows: Rows) -> DrawnBatch:
        on_host = Rows(np.asarray(rows.indices), np.asarray(rows.weights))  # pyright: ignore[reportArgumentType]
        own = on_host.indices[self._dataset.share]
        return DrawnBatch(self._dataset.source.read(np.maximum(np.asarray(own), 0)), on_host)


@functools.cache
def _compiled(sampler: Sampler) -> tuple[Any, Any]:
    """Return sample and update, compiled once for all iterators."""
    return jax.jit(sampler.sample), jax.jit(lambda state, rows, signals: sampler.update(state, rows, **signals))


class _Source(NamedTuple):
    """A data set: a tree of arrays, or a sequence of rows."""

    rows: Any
    size: int
    is_sequence: bool

    def read(self, indices: np.ndarray) -> Any:
        if indices.max() >= self.size:
            raise IndexError(f"the sampler drew the row {indices.max()}, wanted rows of the {self.size} of the source.")
        if not self.is_sequence:
            return jax.tree.map(lambda x: np.asarray(x[indices]), self.rows)
        found = {int(i): self.rows[int(i)] for i in np.unique(indices)}
        absent = [i for i, row in found.items() if row is None]
        if absent:
            raise ValueError(f"row {absent[0]} of the source is None, wanted data: filter before the sampler is made.")
        return jax.tree.map(lambda *rows: np.stack(rows), *(found[int(i)] for i in indices))


def _source_of(source: Any) -> _Source:
    is_tree = isinstance(source, dict | tuple) or hasattr(source, "shape")
    if not is_tree:
        if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
            raise TypeError(f"source is a {type(source).__name__}, wanted len and source[i], or a tree of arrays.")
        return _Source(source, len(source), True)
    arrays = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, source)
    sizes = {np.shape(x)[:1] for x in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"source has arrays of {sorted(sizes)} rows, wanted one number of rows in all.")
    return _Source(arrays, sizes.pop()[0], False)


class _Leaf(NamedTuple):
    """An array of a state as numbers; a typed key as its data and the name of its algorithm."""

    numbers: np.ndarray
    key_impl: Any

    @classmethod
    def of(cls, leaf: jax.Array) -> "_Leaf":
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return cls(np.asarray(jax.random.key_data(leaf)), jax.random.key_impl(leaf))
        return cls(np.asarray(leaf), None)

    def array(self) -> jax.Array:
        numbers = jnp.asarray(self.numbers)
        return numbers if self.key_impl is None else jax.random.wrap_key_data(numbers, impl=self.key_impl)


def _names(tree: Any) -> Sequence[str]:
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]


def _encode(tree: Any) -> dict[str, Any]:
    def encode(leaf):
        numbers = _Leaf.of(leaf).numbers
        text = base64.b64encode(numbers.tobytes()).decode("ascii")
        return {"dtype": numbers.dtype.name, "shape": list(numbers.shape), "base64": text}

    return {name: encode(leaf) for name, leaf in zip(_names(tree), jax.tree.leaves(tree))}


def _decode(saved: dict[str, Any], like: Any) -> Any:
    """Return arrays in the structure of `like`, on the devices of its arrays."""
    names = _names(like)
    if list(saved) != names:
        raise ValueError(f"state has the arrays {list(saved)}, wanted {names}: those of the same sampler.")

    def decode(name, old):
        dtype, shape = jnp.dtype(saved[name]["dtype"]), tuple(saved[name]["shape"])
        is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        wanted = jax.eval_shape(jax.random.key_data, old) if is_key else old
        if (dtype, shape) != (wanted.dtype, wanted.shape):
            raise ValueError(
                f"state has {name} of dtype {dtype} and shape {list(shape)}, wanted {wanted.dtype} and "
                f"{list(wanted.shape)}: those of the same sampler and data set."
            )
        numbers = np.frombuffer(base64.b64decode(saved[name]["base64"]), dtype).reshape(shape)
        new = _Leaf(numbers, jax.random.key_impl(old) if is_key else None).array()
        return jax.device_put(new, old.sharding) if getattr(old, "committed", False) else new

    return jax.tree.structure(like).unflatten(decode(n, old) for n, old in zip(names, jax.tree.leaves(like)))
