"""A run that was cut short and started again ends bit for bit as if it had not been."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.__main__ import COMPILATION_CACHE
from experiments.engine import checkpoints as _checkpoint
from experiments.engine import folders
from experiments.engine.checkpoints import Checkpoints
from tests.experiments import tiny
from tests.experiments.tiny import Config, Stop

ROOT = Path(__file__).parents[3]
# Orbax closes its event loop at the first read or write that fails, and those still under way complain.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RUN = Config("").steps


def final(out: Path) -> dict[str, list[np.ndarray]]:
    """The arrays of the last checkpoint of every run."""
    result = {}
    for folder in sorted((out / "checkpoints").glob("*/*")):
        with ocp.CheckpointManager(folder) as manager:
            assert manager.latest_step() == Config("").steps
            args = ocp.args.Composite(state=ocp.args.StandardRestore())
            leaves = jax.tree.leaves(manager.restore(manager.latest_step(), args=args)["state"])
        keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
        assert sum(keys) == 1
        result[str(folder.relative_to(out))] = [
            np.asarray(jax.random.key_data(x) if k else x) for x, k in zip(leaves, keys)
        ]
    return result


def records(out: Path) -> list[dict]:
    """The lines of records.jsonl but for what depends on the clock; none before the first evaluation."""
    path = out / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in line.items() if k not in ("seconds", "crc32")} for line in lines]


def result(out: Path) -> str:
    """The text of result.json but for what depends on the clock."""
    return re.sub(r'"(seconds|minutes)": [0-9.]+', r'"\1": 0', (out / "result.json").read_text())


def assert_same(out: Path, reference: Path, runs: int = 2) -> None:
    assert records(out) == records(reference)
    assert result(out) == result(reference)
    assert len(records(out)) == runs * 5
    ours, theirs = final(out), final(reference)
    assert ours.keys() == theirs.keys() and len(ours) == runs
    for name in ours:
        assert [x.tobytes() for x in ours[name]] == [x.tobytes() for x in theirs[name]], name
        assert [x.dtype for x in ours[name]] == [x.dtype for x in theirs[name]], name


def start(out: Path, *args: object) -> subprocess.Popen:
    cache = {**COMPILATION_CACHE, "JAX_COMPILATION_CACHE_DIR": str(out.parent / "cache")}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **cache}
    command = [sys.executable, "-m", "tests.experiments.tiny", str(out), *map(str, args)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, code: int) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output


def test_killed_at_a_random_step_and_started_again(tmp_path):
    check_killed_at(tmp_path, random.randrange(1, 4 * RUN))


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 7, 8, RUN, 4 * RUN - 1])
def test_killed_before_and_after_a_record(tmp_path, at):
    check_killed_at(tmp_path, at)


def check_killed_at(tmp_path, at):
    print(f"killed before step {at} of {4 * RUN}")
    reference, killed = start(tmp_path / "reference"), start(tmp_path / "killed", at)
    finish(reference, 0)
    finish(killed, -signal.SIGKILL)
    assert not (tmp_path / "killed" / "result.json").exists()
    finished, step = divmod(at, RUN)
    assert len(records(tmp_path / "killed")) == finished * 5 + step // Config("").evaluate_every
    finish(start(tmp_path / "killed"), 0)
    assert_same(tmp_path / "killed", tmp_path / "reference", runs=4)


@pytest.mark.slow
def test_killed_again_and_again_at_random_times(tmp_path):
    finish(start(tmp_path / "reference"), 0)
    kills, patience = 0, 3.0
    while True:
        process = start(tmp_path / "killed")
        try:
            process.wait(random.uniform(1, patience))
        except subprocess.TimeoutExpired:
            process.kill()
            kills, patience = kills + 1, patience * 1.1
        process.communicate()
        if process.returncode == 0:
            break
    print(f"{kills} kills")
    assert_same(tmp_path / "killed", tmp_path / "reference", runs=4)


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    tiny.main(Config(str(out)))
    return out


def interrupted(out: Path, at: int) -> Config:
    config = Config(str(out))
    with pytest.raises(Stop):
        tiny.main(config, at)
    return config


@pytest.mark.parametrize("at", [0, 13, 40, 2 * RUN - 1])
def test_interrupted_at_every_kind_of_step(tmp_path, reference, at):
    tiny.main(interrupted(tmp_path / "out", at))
    assert_same(tmp_path / "out", reference)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [flip, lambda p: os.truncate(p, p.stat().st_size // 2), Path.unlink], ids=["flipped", "cut", "gone"]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, reference, capsys, damage):
    config = interrupted(tmp_path / "out", 30)
    folder = tmp_path / "out" / "checkpoints" / "Adaptive_k" / "0"
    assert sorted(path.name for path in folder.iterdir()) == ["12", "24"]
    for path in [p for p in (folder / "24").rglob("*") if p.is_file() and p.parent.name == "d"]:
        damage(path)
    tiny.main(config)
    assert "checkpoint of step 24" in capsys.readouterr().out
    assert_same(tmp_path / "out", reference)


def test_no_readable_checkpoint_is_an_error_and_deletes_nothing(tmp_path):
    config = interrupted(tmp_path / "out", 30)
    folder = tmp_path / "out" / "checkpoints" / "Adaptive_k" / "0"
    for path in [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]:
        os.truncate(path, 0)
    with pytest.raises(RuntimeError, match="No checkpoint in .*Adaptive_k/0 can be read"):
        tiny.main(config)
    assert sorted(path.name for path in folder.iterdir()) == ["12", "24"]


def test_values_that_were_changed_fail_the_checksum(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(_checkpoint, "_checksum", lambda *of: 0)
    checkpoints.save(1, {"x": jnp.arange(3.0)}, {})
    checkpoints.wait()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="do not match their checksum"):
        checkpoints.restore(jax.eval_shape(lambda: {"x": jnp.zeros(3)}))
    checkpoints.close()


def test_damage_anywhere_in_the_newest_checkpoint_gives_it_or_the_one_before(tmp_path, capsys):
    """Cut, flipped, emptied and lost files, among them those with the place of the iterator."""
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    arrays = {"x": jnp.arange(12.0).reshape(3, 4), "key": jax.random.key(3), "step": jnp.int32(3)}
    values = {step: {"iterator": {"next_index": 10 + step}, "seconds": 1.5} for step in (1, 2)}
    checkpoints = Checkpoints(whole)
    for step in (1, 2):
        checkpoints.save(step, arrays, values[step])
    checkpoints.wait()
    checkpoints.close()
    files = sorted(path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file())
    place_of_iterator = next(path for path in files if b"next_index" in (whole / path).read_bytes())
    rng, found = np.random.default_rng(0), []
    for name in [place_of_iterator] * 8 + [files[i] for i in rng.integers(len(files), size=24)]:
        shutil.rmtree(damaged, ignore_errors=True)
        path, content = shutil.copytree(whole, damaged) / name, bytearray((whole / name).read_bytes())
        kind = rng.choice(["flipped", "flipped", "cut", "zeros", "gone"])
        place = rng.integers(max(len(content), 1))
        if kind == "flipped" and content:
            at = content.find(b"12") if name == place_of_iterator and len(found) < 2 else place
            content[at] ^= 1 << int(rng.integers(3))
        path.write_bytes({"cut": content[:place], "zeros": bytes(len(content))}.get(kind, content))
        if kind == "gone":
            path.unlink()
        checkpoints = Checkpoints(damaged)
        restored = checkpoints.restore(jax.eval_shape(lambda: arrays))
        checkpoints.close()
        assert restored.values == values[restored.step], (name, kind, place)
        for given, came in zip(jax.tree.leaves(arrays), jax.tree.leaves(restored.arrays)):
            assert given.dtype == came.dtype and bool(jnp.all(given == came)), (name, kind, place)
        told = f"checkpoint of step 2 in {damaged} is unreadable; going on from step 1" in capsys.readouterr().out
        assert told == (restored.step == 1)
        found.append(restored.step)
    assert set(found) == {1, 2}


def test_two_checkpoints_are_kept_and_saving_is_cheap(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"x": jnp.zeros(1000), "key": jax.random.key(0)}
    seconds = []
    for step in (1, 2, 3, 4):
        started = time.perf_counter()
        checkpoints.save(step, state, {})
        seconds.append(time.perf_counter() - started)
    checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    assert min(seconds) < 0.1
    checkpoints.close()


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, reference):
    """The limit on file sizes makes the real writes fail, as a full disk does."""
    out, width = tmp_path / "out", 200_000
    config = Config(str(out), width=width)
    with pytest.raises(Stop):
        tiny.main(config, 30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"Could not write a checkpoint to .*The last complete one is of step 24"):
            tiny.main(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(Stop):
        tiny.main(config, 17)
    steps = [int(path.name) for path in (out / "checkpoints" / "Adaptive_k" / "0").iterdir()]
    assert sorted(steps) == [36, 40]


def test_a_write_that_fails_in_the_background_is_reported(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.zeros(3)}, {})
    checkpoints.wait()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
    with pytest.raises(OSError, match=r"No space left on device.*The last complete one is of step 1.*free space"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()


def test_a_torn_last_line_is_made_again(tmp_path, reference):
    config = interrupted(tmp_path / "out", 30)
    path = tmp_path / "out" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    tiny.main(config)
    assert_same(tmp_path / "out", reference)


def test_lost_records_start_the_run_again(tmp_path, reference):
    config = interrupted(tmp_path / "out", 30)
    (tmp_path / "out" / "records.jsonl").unlink()
    tiny.main(config)
    assert_same(tmp_path / "out", reference)


def test_finished_runs_are_not_run_again(tmp_path, reference):
    before = (reference / "records.jsonl").read_bytes()
    tiny.main(Config(str(reference)), interrupt_at=0)
    assert (reference / "records.jsonl").read_bytes() == before


def test_seeds_can_be_added(tmp_path, reference):
    out = tmp_path / "out"
    tiny.main(Config(str(out), seeds=(0,)))
    assert len(records(out)) == 5
    tiny.main(Config(str(out)))
    assert_same(out, reference)


def test_a_changed_config_is_refused(tmp_path):
    config = interrupted(tmp_path / "out", 1)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.1, now 0\.2.*choose another --out"):
        tiny.main(Config(config.out, learning_rate=0.2))


def test_scanned_steps_resume_too(tmp_path):
    config = Config(str(tmp_path / "one"))
    tiny.main(config, steps_per_call=4)
    again = Config(str(tmp_path / "two"))
    with pytest.raises(Stop):
        tiny.main(again, 30, steps_per_call=4)
    tiny.main(again, steps_per_call=4)
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("name,value", [("steps", 0), ("evaluate_every", 7), ("checkpoint_every", -4)])
def test_bad_counts_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, wanted a positive multiple of 4"):
        tiny.main(Config(str(tmp_path), **{name: value}), steps_per_call=4)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_bad_seeds_are_named(tmp_path, seeds):
    with pytest.raises(ValueError, match="seeds is"):
        tiny.main(Config(str(tmp_path), seeds=seeds))


def test_two_processes_do_not_share_a_folder(tmp_path):
    out = tmp_path / "out"

    def start_another():
        with pytest.raises(RuntimeError, match=rf"out .*out' is in use by another job, process {os.getpid()} on "):
            tiny.main(Config(str(out)))
        raise Stop

    with pytest.raises(Stop):
        tiny.main(Config(str(out)), 0, start_another)


def test_finish_gets_the_final_state_of_new_and_of_finished_runs(tmp_path, reference):
    shutil.copytree(reference, out := tmp_path / "out")
    seen = []
    for _ in range(2):
        tiny.main(Config(str(out), seeds=(0, 1, 2)), finish=lambda *args: seen.append(args))
    assert [(arm, seed) for arm, seed, _, _ in seen] == [("Adaptive-k", seed) for seed in (0, 1, 2)] * 2
    for arm, seed, state, data in seen:
        assert state.step == RUN
        last = [r for r in records(out) if (r["arm"], r["seed"]) == (arm, seed)][-1]
        assert float(tiny.evaluate(state, data)["test_loss"]) == last["metrics"]["test_loss"]
