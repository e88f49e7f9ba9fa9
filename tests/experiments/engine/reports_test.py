"""The table and the JSON lines, against numpy and by hand."""

import io
import json
import math
import re
import resource
import sys
import zlib

import numpy as np
import pytest

from experiments.engine import folders, reports
from experiments.engine.axis_titles import WORDS, axis_title
from experiments.engine.panels import draw_panels
from experiments.engine.reports import Records, markdown, mean_and_error, plot, print_table, table, write_text
from experiments.engine.results import RESULTS


def record(arm, seed, step, **metrics):
    return {"arm": arm, "seed": seed, "step": step, "metrics": metrics, "seconds": 1.0}


def test_mean_and_error_against_numpy():
    values = np.random.default_rng(0).normal(3, 2, 7)
    mean, error = mean_and_error(values)
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(error, values.std(ddof=1) / np.sqrt(7), rtol=1e-12)
    assert mean_and_error([2.0])[0] == 2.0 and math.isnan(mean_and_error([2.0])[1])


def test_table_shows_the_last_evaluation_of_each_run():
    records = [
        record("a", 0, 1, accuracy=0.1),
        record("a", 0, 2, accuracy=0.5),
        record("b", 0, 2, accuracy=0.9, extra=None),
        record("a", 1, 2, accuracy=0.7),
    ]
    assert table(records) == [
        ["arm", "seeds", "accuracy", "extra"],
        ["a", "2", "0.60 ± 0.10", "-"],
        ["b", "1", "0.900", "- (0/1)"],
    ]
    assert markdown(table(records)).splitlines()[:2] == ["| arm | seeds | accuracy | extra |", "|---|---|---|---|"]


def test_table_of_a_summary():
    records = [record("a", 0, step, accuracy=value) for step, value in [(10, 0.2), (20, 0.8), (30, 0.9)]]

    def first_above_half(run):
        return {"steps_to_half": min(r["step"] for r in run if r["metrics"]["accuracy"] > 0.5)}

    assert table(records, first_above_half) == [["arm", "seeds", "steps_to_half"], ["a", "1", "20.00"]]


def test_printed_table_holds_every_cell(capsys):
    rows = table([record("an arm", 0, 2, accuracy=0.5), record("an arm", 1, 2, accuracy=0.7)])
    print_table(rows, "title")
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in [*rows[0], *rows[1]])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_shows_the_table(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    print_table(table([record("Schrödinger λ", s, 2, accuracy=0.5 + s) for s in (0, 1)]), "mean ± standard error")
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert ("1.00 +- 0.50" if encoding == "ascii" else "1.00 ± 0.50") in shown and "mean" in shown


@pytest.mark.parametrize("num_arms", [1, 6])
def test_a_wide_table_is_printed_without_cutting(capsys, num_arms):
    metrics = {f"metric {i}": 0.1 * i for i in range(9)}
    rows = table([record(f"arm with a long name {a}", s, 1, **metrics) for a in range(num_arms) for s in range(2)])
    print_table(rows, "title")
    shown = capsys.readouterr().out
    assert all(cell in shown for row in rows for cell in row)


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        ([60.0, 66.0, 74.0], "66.7 ± 4.1"),
        ([500.0, 1500.0], "1000 ± 500"),
        ([0.961, 0.9694], "0.965 ± 0.004"),
        ([0.00042, 0.00044], "0.00043 ± 0.00001"),
        ([2000.0, 2000.0], "2000 ± 0"),
        ([0.0, 0.0], "0.000 ± 0.000"),
    ],
)
def test_digits_follow_the_error(values, cell):
    assert table([record("a", s, 1, x=v) for s, v in enumerate(values)])[1][2] == cell


def test_plots_have_one_file_per_metric_and_a_band(tmp_path):
    records = [record(a, s, t, accuracy=0.1 * s + t, loss=None) for a in "ab" for s in (0, 1, 2) for t in (1, 2)]
    paths = plot(records, tmp_path)
    assert [p.name for p in paths] == ["accuracy.png", "loss.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_a_full_disk_leaves_no_half_of_a_plot(tmp_path):
    """The limit on the size of a file makes the write itself fail, as a full disk does."""
    records = [record("a", s, t, accuracy=0.1 * s + t) for s in (0, 1) for t in (1, 2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"Could not write .*accuracy\.png .*free space"):
            plot(records, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_records_survive_a_torn_line(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path)
    for step in (1, 2):
        records.append(record("a", 0, step, x=1.0))
    whole = path.read_bytes()
    for cut in range(1, len(whole) // 2, 9):
        path.write_bytes(whole[:-cut])
        again = Records(path)
        assert [r["step"] for r in again.all] == [1]
        assert path.read_bytes() == whole[: len(whole) // 2]
    again.append(record("a", 0, 2, x=1.0))
    assert path.read_bytes() == whole


def line(record):
    """The line of a record, with its CRC-32."""
    return json.dumps(record | {"crc32": zlib.crc32(json.dumps(record).encode())}).encode()


GOOD = record("a", 0, 1, x=1.0)
FOREIGN = {
    "cut": b'{"arm": "a"',
    "text": b"hello",
    "empty": b"",
    "list": b"[1, 2]",
    "number": b"3",
    "other object": b'{"loss": 0.5}',
    "other seed": line(GOOD | {"seed": "0"}),
    "other step": line(GOOD | {"step": None}),
    "other metrics": line(GOOD | {"metrics": {"x": "1"}}),
    "list of metrics": line(GOOD | {"metrics": [1.0]}),
    "no UTF-8": b"\xff\xfe",
    "no crc32": json.dumps(GOOD).encode(),
    "other value": line(GOOD).replace(b"1.0}", b"3.0}"),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_line_is_named_and_stays(tmp_path, foreign, place):
    path = tmp_path / "records.jsonl"
    lines = [line(record("a", 0, step, x=1.0)) for step in (1, 2)]
    lines.insert(place, foreign)
    path.write_bytes(content := b"\n".join(lines) + b"\n")
    with pytest.raises(
        ValueError, match=rf"records\.jsonl, line {place + 1}, is not a JSON record: .*Delete that line"
    ):
        Records(path)
    assert path.read_bytes() == content


def test_damage_gives_the_records_or_a_named_line(tmp_path):
    """Flipped bits, and cuts: a last line that is torn is dropped, and nothing else is another than it was."""
    path = tmp_path / "records.jsonl"
    Records(path).extend(made := [record("a", 0, step, x=0.1 * step, y=None) for step in (1, 2, 3)])
    content, rng, named = path.read_bytes(), np.random.default_rng(0), 0
    for place in rng.integers(len(content), size=400).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = Records(path).all
        except ValueError as error:
            assert re.search(r"records\.jsonl, line [123], .*\. Delete that line", str(error))
            assert path.read_bytes() == flipped
            named += 1
        else:
            assert found in (made, made[:2]), flipped
        path.write_bytes(content[:place])
        assert Records(path).all == made[: content[:place].count(b"\n")]
    assert named > 350


def test_drop_forgets_only_later_records_of_the_run(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    for arm, seed, step in [("a", 0, 1), ("a", 0, 2), ("a", 1, 2), ("b", 0, 2)]:
        records.append(record(arm, seed, step, x=0.5))
    records.drop("a", 0, after=1)
    left = [(r["arm"], r["seed"], r["step"]) for r in Records(tmp_path / "records.jsonl").all]
    assert left == [("a", 0, 1), ("a", 1, 2), ("b", 0, 2)]
    assert [r["step"] for r in records.of("a", 0)] == [1]


def test_a_full_disk_is_named_and_loses_no_record(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    records = Records(path)
    records.append(record("a", 0, 1, x=0.5))
    real_open = type(path).open

    class Full:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self._file.close()

        def write(self, line):
            return self._file.write(line[: len(line) // 2])

    monkeypatch.setattr(type(path), "open", lambda self, *args, **kwargs: Full(real_open(self, *args, **kwargs)))
    with pytest.raises(OSError, match=r"Could not write .*records\.jsonl .*free space"):
        records.extend([record("a", 0, step, x=0.5) for step in (2, 3, 4)])
    monkeypatch.undo()
    assert path.read_text().endswith("}\n")
    assert [r["step"] for r in Records(path).all] == [1]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_text(path, "old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_lines_are_valid_json_without_nan(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    with pytest.raises(ValueError):
        records.append(record("a", 0, 1, x=math.nan))
    records.append(record("a", 0, 1, x=None))
    assert json.loads((tmp_path / "records.jsonl").read_text())["metrics"] == {"x": None}


@pytest.mark.parametrize("seeds,bands", [(1, 0), (2, 1)])
def test_one_seed_shows_no_band(seeds, bands):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    made = [record("a", seed, step, loss=float(seed + step)) for seed in range(seeds) for step in (1, 2)]
    reports._draw(axes, "a", made, "loss")
    assert len(axes.collections) == bands and len(axes.lines) == 1


def test_quiet_output_prints_nothing_but_where_and_draws_nothing(tmp_path, capsys):
    from dataclasses import make_dataclass

    from experiments.engine import compare

    config = make_dataclass("Config", [("seeds", tuple, (0,)), ("out", str, str(tmp_path / "o"))])()
    token = folders.OUTPUT.set(folders.Output(quiet=True, plots=False))
    try:
        compare(config, {"a": lambda seed: {1: {"loss": 1.0}, 2: {"loss": 0.5}}}, xlabel="steps")
    finally:
        folders.OUTPUT.reset(token)
    shown = capsys.readouterr().out
    assert shown.startswith("Written to ") and "table.md" in shown and ".png" not in shown
    assert not list((tmp_path / "o").glob("*.png"))


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("test_accuracy", "test accuracy"),
        ("sliced_w2_at_4", "sliced 2-Wasserstein distance at 4"),
        ("map_at_r", "mean average precision at R"),
        ("step_cpu_ms", "step CPU milliseconds"),
        ("rank_60m", "rank (60 million parameters)"),
    ],
)
def test_an_axis_is_titled_in_words(metric, title):
    assert axis_title(metric) == title


def test_a_part_of_a_name_that_is_no_word_has_words():
    """In all stored results: letters without a vowel, or beside digits."""
    names = set()
    for path in RESULTS.glob("*.json"):
        for made in json.loads(path.read_text(encoding="utf-8"))["tables"].values():
            names |= {name for arm in made["arms"].values() for name in arm["metrics"]}
    parts = {part for name in names for part in re.split("[_ ]", re.sub(r", \w+ = .*", "", name)) if part}
    odd = {part.lower() for part in parts if not re.fullmatch(r"[A-Za-z-]*[aeiouy][A-Za-z-]*,?|[\d.]*%?", part)}
    assert odd and odd <= WORDS.keys()


def test_axes_carry_their_titles(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: seen.append(self.axes[0]))
    made = [record("a", 0, step, sliced_w2=float(step)) for step in (1, 2)]
    plot(made, tmp_path, "updates")
    draw_panels({"moons": made}, "sliced_w2", "updates", tmp_path / "panels.png")
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in seen] == 2 * [
        ("updates", "sliced 2-Wasserstein distance")
    ]
