"""The device run: time that is up, rows and processes that fail, and what the report says of them."""

import json

import pytest

from experiments import __main__ as dispatcher
from experiments.speed import _device_report as report
from experiments.speed import device
from experiments.speed._device_parts import CHECKED, PARTS, Part
from experiments.speed._device_rows import Row, beside, measured, timed


def broken():
    raise ValueError("no such\nkernel")


def test_a_row_that_fails_ends_no_other_and_its_message_is_kept():
    found = list(measured([Row("a", broken), Row("b", lambda: {"ours": 1.0})], seconds=9))
    assert [(row["name"], row["result"], row["message"]) for row in found] == [
        ("a", "failed", "ValueError: no such kernel"),
        ("b", "ok", ""),
    ]
    assert found[1]["values"] == {"ours": 1.0}


def test_rows_that_cannot_be_made_are_a_failed_row():
    def rows():
        yield Row("a", dict)
        broken()

    assert [row["result"] for row in measured(rows(), 9)] == ["ok", "failed"]


def test_no_row_is_begun_after_the_time_is_up_and_each_is_named():
    ran = []
    found = list(measured([Row(name, lambda: ran.append(1) or {}) for name in "ab"], seconds=-1))
    assert [(row["name"], row["result"]) for row in found] == [("a", "not run"), ("b", "not run")] and ran == []


def test_a_call_that_fails_is_timed_as_its_message_beside_the_others():
    found = timed({"ours": lambda: 1, "theirs": broken}, repeats=3)
    assert list(found) == ["ours", "theirs"]
    assert isinstance(found["ours"], float) and found["theirs"] == "ValueError: no such kernel"


def test_where_our_call_fails_the_row_fails():
    [found] = measured([Row("a", lambda: timed({"ours": broken, "theirs": lambda: 1}))], 9)
    assert found["result"] == "failed" and found["message"] == "ValueError: no such kernel"


def test_a_peer_that_is_missing_or_cannot_be_made_is_named():
    found = beside({"ours": lambda: 1}, {"absent": (broken, "no_such_package"), "here": (broken, "json")}, repeats=1)
    assert found["absent"] == "not installed: no_such_package" and found["here"] == "ValueError: no such kernel"


WORKER = """
import json, sys, time
file, small, *parts = sys.argv[1:]
for part in (p.split("=")[0] for p in parts):
    with open(file, "a") as lines:
        print(json.dumps({"begins": part, "at": time.time()}), file=lines)
    if part == "A":
        time.sleep(60)
    if part == "B":
        print("out of memory", file=sys.stderr, flush=True)
        sys.exit(3)
    with open(file, "a") as lines:
        row = {"part": part, "name": "x", "unit": "ms", "result": "ok", "message": ""}
        row["values"] = {"ours": 2.0, "b": 4.0}
        print(json.dumps({"machine": {"device": "H|1"}}), json.dumps(row), sep="\\n", file=lines)
        print(json.dumps({"ends": part, "at": time.time()}), file=lines)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker of which part A hangs and part B dies."""
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(device, "WORKER", "a_worker")
    monkeypatch.setattr(device, "GRACE", 0.2)
    for name in ("A", "solvers"):
        monkeypatch.setitem(PARTS, name, Part(name, 0.3, ("", "")))


def test_a_part_that_hangs_and_one_that_dies_are_recorded_and_the_run_goes_on(worker, tmp_path, capsys):
    assert device.main(["--out", str(tmp_path / "out"), "--parts", "E", "A", "B", "F"]) == 0
    run = json.loads((tmp_path / "out" / "device.json").read_text())
    said = {name: [(row["result"], row["message"]) for row in part["rows"]] for name, part in run["parts"].items()}
    assert said["E"] == said["F"] == [("ok", "")]
    assert said["A"][0][0] == said["B"][0][0] == "failed"
    assert "the time of the part was up" in said["A"][0][1]
    assert said["B"][0][1] == "the process ended with code 3: out of memory"
    assert "| x | ours 2 ms | b 4 ms (0.5) |" in capsys.readouterr().out


def test_what_the_time_of_the_run_leaves_no_room_for_is_named(worker, tmp_path):
    device.main(["--out", str(tmp_path), "--parts", "E", "F", "--seconds", "0"])
    run = json.loads((tmp_path / "device.json").read_text())
    assert [part["rows"][0]["result"] for part in run["parts"].values()] == ["not run", "not run"]


def test_a_process_that_never_begins_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "WORKER", "no_such_worker")
    device.main(["--out", str(tmp_path), "--parts", "E", "F"])
    rows = [part["rows"][0] for part in json.loads((tmp_path / "device.json").read_text())["parts"].values()]
    assert [row["result"] for row in rows] == ["not run", "not run"] and "no_such_worker" in rows[0]["message"]


def test_only_failed_rows_of_correctness_count():
    rows = [{"part": part, "name": "x", "unit": "", "result": "failed"} for part in (CHECKED[0], "A")]
    assert report.failed_checks(rows) == [f"{CHECKED[0]}: x"]


def test_the_flags_and_the_exit_code_go_through_the_command(monkeypatch):
    seen = []
    monkeypatch.setattr(device, "main", lambda flags: seen.append(flags) or 1)
    assert dispatcher.main(["speed", "device", "--small"]) == 1
    assert seen == [["--small"]]


def test_every_part_has_rows_of_different_names():
    from experiments.speed._device_worker import rows_of

    for name in PARTS:
        assert next(rows_of(name, True)).name
        names = [row.name for row in rows_of(name, False)]
        assert names and len(set(names)) == len(names)
