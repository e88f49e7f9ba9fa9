"""Tiny archives of every form, written by the tests, and pinned in the catalog for the time of a test."""

import contextlib
import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.datasets._catalog import CATALOG


def tgz(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tgz(files, "w:xz")}
    out = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += header + content + b"\n" * (len(content) % 2)
    return out


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


def pin(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, content: bytes) -> Path:
    """Store `content` as the archive of data set `name` under `folder`, and pin its true sha256."""
    archive = CATALOG[name].archive
    assert archive is not None
    pinned = dataclasses.replace(archive, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    monkeypatch.setitem(CATALOG, name, dataclasses.replace(CATALOG[name], archive=pinned))
    monkeypatch.setenv("MINIBATCH_JAX_DATA", str(folder))
    (folder / archive.file).write_bytes(content)
    return folder / archive.file


class _BulkMock(tfds.testing.PickableDataSourceMock):
    """The mock of tensorflow-datasets 4.9 breaks `__getitems__`: it forgets `self`. This one keeps its own."""

    def __setattr__(self, name, value):
        if name != "__getitems__":
            super().__setattr__(name, value)

    def __getitems__(self, keys):
        return [self[key] for key in keys]


def mock_stock_data(num_examples: int) -> contextlib.AbstractContextManager[None]:
    """`tfds.testing.mock_data` whose sources can also be read in bulk, as the real ones can."""
    return tfds.testing.mock_data(num_examples=num_examples, mock_array_record_data_source=_BulkMock())
