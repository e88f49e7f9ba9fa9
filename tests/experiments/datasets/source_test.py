import subprocess
import sys

import grain
import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from experiments.datasets import arrays, batches, source
from experiments.datasets._catalog import CATALOG
from tests.experiments.datasets.fakes import mock_stock_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def test_digits_are_those_of_scikit_learn(folder):
    want = sklearn.datasets.load_digits()
    train, test = arrays("digits", "train", folder), arrays("digits", "test", folder)
    image, label = np.empty((1797, 8, 8, 1), np.uint8), np.empty(1797, np.int32)
    rows = np.arange(1797)
    for split, chosen in ((train, rows % 5 != 4), (test, rows % 5 == 4)):
        image[chosen], label[chosen] = split["image"], split["label"]
    np.testing.assert_array_equal(image[..., 0], want.images)
    np.testing.assert_array_equal(label, want.target)
    assert {k: v.dtype for k, v in train.items()} == {"image": np.uint8, "label": np.int32, "index": np.int32}


@pytest.mark.parametrize("name", sorted(name for name, dataset in CATALOG.items() if not dataset.pinned))
def test_every_example_of_installed_data_carries_its_row(folder, name):
    columns = CATALOG[name].read(None)
    for split, want in columns.items():
        got = arrays(name, split, folder)
        np.testing.assert_array_equal(got["index"], np.arange(len(got["index"])))
        for key, values in want.items():
            if key == "name":
                assert [text.decode() for text in got[key]] == values
            elif isinstance(values, list):
                names = sorted({v for other in columns.values() for v in other[key]})
                assert [names[label] for label in got[key]] == values
            else:
                np.testing.assert_array_equal(got[key], values)
                assert got[key].dtype.itemsize <= 4


def test_source_reads_single_examples_as_bulk(folder):
    examples = source("digits", "train[:10]", folder)
    assert len(examples) == 10
    for one, same in zip([examples[i] for i in range(10)], examples.__getitems__(range(10))):
        np.testing.assert_array_equal(one["image"], same["image"])
        assert one["index"] == same["index"]


def test_prepared_data_is_read_by_tensorflow_datasets_itself(folder):
    arrays("digits", "test", folder)
    builder = tfds.builder_from_directory(folder / "packaged_digits" / "1.0.0")
    assert builder.info.splits["train"].num_examples == 1438
    assert "BSD-3" in builder.info.description


def test_grain_gives_every_example_once_an_epoch(folder):
    examples = source("digits", "test", folder)
    dataset = grain.MapDataset.source(examples).seed(0).shuffle()
    assert sorted(int(example["index"]) for example in dataset) == list(range(359))
    drawn = np.concatenate([batch["index"] for batch in batches(examples, 359, seed=0, epochs=1)])
    assert sorted(drawn.tolist()) == list(range(359))


@pytest.mark.parametrize("length, size", [(7, 7), (7, 3), (12, 4), (1, 1)])
def test_epochs_are_new_permutations_without_the_last_incomplete_batch(length, size):
    drawn = [batch["index"] for batch in batches(length, size, seed=3, epochs=6)]
    assert len(drawn) == 6 * (length // size)
    epochs = np.array(drawn).reshape(6, -1)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == epoch.size and set(epoch.tolist()) <= set(range(length))
    if length > 1:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
        other = next(batches(length, size, seed=4))["index"]
        assert any(not np.array_equal(other, batch) for batch in drawn)


def test_batches_of_a_source_are_the_rows_of_arrays(folder):
    whole, examples = arrays("digits", "test", folder), source("digits", "test", folder)
    iterator = batches(examples, 32, seed=1)
    for _ in range(3):
        batch = next(iterator)
        np.testing.assert_array_equal(batch["image"], whole["image"][batch["index"]])
        np.testing.assert_array_equal(batch["label"], whole["label"][batch["index"]])
        assert batch["label"].dtype == batch["index"].dtype == np.int32


@pytest.mark.parametrize("what", ["length", "source"])
@pytest.mark.parametrize("stop", [0, 1, 10, 11, 25])
def test_a_saved_place_resumes_exactly(folder, what, stop):
    given = 359 if what == "length" else source("digits", "test", folder)
    iterator = batches(given, 32, seed=5)
    for _ in range(stop):
        next(iterator)
    state = iterator.get_state()
    want = [next(iterator)["index"] for _ in range(14)]
    resumed = batches(given, 32, seed=5)
    next(resumed)
    resumed.set_state(state)
    np.testing.assert_array_equal([next(resumed)["index"] for _ in range(14)], want)


def test_a_batch_that_is_written_to_is_given_again_unchanged():
    iterator = batches(4, 2, seed=0)
    start = iterator.get_state()
    batch = next(iterator)["index"]
    want = batch.copy()
    batch[:] = -1
    iterator.set_state(start)
    np.testing.assert_array_equal(next(iterator)["index"], want)


def test_bad_batch_sizes_raise():
    with pytest.raises(ValueError, match="batch_size is 6, wanted at most 5"):
        batches(5, 6, seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(5, 0, seed=0)
    with pytest.raises(ValueError, match="source_or_length is 0"):
        batches(0, 1, seed=0)


def test_a_data_set_without_an_end_is_refused_in_words():
    endless = grain.MapDataset.range(5).repeat()
    with pytest.raises(ValueError, match=r"at most 2147483647: .*without its repeat, as epochs=None repeats"):
        batches(endless, 2, seed=0)
    with pytest.raises(ValueError, match="at most 2147483647"):
        batches(2**31, 2, seed=0)
    with pytest.raises(TypeError, match="is of type .*IterDataset, wanted a random-access source, with len"):
        batches(endless.to_iter_dataset(), 2, seed=0)
    with pytest.raises(TypeError, match="is of type NoneType"):
        batches(None, 2, seed=0)


def test_numbers_of_batches_are_checked_and_may_be_of_numpy():
    assert next(batches(np.int64(5), np.int64(2), seed=np.int64(0)))["index"].shape == (2,)
    for name, value in (("epochs", 0), ("epochs", -1), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name} is {value}, wanted at least"):
            batches(5, 2, **{"seed": 0, name: value})


def test_unknown_names_and_splits_raise(folder):
    with pytest.raises(ValueError, match="no_such_data"):
        source("no_such_data", "train", folder)
    with pytest.raises(ValueError, match="Unknown split 'validation'"):
        source("digits", "validation", folder)


@pytest.mark.parametrize("name, shape", [("cifar10", (32, 32, 3)), ("mnist:3.*.*", (28, 28, 1))])
def test_stock_names_take_the_same_path(tmp_path, name, shape):
    with mock_stock_data(num_examples=6):
        examples = source(name, "train", tmp_path)
        assert [int(examples[i]["index"]) for i in range(6)] == list(range(6))
        whole = arrays(name, "train", tmp_path)
        batch = next(batches(examples, 4, seed=0))
    assert whole["image"].shape == (6, *shape) and whole["image"].dtype == np.uint8
    assert whole["index"].tolist() == list(range(6)) and whole["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"], whole["image"][batch["index"]])


def test_stock_data_that_is_not_prepared_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'cifar10' is not prepared.*tfds build cifar10"):
        source("cifar10", "train", tmp_path)


def test_importing_the_library_imports_no_data_tools():
    heavy = "{'tensorflow_datasets', 'grain', 'sklearn', 'PIL'}"
    for module in ("minibatch_jax", "experiments.datasets"):
        code = f"import sys, {module}; sys.exit(len({heavy} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
