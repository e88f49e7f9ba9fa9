"""The JSON result: what is in it, where it is written, and what the check of it allows."""

import dataclasses
import json
import math
import statistics
from dataclasses import dataclass

import pytest

from experiments.engine import compare, results
from experiments.engine.checks import check, within


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1, 3)
    out: str = "runs/tiny"
    arms: tuple[str, ...] = ()
    size: int = 3


ARMS = {
    "uniform": lambda seed: {"error": 1.0 + seed, "kept": 1.0},
    "method": lambda seed: {"error": 0.5 + seed * 0.75, "kept": math.inf if seed else 0.25, "only here": 2.0},
}


def main(config: Config):
    compare(config, ARMS, baseline="uniform", better={"error": "lower"})


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Where default runs write, in place of the folder of the repository."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_means_errors_and_paired_differences(tmp_path):
    main(Config(out=str(tmp_path / "run")))
    table = read(tmp_path / "run" / "result.json")["tables"][""]
    assert (table["seeds"], table["better"]) == ([0, 1, 3], {"error": "lower"})
    error = statistics.stdev([0.5, 1.25, 2.75]) / math.sqrt(3)
    assert table["arms"]["method"]["metrics"]["error"] == {"mean": 1.5, "error": float(f"{error:.6g}"), "finite": 3}
    assert table["arms"]["method"]["metrics"]["kept"] == {"mean": 0.25, "error": None, "finite": 1}
    difference = table["differences"]["method"]
    assert list(table["differences"]) == ["method"] and difference["baseline"] == "uniform"
    paired = statistics.stdev([-0.5, -0.75, -1.25]) / math.sqrt(3)
    assert difference["metrics"] == {
        "error": {"mean": pytest.approx(-2.5 / 3, abs=1e-6), "error": float(f"{paired:.6g}"), "finite": 3},
        "kept": {"mean": -0.75, "error": None, "finite": 1},
    }


def test_arms_may_have_different_baselines_and_an_unknown_one_is_refused(tmp_path):
    arms = {name: lambda seed: {"x": float(seed)} for name in "abcd"}
    compare(Config(out=str(tmp_path / "run")), arms, baseline={"b": "a", "d": "c"})
    table = read(tmp_path / "run" / "result.json")["tables"][""]
    assert {arm: d["baseline"] for arm, d in table["differences"].items()} == {"b": "a", "d": "c"}
    compare(Config(out=str(tmp_path / "part"), arms=("b", "d")), arms, baseline={"b": "a", "d": "c"})
    assert read(tmp_path / "part" / "result.json")["tables"][""]["differences"] == {}
    with pytest.raises(ValueError, match=r"baseline has \['e'\], wanted some of \['a', 'b', 'c', 'd'\]."):
        compare(Config(out=str(tmp_path / "wrong")), arms, baseline={"b": "e"})
    with pytest.raises(ValueError, match="wanted 'higher' or 'lower' for each metric"):
        compare(Config(out=str(tmp_path / "wrong")), arms, better={"x": "up"})


def test_a_default_run_is_kept_and_another_is_not(tmp_path, written):
    for name, changes in {
        "default": {},
        "size": {"size": 4},
        "seeds": {"seeds": (0,)},
        "arms": {"arms": ("uniform",)},
    }.items():
        config = Config(out=str(tmp_path / name), **changes)
        with results.gathered(name, config):
            main(config)
    assert [path.name for path in written.iterdir()] == ["default.json"]
    assert (written / "default.json").read_text() == (tmp_path / "default" / "result.json").read_text()
    assert str(tmp_path) not in (written / "default.json").read_text()
    assert read(written / "default.json")["config"] == {"seeds": [0, 1, 3], "arms": [], "size": 3}


def test_the_calls_of_one_experiment_are_tables_of_one_result(tmp_path, written):
    config = Config(out=str(tmp_path / "run"))
    with results.gathered("both", config):
        main(config)
        main(dataclasses.replace(config, size=5, seeds=(7, 8), out=str(tmp_path / "run" / "larger")))
    tables = read(written / "both.json")["tables"]
    assert [(key, table["config"], table["seeds"]) for key, table in tables.items()] == [
        ("", {}, [0, 1, 3]),
        ("larger", {"seeds": [7, 8], "size": 5}, [7, 8]),
    ]


def test_nothing_is_kept_of_a_run_that_breaks_off(tmp_path, written):
    config = Config(out=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt), results.gathered("broken", config):
        main(config)
        raise KeyboardInterrupt
    assert not written.exists()


@pytest.mark.parametrize("drift, agrees", [(0.0, True), (0.5, True), (9.0, False)])
def test_the_check_runs_the_smallest_arm_once_and_fails_where_it_has_moved(tmp_path, written, capsys, drift, agrees):
    config = Config(out=str(tmp_path / "run"))
    with results.gathered("moved", config):
        main(config)
    stored = read(written / "moved.json")
    stored["tables"][""]["arms"]["uniform"]["seconds"] = 7.0
    (written / "moved.json").write_text(json.dumps(stored))
    calls = []

    def later(config):
        calls.append(config.seeds)
        arms = {**ARMS, "method": lambda seed: {**ARMS["method"](seed), "error": 0.5 + drift, "cpu_seconds": 3.0}}
        compare(config, arms, baseline="uniform")
        raise AssertionError("what comes after the first table is not run")

    assert check("moved", Config, later) == agrees
    assert calls == [(0,)]
    assert ("error: 9.5 now, 1.5 ± 0.661438 stored: DIFFERS" in capsys.readouterr().out) != agrees


def test_what_a_check_allows():
    three = {"mean": 1.0, "error": 0.1, "finite": 3}
    assert within(1.51, three, 3) and not within(1.53, three, 3)  # 3 * 0.1 * sqrt(3) = 0.52
    for error in (0.0, None):
        assert within(1.009, three | {"error": error}, 3) and not within(1.011, three | {"error": error}, 3)
    assert within(1.0009, three | {"error": 1e-9}, 3)
    assert not within(None, three, 3) and within(None, three, 4)
    none = {"mean": None, "error": None, "finite": 0}
    assert within(None, none, 3) and not within(1.0, none, 3)
