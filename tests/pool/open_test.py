"""Rows of each kind of file, shard by shard, are the rows that were written; what is lost is told, and why."""

import collections
import os
import types
from typing import Any

import numpy as np
import pytest

from minibatch_jax.pool import _parquet, _records, open_pool, select_from_pool
from tests.pool.select_test import D, N, assert_same, clusters, select

X = clusters()
SHARDS = ((0, 90), (90, 200), (200, N))


def write_npy(path, x):
    np.save(path, x)


def write_lists(path, x, **options):
    """Write a column of fixed-size lists beside another column, in row groups that no batch fits."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), x.shape[1])
    table = arrow.table({"id": np.arange(len(x)), "embedding": values})
    parquet.write_table(table, path, **{"row_group_size": 37} | options)


def write_columns(path, x):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({f"x{j}": x[:, j] for j in range(x.shape[1])}), path, row_group_size=37)


def write_records(path, x, record=lambda row: row.tobytes()):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:8")
    for row in x:
        writer.write(record(row))
    writer.close()


class Source:
    """A data source whose records are dicts."""

    def __init__(self, rows):
        self.rows, self.calls = rows, collections.Counter()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.calls["one"] += 1
        return {"id": i, "embedding": self.rows[i]}


class Several(Source):
    def __getitems__(self, numbers):
        self.calls["several"] += 1
        return [{"id": i, "embedding": self.rows[i]} for i in numbers]


KINDS: dict[str, tuple[str, Any, dict]] = {
    "npy": ("npy", write_npy, {}),
    "lists": ("parquet", write_lists, {}),
    "columns": ("parquet", write_columns, {}),
    "columns by name": ("parquet", write_columns, {"columns": [f"x{j}" for j in range(D)]}),
    "records": ("array_record", write_records, {}),
    "decoded": (
        "array_record",
        lambda path, x: write_records(path, x, lambda row: row[::-1].tobytes()),
        {"row": lambda record: np.frombuffer(record, np.float32)[::-1]},
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def written(kind, folder, x=X):
    """Write shards; return their paths."""
    ending, write, _ = KINDS[kind]
    paths = [folder / f"part{i}.{ending}" for i in range(len(SHARDS))]
    for path, (start, stop) in zip(paths, SHARDS):
        write(path, x[start:stop])
    return paths


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(_parquet, "BATCH", 16)
    monkeypatch.setattr(_records, "BATCH", 16)


@each_kind
def test_shards_give_the_rows_that_were_written(kind, tmp_path):
    paths, options = written(kind, tmp_path), KINDS[kind][2]
    ways = [paths, [str(path) for path in paths], tmp_path, str(tmp_path / "part*"), [open_pool(paths[0], **options)]]
    for way in ways[:4]:
        pool = open_pool(way, **options)
        assert pool.shape == (N, D) and pool.dtype == np.float32 and len(pool) == N
        assert pool.shards == tuple(repr(str(path)) for path in paths) and pool.sizes.tolist() == [90, 110, 100]
    pool = open_pool(paths, **options)
    rng = np.random.default_rng(0)
    for rows in (
        slice(None),
        slice(85, 95),
        slice(80, 81),
        slice(250, 40, -7),
        299,
        -1,
        rng.integers(N, size=70),
        [],
        [3],
    ):
        np.testing.assert_array_equal(pool[rows], X[np.asarray(rows, int) if isinstance(rows, list) else rows])
    for start in range(0, N, 64):
        np.testing.assert_array_equal(pool[start : start + 64], X[start : start + 64])
    np.testing.assert_array_equal(open_pool(paths[::-1], **options)[:100], X[200:])
    pool.save(tmp_path / "all.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), X)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    with pytest.raises(IndexError, match="rows holds 300 to 300, the pool has 300 rows"):
        pool[[N]]


@each_kind
@pytest.mark.parametrize("method", ["k_center", "facility_location"])
def test_shards_give_what_their_array_gives(kind, method, tmp_path):
    pool = open_pool(written(kind, tmp_path), **KINDS[kind][2])
    expected = select(X, method)
    chosen = select(pool, method, state_folder=tmp_path / "state")
    assert_same(chosen._replace(report=expected.report), expected)
    report = chosen.report
    assert (
        report.shards == pool.shards
        and report.not_finite.tolist() == [1, 1, 0]
        and report.sizes.tolist() == [90, 110, 100]
    )
    assert str(report) == "\n".join(
        [
            "2 of 300 rows dropped: 2 not finite",
            f"  {pool.shards[0]}: 1 of 90: 1 not finite",
            f"  {pool.shards[1]}: 1 of 110: 1 not finite",
            *(f"  row {row}: not finite" for row in np.flatnonzero(~np.isfinite(X).all(1))),
        ]
    )
    assert_same(
        select(pool, method, state_folder=tmp_path / "state"), chosen
    )  # finished: nothing is read but the digest
    if kind == "npy":
        assert_same(select(written(kind, tmp_path), method, state_folder=tmp_path / "state"), chosen)


@pytest.mark.parametrize("make", [Source, Several])
def test_a_data_source_gives_what_its_array_gives(make):
    source = make(X)
    pool = open_pool(source, row="embedding")
    assert_same(select(pool, "k_center"), select(X, "k_center"))
    assert ("several" in source.calls) == (make is Several)
    if make is Several:
        assert source.calls["one"] == 0
    halved = open_pool([source, source], row=lambda record: record["embedding"][:3])
    np.testing.assert_array_equal(halved[[N + 3, 1]], X[[3, 1], :3])
    assert halved.shards == (f"{make.__name__} of {N} records",) * 2


def test_an_opened_pool_is_a_shard_of_a_list_with_other_kinds(tmp_path):
    np.save(tmp_path / "first.npy", X[:90])
    write_lists(tmp_path / "second.parquet", X[90:200])
    source = open_pool([Source(X[200:250]), Source(X[250:])], row="embedding")
    pool = open_pool([tmp_path / "first.npy", open_pool(tmp_path / "second.parquet", columns="embedding"), source])
    files = tuple(repr(str(tmp_path / name)) for name in ("first.npy", "second.parquet"))
    assert pool.shards == (*files, "Source of 50 records", "Source of 50 records")
    assert pool.sizes.tolist() == [90, 110, 50, 50]
    for method in ("k_center", "facility_location"):
        expected = select(X, method)
        chosen = select(pool, method)
        assert_same(chosen._replace(report=expected.report), expected)
        assert chosen.report.shards == pool.shards and chosen.report.dropped == expected.report.dropped


def test_records_that_are_damaged_are_named_by_their_row_of_the_whole_pool():
    source = Source([np.ones(2, np.float32), "none", np.zeros(2, np.float32)])
    pool = open_pool([np.ones((4, 2), np.float32), open_pool(source, row="embedding")])
    pool[:]
    assert list(pool.damaged()) == [5]


def test_the_first_rows_of_each_cause_are_named():
    """By rows that were spoiled here: 5 that are not finite, of which 3 are named, one too large, one logit."""
    rows, logits = np.random.default_rng(0).normal(size=(60, 3)), np.zeros((60, 2), np.float32)
    rows[[50, 4, 21, 33, 58]], rows[40], logits[17] = np.nan, 1e300, np.inf
    for block_size in (60, 7):
        options = {"method": "badge", "logits": logits, "block_size": block_size, "progress": False}
        found = select_from_pool(rows, 3, **options).report
        assert found.examples == (
            *(f"row {row}: not finite" for row in (4, 21, 33)),
            "row 40: too large for float32",
            "row 17: of logits without a softmax",
        )


def test_a_source_of_bare_rows_needs_no_key():
    grain = pytest.importorskip("grain")
    pool = open_pool(grain.MapDataset.source(list(X)))
    assert_same(select(pool, "k_center"), select(X, "k_center"))


def test_records_of_a_file_through_a_data_source(tmp_path):
    source = pytest.importorskip("array_record.python.array_record_data_source")
    paths = [str(path) for path in written("records", tmp_path)]
    pool = open_pool(source.ArrayRecordDataSource(paths), row=lambda record: np.frombuffer(record, np.float32))
    np.testing.assert_array_equal(pool[:], X)


def test_lists_of_any_kind_and_nulls(tmp_path):
    """Variable lists of one length, integers, half precision; a row that is null, and an entry."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [None, [1.0, 2.0], None, [3.0, None], [5.0, 6.0], None]
    expected = [[np.nan] * 2, [1, 2], [np.nan] * 2, [3, np.nan], [5, 6], [np.nan] * 2]
    floats = {"f2": arrow.float16(), "f4": arrow.float32(), "f8": arrow.float64()}
    for name, number in floats.items():
        for kind in (arrow.list_(number), arrow.large_list(number), arrow.list_(number, 2)):
            given = [None if r is None else [None if v is None else np.dtype(name).type(v) for v in r] for r in rows]
            parquet.write_table(arrow.table({"e": arrow.array(given, kind)}), tmp_path / "x.parquet", row_group_size=4)
            pool = open_pool(tmp_path / "x.parquet")
            assert pool.dtype == name
            np.testing.assert_array_equal(pool[:], np.array(expected, name))
    parquet.write_table(arrow.table({"a": [1, 2], "b": [0.5, None], "c": ["x", "y"]}), tmp_path / "x.parquet")
    pool = open_pool(tmp_path / "x.parquet", columns=["b", "a"])
    assert pool.dtype == np.float64
    np.testing.assert_array_equal(pool[:], [[0.5, 1], [np.nan, 2]])
    assert open_pool(tmp_path / "x.parquet", columns="a").shape == (2, 1)
    parquet.write_table(arrow.table({"e": [[1.0, 2.0], [1.0, 2.0, 3.0]]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet': column 'e' has a list of 3 in row 1, wanted 2 as in the first"):
        open_pool(tmp_path / "x.parquet")[:]


def test_damaged_records_are_told(tmp_path):
    """A flipped bit loses the records of its group, a decoder that fails its record, a short one too; none chosen."""
    paths = written("records", tmp_path)
    content = bytearray(paths[1].read_bytes())
    place = content.index(X[130].tobytes()[:8]) if X[130].tobytes()[:8] in content else len(content) // 3
    content[place] ^= 1
    paths[1].write_bytes(content)
    found = open_pool(paths)[:]
    lost = np.flatnonzero((~(found == X) & ~np.isnan(X)).any(1))
    assert 1 <= len(lost) <= 8 and lost.min() >= 90 and lost.max() < 200 and np.isnan(found[lost]).all()

    def decode(record):
        row = np.frombuffer(record, np.float32)
        if row.tobytes() == X[7].tobytes():
            raise KeyError("no embedding")
        return row[:3] if row.tobytes() == X[8].tobytes() else row

    chosen = select(open_pool(paths, row=decode), "k_center")
    assert chosen.report.damaged.tolist() == [2, len(lost), 0] and chosen.report.not_finite.tolist() == [1, 1, 0]
    assert chosen.dropped == 4 + len(lost) and not {7, 8, *lost.tolist()} & set(chosen.indices.tolist())
    assert "  row 7: KeyError: 'no embedding'\n  row 8: ValueError: float32 of shape [3], wanted" in str(chosen.report)
    assert f"row {lost[0]}: Unreadable: Corrupted" in str(chosen.report)
    holes = X.copy()
    holes[[7, 8, *lost]] = np.nan
    expected = select(holes, "k_center")
    assert_same(chosen._replace(report=expected.report), expected)


def test_too_large_rows_are_told_by_shard():
    x = X.astype(np.float64)
    x[250], x[251] = 1e300, 1e30
    report = select([x[:200], x[200:]], "k_center").report
    assert report.overflow.tolist() == [0, 2] and report.not_finite.tolist() == [2, 0]
    assert select([x[:200], x[200:]], "k_center", metric="cosine").report.overflow.tolist() == [0, 1]


@each_kind
def test_a_file_that_changes_while_it_is_read_is_named(kind, tmp_path):
    paths, options = written(kind, tmp_path), KINDS[kind][2]
    for change in ("time", "gone"):
        pool = open_pool(paths, **options)
        pool[:100]
        os.utime(paths[1], ns=(1, 1)) if change == "time" else paths[1].unlink()
        with pytest.raises(
            (ValueError, FileNotFoundError), match=rf"'{paths[1]}'.*(was written to while|can no longer be read).*again"
        ):
            pool[100:150]
        np.testing.assert_array_equal(pool[:50], X[:50])


@each_kind
def test_a_damaged_file_is_named(kind, tmp_path):
    path, options = written(kind, tmp_path)[0], KINDS[kind][2]
    content = path.read_bytes()
    for size in (0, 1, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(
            ValueError, match=rf"'{path}' .*(cannot be read|by its header|no record|no rows).*rite it aga"
        ):
            open_pool(path, **options)[:]
    if path.suffix == ".parquet":
        rng = np.random.default_rng(0)
        told = 0
        for place in rng.integers(len(content), size=60):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            try:
                open_pool(path, **options)[:]
            except (ValueError, TypeError) as error:
                assert str(path) in str(error)
                told += 1
        assert told > 3


def test_a_source_that_fails_or_changes_is_named():
    source = Source(X)
    pool = open_pool(source, row="embedding")
    source.rows = X[:9]
    with pytest.raises(ValueError, match=r"pool, Source of 300 records had 300 records .* now 9. Make the call again"):
        pool[:]
    broken = types.SimpleNamespace(rows=X)
    broken = Several(X)
    pool = open_pool(broken, row="embedding")
    broken.rows = [X[0]] * 20
    broken.__class__ = type("Lost", (Several,), {"__len__": lambda self: N})
    with pytest.raises(
        RuntimeError, match=r"one of the records 16 to 31 cannot be read \(IndexError: .*then make the call"
    ):
        pool[:]


BAD = {
    "empty list": (lambda f: open_pool([]), ValueError, "pool is an empty list"),
    "missing": (lambda f: open_pool(f / "no.npy"), FileNotFoundError, r"pool has no file of this name.*no\.npy"),
    "missing shard": (
        lambda f: open_pool([f / "a.npy", f / "no.npy"]),
        FileNotFoundError,
        r"pool\[1\] has no .*no.npy",
    ),
    "no match": (lambda f: open_pool(str(f / "z*.npy")), FileNotFoundError, "pool: no file matches '.*z"),
    "empty folder": (lambda f: open_pool(f / "empty"), ValueError, r"folder '.*empty' has no file of \.npy, \.parquet"),
    "mixed folder": (
        lambda f: open_pool(f),
        ValueError,
        r"has files of \.npy, \.parquet, wanted one kind; give a list of paths",
    ),
    "incomplete": (
        lambda f: open_pool(f / "numbered"),
        FileNotFoundError,
        "rows-00000-of-00003.npy' is one of 3 shards, but number 1 is missing. Bring it back, or give a list",
    ),
    "width": (
        lambda f: open_pool([f / "a.npy", f / "wide.npy"]),
        ValueError,
        r"shard .*wide.npy' has width 3 and dtype float32, but .*a.npy' has width 2 .*Leave it out, or write it again",
    ),
    "dtype": (
        lambda f: open_pool([f / "a.npy", np.ones((3, 2), np.float16)]),
        ValueError,
        r"shape \[3, 2\] has width 2 and dtype float16",
    ),
    "no rows": (lambda f: open_pool([f / "a.npy", f / "none.npy"]), ValueError, r"pool\[1\] '.*none.npy' has no rows"),
    "integers": (
        lambda f: open_pool(f / "whole.npy"),
        TypeError,
        r"pool '.*whole.npy' has dtype int64, wanted a float",
    ),
    "vector": (lambda f: open_pool(np.ones(3)), ValueError, r"pool has shape \[3\], wanted"),
    "column": (
        lambda f: open_pool(f / "t.parquet", columns="embeding"),
        ValueError,
        "t.parquet' has no column 'embeding'; it has 'id', 'embedding', did you mean 'embedding'",
    ),
    "text": (
        lambda f: open_pool(f / "text.parquet", columns="t"),
        TypeError,
        "text.parquet': column 't' holds string, wanted lists of numbers, or numbers",
    ),
    "several columns": (
        lambda f: open_pool(f / "text.parquet"),
        ValueError,
        r"has columns t \(string\), a \(int64\): say which hold the rows, open_pool",
    ),
    "no columns": (lambda f: open_pool(f / "t.parquet", columns=[]), ValueError, "columns is empty"),
    "columns of npy": (
        lambda f: open_pool(f / "a.npy", columns="x"),
        ValueError,
        r"columns is given, but '.*a.npy' is no parquet file",
    ),
    "row of npy": (lambda f: open_pool(f / "a.npy", row="x"), ValueError, r"row is given, but '.*a.npy' is neither"),
    "dict": (lambda f: open_pool({"a": 1}), TypeError, "pool is a dict, wanted a path, a list of paths, an array"),
    "number": (lambda f: open_pool(3), TypeError, "pool is a int, wanted a path"),
    "records": (
        lambda f: open_pool(Source(X)),
        TypeError,
        "record 0 gives a dict with the keys 'id', 'embedding', wanted a row",
    ),
    "key": (
        lambda f: open_pool(Source(X), row="vector"),
        ValueError,
        "none of the first 16 records gives a row; the first says KeyError: 'vector'. Look at row=",
    ),
    "matrix": (
        lambda f: open_pool(Source(X[:, None]), row="embedding"),
        TypeError,
        r"record 0 gives float32 of shape \[1, 6\], wanted a row \[D\]",
    ),
    "no records": (lambda f: open_pool(Source(X[:0])), ValueError, "pool, Source of 0 records has no rows"),
    "rows": (lambda f: open_pool(f / "a.npy")[np.ones(3, bool)], TypeError, "rows has dtype bool"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "numbered").mkdir()
    for number in (0, 2):
        np.save(folder / "numbered" / f"rows-0000{number}-of-00003.npy", np.ones((3, 2), np.float32))
    np.save(folder / "a.npy", np.ones((3, 2), np.float32))
    np.save(folder / "wide.npy", np.ones((3, 3), np.float32))
    np.save(folder / "none.npy", np.ones((0, 2), np.float32))
    np.save(folder / "whole.npy", np.ones((3, 2), int))
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_lists(folder / "t.parquet", X)
    parquet.write_table(arrow.table({"t": ["a"], "a": [1]}), folder / "text.parquet")
    return folder


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message, folder):
    with pytest.raises(error, match=message):
        call(folder)


def test_a_pool_of_damaged_records_says_why():
    x = np.ones((40, 2), np.float32)

    def decode(record):
        if record["id"] > 0:
            raise OSError("cut short")
        return record["embedding"] * np.nan

    with pytest.raises(
        ValueError,
        match=r"has no row of 40 that is finite in float32 \(1 not finite, 39 damaged; row 1: OSError: cut short\)",
    ):
        select_from_pool(open_pool(Source(x), row=decode), 2, method="k_center", progress=False)
