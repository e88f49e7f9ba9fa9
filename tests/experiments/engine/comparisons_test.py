"""`compare`: what it calls, what it keeps, what it refuses."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from experiments.engine import compare, folders
from experiments.engine.reports import Records


@dataclass(frozen=True)
class Config:
    out: str
    seeds: tuple[int, ...] = (0, 1)
    arms: tuple[str, ...] = ()
    size: int = 3


def counted(calls, factor):
    def arm(seed):
        calls.append((factor, seed))
        return {"value": factor * seed}

    return arm


def test_every_arm_meets_every_seed_once_and_the_table_is_their_mean(tmp_path):
    calls, out = [], str(tmp_path / "run")
    arms = {"one": counted(calls, 1.0), "two": counted(calls, 2.0)}
    records = compare(Config(out), arms)
    assert calls == [(1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1)]
    assert [r["metrics"]["value"] for r in records] == [0, 1, 0, 2]
    assert "| two | 2 | 1.0 ± 1.0 |" in (tmp_path / "run" / "table.md").read_text()


def test_what_was_called_is_kept_and_seeds_and_arms_may_be_added(tmp_path):
    calls, out = [], str(tmp_path / "run")
    arms = {"one": counted(calls, 1.0), "two": counted(calls, 2.0)}
    compare(Config(out, arms=("two",)), arms)
    records = compare(Config(out, seeds=(0, 1, 2)), arms)
    assert sorted(calls) == sorted({(f, s) for f in (1.0, 2.0) for s in (0, 1, 2)})
    assert len(records) == 6


def test_an_arm_that_raises_is_called_again_next_time(tmp_path):
    calls, out = [], str(tmp_path / "run")

    def broken(seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(Config(out), {"one": counted(calls, 1.0), "two": broken})
    compare(Config(out), {"one": counted(calls, 1.0), "two": counted(calls, 2.0)})
    assert sorted(calls) == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1)]


def test_curves_have_a_record_and_a_plot_for_their_x(tmp_path):
    out = tmp_path / "run"
    records = compare(Config(str(out)), {"one": lambda seed: {8: {"error": 1.0}, 16: {"error": seed}}}, xlabel="size")
    assert [(r["step"], r["metrics"]["error"]) for r in records] == [(8, 1), (16, 0), (8, 1), (16, 1)]
    assert (out / "error.png").exists()


def test_a_value_that_is_not_finite_is_null_in_the_file_and_counted_in_the_table(tmp_path):
    out = tmp_path / "run"
    compare(Config(str(out)), {"one": lambda seed: {"time": 5.0 if seed else float("inf")}})
    first = json.loads((out / "records.jsonl").read_text().splitlines()[0])
    assert first["metrics"] == {"time": None}
    assert "5.000 (1/2) |" in (out / "table.md").read_text()


def test_refusals(tmp_path):
    arms, out = {"one": counted([], 1.0)}, str(tmp_path / "run")
    compare(Config(out), arms)
    with pytest.raises(ValueError, match="size was 3, now 4"):
        compare(Config(out, size=4), arms)
    with pytest.raises(ValueError, match="arms has"):
        compare(Config(out, arms=("three",)), arms)
    with pytest.raises(ValueError, match="seeds"):
        compare(Config(out, seeds=(1, 1)), arms)


DAMAGED = {"empty": b"", "cut": b'{"size": 3', "list": b"[3]", "number": b"3", "zeros": bytes(9), "no UTF-8": b"\xff"}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_config_is_named(tmp_path, content):
    arms, out = {"one": counted([], 1.0)}, tmp_path / "run"
    compare(Config(str(out)), arms)
    (out / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run/config\.json is damaged \(.*delete the file .*choose another --out"):
        compare(Config(str(out)), arms)
    (out / "config.json").unlink()
    assert len(compare(Config(str(out)), arms)) == 2


def test_a_config_that_is_damaged_anywhere_is_the_same_or_named(tmp_path):
    arms, out = {"one": counted([], 1.0)}, tmp_path / "run"
    compare(Config(str(out)), arms)
    path, rng = out / "config.json", np.random.default_rng(0)
    content, records = path.read_bytes(), (out / "records.jsonl").read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(flipped), content[:place]):
            path.write_bytes(damaged)
            try:
                folders._check_same_config(Config(str(out)), path)
            except ValueError as error:
                assert str(out) in str(error) and "choose another --out" in str(error)
            else:
                assert json.loads(damaged) == {"size": 3}
            assert path.read_bytes() == damaged
    assert (out / "records.jsonl").read_bytes() == records


class Killed(BaseException):
    """Passes every `except Exception`, as nothing of a killed process runs."""


OPERATIONS = {
    "make the folder": (Path, "mkdir"),
    "lock": (os, "open"),
    "open": (Path, "open"),
    "sync": (os, "fsync"),
    "rename": (Path, "replace"),
}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["full", "kill"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_or_a_kill_at_each_operation_loses_nothing(tmp_path, monkeypatch, operation, error):
    where, name = OPERATIONS[operation]
    real, expected = (
        getattr(where, name),
        compare(Config(str(tmp_path / "whole")), {"one": lambda seed: {"value": seed}}),
    )
    for at in range(1, 4):
        out, calls, count = tmp_path / f"run {at}", [], 0

        def stop(*args, at=at, **options):
            nonlocal count
            count += operation != "open" or (*args[1:], options.get("mode"))[0] not in ("r", "rb")  # of what is written
            if count == at:
                raise error
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop)
            try:
                compare(Config(str(out)), {"one": counted(calls, 1.0)})
            except type(error) as raised:
                if isinstance(raised, OSError):
                    assert str(out) in str(raised) and "free space" in str(raised)
        kept = len(Records(out / "records.jsonl").all)
        calls.clear()
        again = compare(Config(str(out)), {"one": counted(calls, 1.0)})
        assert len(calls) == 2 - kept
        assert [r | {"seconds": 0} for r in again] == [r | {"seconds": 0} for r in expected]
        assert not list(out.glob("*.new"))


ASCII = """
import dataclasses, sys
from experiments.engine import compare

@dataclasses.dataclass(frozen=True)
class Config:
    out: str
    seeds: tuple = (0, 1)

compare(Config(sys.argv[1]), {"Schr\\xf6dinger": lambda seed: {"value": 2.0 * seed}})
"""


def test_a_run_in_a_plain_locale_ends(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", ASCII, str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1.0 +- 1.0" in done.stdout and "Written to" in done.stdout
    assert "Schrödinger | 2 | 1.0 ± 1.0" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
