"""A sampler in a grain pipeline: its rows are those of the sampler alone, also restored, in shares and in threads."""

import json
import sys

import cloudpickle
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from minibatch_jax.interop.grain import sampled_dataset
from minibatch_jax.mixing import mix_by_odm
from minibatch_jax.sampling import by_class, mixture, shuffled, weighted

N = 20
DATA = {"x": np.arange(N, dtype=np.float32) ** 2, "image": np.arange(3 * N).reshape(N, 3)}
LABELS = np.arange(N, dtype=np.int32) % 5
SAMPLERS = {
    "shuffled": (shuffled(N, 8), {}),
    "by_class": (by_class(5, 4, 2), {"labels": jnp.asarray(LABELS)}),
    "weighted": (weighted(8, decay=0.5), {"weights": jnp.linspace(0.1, 1.0, N)}),
    "mixture": (mixture(5, 8, mix_by_odm("perplexity", decay=0.5)), {"domains": jnp.asarray(LABELS)}),
}
each_sampler = pytest.mark.parametrize("name", SAMPLERS)


def start(name):
    sampler, arrays = SAMPLERS[name]
    return sampler, sampler.init(3, **arrays)


def losses_of(rows):
    indices = np.asarray(rows.indices)
    return np.where(indices < 0, np.nan, np.sqrt(np.maximum(indices, 0))).astype(np.float32)


def batches(iterator, count):
    """Batches, each fed back before the next is asked for."""
    for _ in range(count):
        data, rows = next(iterator)
        iterator.update(rows, losses=losses_of(rows))
        yield data, rows


def alone(name, count, lag=0):
    """Rows of the sampler without grain; with a lag, rows are drawn that many batches early."""
    sampler, state = start(name)
    sample, update, ahead = jax.jit(sampler.sample), jax.jit(sampler.update), []
    for _ in range(count):
        while len(ahead) <= lag:
            rows, state = sample(state)
            ahead.append(rows)
        rows = ahead.pop(0)
        yield rows
        state = update(state, rows, losses=losses_of(rows))


def require_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.weights, b.weights)


class Rows:
    """A source of rows that are read one by one."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {name: value[index] for name, value in DATA.items()}


SOURCES = {
    "arrays": DATA,
    "arrays on a device": jax.tree.map(jnp.asarray, DATA),
    "rows": Rows(),
    "MapDataset": grain.MapDataset.source(Rows()).map(lambda row: row),
}


@each_sampler
@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_the_rows_that_the_sampler_draws(name, source):
    found = list(batches(iter(sampled_dataset(*start(name), SOURCES[source])), 7))
    require_same([rows for _, rows in found], list(alone(name, 7)))
    for data, rows in found:
        for key, value in DATA.items():
            np.testing.assert_array_equal(data[key], value[np.maximum(rows.indices, 0)])


@each_sampler
@pytest.mark.parametrize("read_ahead", [0, 2])
def test_a_run_goes_on_from_a_checkpoint_in_the_middle_of_an_epoch(name, read_ahead):
    dataset = sampled_dataset(*start(name), Rows(), read_ahead=read_ahead)
    iterator = iter(dataset)
    list(batches(iterator, 5))
    saved = json.dumps(iterator.get_state())
    expected = list(batches(iterator, 6))
    again = iter(dataset)
    again.set_state(json.loads(saved))
    found = list(batches(again, 6))
    require_same([rows for _, rows in found], [rows for _, rows in expected])
    jax.tree.map(np.testing.assert_array_equal, [data for data, _ in found], [data for data, _ in expected])
    assert again.get_state() == iterator.get_state()


@each_sampler
def test_reading_ahead_draws_at_fixed_moments(name):
    found = [rows for _, rows in batches(iter(sampled_dataset(*start(name), DATA, read_ahead=2)), 9)]
    require_same(found, list(alone(name, 9, lag=2)))


@each_sampler
def test_two_shares_make_the_whole(name):
    whole = list(batches(iter(sampled_dataset(*start(name), DATA)), 4))
    shares = [
        list(batches(iter(sampled_dataset(*start(name), DATA, process_index=i, process_count=2)), 4)) for i in range(2)
    ]
    for (data, rows), (left, rows_left), (right, rows_right) in zip(whole, *shares):
        assert left["x"].shape == (4,)
        np.testing.assert_array_equal(np.concatenate([left["image"], right["image"]]), data["image"])
        require_same([rows_left, rows_right], [rows, rows])


def test_a_prefetch_thread_of_grain_takes_feedback():
    iterator = iter(sampled_dataset(*start("weighted"), DATA))
    prefetched = grain.experimental.ThreadPrefetchDatasetIterator(iterator, 2)
    for _ in range(20):
        data, rows = next(prefetched)
        np.testing.assert_array_equal(data["x"], DATA["x"][rows.indices])
        iterator.update(rows, losses=jnp.where(rows.indices == 7, 1.0, 0.0))
    prefetched.close()
    weights = np.asarray(iterator.sampler_state.weights)
    assert weights.reshape(-1)[7] == weights.max()


def test_several_processes_refuse_feedback_that_a_thread_may_overtake(monkeypatch):
    iterator = iter(sampled_dataset(*start("weighted"), DATA))
    prefetched = grain.experimental.ThreadPrefetchDatasetIterator(iterator, 1)
    rows = next(prefetched).rows
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="another thread draws the batches, .* wanted read_ahead="):
        iterator.update(rows, losses=losses_of(rows))
    prefetched.close()


@pytest.fixture
def parsed_flags():
    """Grain looks at the flags of absl before it starts a process."""
    flags.FLAGS.mark_as_parsed()
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sampler_with_feedback_refuses_worker_processes(parsed_flags, workers):
    dataset = sampled_dataset(*start("weighted"), DATA)
    iterator = iter(dataset.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers)))
    with pytest.raises(ValueError, match=r"cannot draw in worker processes or copies, .* wanted read_ahead="):
        next(iterator)
    with pytest.raises(ValueError, match="cannot draw in worker processes"):
        dataset.set_slice(slice(0, None, 2))


@pytest.mark.parametrize("name", ["shuffled", "by_class"])
def test_copies_for_workers_share_the_batches(name):
    sampler, state = start(name)
    text = cloudpickle.dumps(sampled_dataset(sampler, state, DATA))
    copies = [cloudpickle.loads(text) for _ in range(3)]
    for i, copy in enumerate(copies):
        copy.set_slice(slice(i, None, 3))
    iterators = [iter(copy) for copy in copies]
    found = [next(iterators[i % 3]).rows for i in range(4)]
    saved = iterators[1].get_state()
    found += [next(iterators[i % 3]).rows for i in range(4, 9)]
    require_same(found, list(alone(name, 9)))
    iterators[1].set_state(saved)
    require_same([next(iterators[1]).rows], found[4:5])
    with pytest.raises(ValueError, match="sequential_slice is True, wanted False"):
        copies[0].set_slice(slice(0, None, 3), sequential_slice=True)


@pytest.mark.slow
def test_worker_processes_give_the_batches_in_order(parsed_flags):
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    iterator = iter(sampled_dataset(*start("shuffled"), DATA).mp_prefetch(options))
    found = [next(iterator).rows for _ in range(7)]
    iterator.close()
    require_same(found, list(alone("shuffled", 7)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": {"x": np.ones(3), "y": np.ones(4)}}, ValueError, r"source has arrays of \[\(3,\), \(4,\)\] rows"),
        ({"source": 3}, TypeError, "source is a int, wanted len and"),
        ({"process_count": 3, "process_index": 0}, ValueError, r"process_count is 3, wanted a divisor of 8"),
        ({"process_count": 2, "process_index": 2}, ValueError, r"process_index is 2, wanted less than 2"),
        ({"read_ahead": -1}, ValueError, "read_ahead is -1, wanted at least 0"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        sampled_dataset(*start("shuffled"), **({"source": DATA} | arguments))


def test_a_source_that_does_not_fit_is_named():
    sampler, state = start("shuffled")
    with pytest.raises(IndexError, match=r"the sampler drew the row 1\d, wanted rows of the 5 of the source"):
        next(iter(sampled_dataset(sampler, state, np.ones(5))))
    sparse = grain.MapDataset.source(Rows()).filter(lambda row: False)
    with pytest.raises(ValueError, match="of the source is None, wanted data"):
        next(iter(sampled_dataset(sampler, state, sparse)))


def test_the_state_of_another_sampler_is_named():
    saved = iter(sampled_dataset(*start("shuffled"), DATA)).get_state()
    with pytest.raises(ValueError, match=r"state has the arrays \['rng_key', 'position', 'epoch'\], wanted"):
        iter(sampled_dataset(*start("weighted"), DATA)).set_state(saved)
    sampler = weighted(8)
    saved = iter(sampled_dataset(sampler, sampler.init(0, weights=jnp.ones(9)), DATA)).get_state()
    with pytest.raises(ValueError, match=r"weights of dtype float32 and shape \[3, 3\], wanted float32 and \[4, 5\]"):
        iter(sampled_dataset(*start("weighted"), DATA)).set_state(saved)


def test_a_closed_iterator_draws_no_more():
    iterator = iter(sampled_dataset(*start("shuffled"), DATA, read_ahead=1))
    next(iterator)
    iterator.close()
    with pytest.raises(ValueError, match=r"closed iterator: 'SampledIterator\(read_ahead=1\)'"):
        next(iterator)


def test_grain_is_named_with_its_extra_where_it_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "minibatch_jax.interop.grain")
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"grain is missing, wanted it here: pip install 'minibatch_jax\[grain\]'$"):
        import minibatch_jax.interop.grain  # noqa: F401
