"""TensorBoard's files hold what `records.jsonl` holds, each point once, whatever cut a run short."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import make_dataclass
from pathlib import Path

import pytest

from experiments import __main__ as dispatcher
from experiments.engine import compare, folders
from tests.experiments import tiny

ROOT = Path(__file__).parents[3]
RUN = """
import sys
from experiments import __main__ as dispatcher
from experiments.engine import folders

def run_experiment(name, flags):
    folders.OUTPUT.set(folders.Output(tensorboard=True))
    from tests.experiments import tiny
    tiny.main(tiny.Config(sys.argv[1], steps=1_200_000))

dispatcher.run_experiment = run_experiment
dispatcher.end_on_ctrl_c("Interrupted. The same command goes on from what it has saved.")
dispatcher.leave(dispatcher.main(["quickstart"]))
"""


@pytest.fixture
def tensorboard(monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'minibatch_jax[tensorboard]'")
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    token = folders.OUTPUT.set(folders.Output(quiet=True, tensorboard=True))
    yield
    folders.OUTPUT.reset(token)


def points(folder):
    """All points of the files, those too that TensorBoard would purge: (arm's folder, seed, step, metric, value)."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for path in sorted(folder.rglob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = float(make_ndarray(value.tensor))
                found.append(
                    (path.parts[-3], path.parts[-2], event.step, value.tag, None if math.isnan(number) else number)
                )
    return sorted(found, key=str)


def wanted(out):
    """The same from the JSON lines."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    found = [
        (folders_name, f"seed {line['seed']}", line["step"], metric, value)
        for line in lines
        for folders_name in [line["arm"].replace("-", "_")]
        for metric, value in line["metrics"].items()
    ]
    return sorted(found, key=str)


def assert_same_points(out):
    found, expected = points(out / "tensorboard"), wanted(out)
    assert [point[:4] for point in found] == [point[:4] for point in expected]
    assert [point[4] for point in found] == pytest.approx([point[4] for point in expected], rel=1e-6)


@pytest.mark.parametrize("at", [0, 30, 57])
def test_a_run_cut_short_and_resumed_has_each_point_once(tmp_path, tensorboard, at):
    config = tiny.Config(str(tmp_path), checkpoint_every=20)  # so that at 30 the record of step 24 is made again
    with pytest.raises(tiny.Stop):
        tiny.main(config, at)
    tiny.main(config)
    assert len(wanted(tmp_path)) == 2 * 5 * 3
    assert_same_points(tmp_path)
    tiny.main(config, interrupt_at=0)  # it is finished; the copy is written anew
    assert_same_points(tmp_path)


def test_records_made_without_the_flag_are_copied_later(tmp_path, tensorboard):
    token = folders.OUTPUT.set(folders.Output(quiet=True))
    config = tiny.Config(str(tmp_path), seeds=(0,))
    tiny.main(config)
    folders.OUTPUT.reset(token)
    assert not (tmp_path / "tensorboard").exists()
    tiny.main(config)
    assert_same_points(tmp_path)


def test_points_whose_x_is_no_step_are_numbered(tmp_path, tensorboard):
    config = make_dataclass("Config", [("seeds", tuple, (0,)), ("out", str, str(tmp_path))])()
    arms = {"a": lambda seed: {0.05: {"loss": 1.0}, 1: {"loss": math.nan}}, "b": lambda seed: {2.0: {"loss": 0.5}}}
    compare(config, arms, xlabel="distance")
    loss = [("a", "seed 0", 0, "loss", 1.0), ("a", "seed 0", 1, "loss", None), ("b", "seed 0", 2, "loss", 0.5)]
    x = [("a", "seed 0", 0, "x", pytest.approx(0.05)), ("a", "seed 0", 1, "x", 1.0)]
    assert points(tmp_path / "tensorboard") == [loss[0], x[0], loss[1], x[1], loss[2]]


def test_ctrl_c_leaves_all_points_and_says_how_to_go_on(tmp_path, tensorboard):
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        path, patience = tmp_path / "records.jsonl", time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") > 2) and time.monotonic() < patience:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode() == "Interrupted. The same command goes on from what it has saved.\n"
    expected = [point[:4] for point in wanted(tmp_path)]
    found = [point[:4] for point in points(tmp_path / "tensorboard")]
    assert set(found) <= set(expected) and len(set(found)) == len(found)
    assert len(expected) - len(found) <= 3  # the record that was being written


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    token = folders.OUTPUT.set(folders.Output(tensorboard=True))
    try:
        with pytest.raises(
            ImportError, match=r"tensorboard is missing, wanted it here: .*'minibatch_jax\[tensorboard\]'$"
        ):
            tiny.main(tiny.Config(str(tmp_path)))
    finally:
        folders.OUTPUT.reset(token)
    assert not (tmp_path / "records.jsonl").exists()


def test_the_flags_of_all_experiments_reach_the_output(monkeypatch):
    module, seen = dispatcher.importlib.import_module("experiments.quickstart"), []
    monkeypatch.setattr(module, "main", lambda config: seen.append((config.seeds, folders.OUTPUT.get())))
    token = folders.OUTPUT.set(folders.Output())
    try:
        assert dispatcher.main(["quickstart", "--tensorboard", "--seeds", "4"]) == 0
        assert dispatcher.main(["quickstart", "--quiet", "--no-plots"]) == 0
    finally:
        folders.OUTPUT.reset(token)
    assert seen == [((4,), (False, True, True)), ((0, 1, 2), (True, False, False))]


def test_nothing_is_imported_without_the_flag():
    code = "import sys, experiments.engine; print('tensorboard' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
