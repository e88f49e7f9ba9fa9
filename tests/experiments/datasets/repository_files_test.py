"""Data that lies in files of a public repository, each pinned: the runs of RegMix, on an excerpt made here."""

import csv
import dataclasses
import hashlib
import io

import numpy as np
import pytest

from experiments.datasets import _archives, arrays, check_fetched
from experiments.datasets.__main__ import main
from experiments.datasets._catalog import CATALOG
from experiments.datasets._mixtures import DOMAINS, VALIDATED
from experiments.shared.mixture_runs import mixture_runs

COUNTS = {"train_{}_1m": 5, "test_{}_1m": 3, "test_{}_60m": 3, "test_{}_1B": 2}


def text(rows):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def excerpt(seed=0):
    """Tables of the true form, columns in another order than ours, and what must be read from them."""
    rng, files, wanted = np.random.default_rng(seed), {}, []
    for form, count in COUNTS.items():
        mixture = rng.dirichlet(np.full(17, 0.5), count).round(3)
        losses = rng.uniform(2, 8, (count, 13)).round(6)
        columns, others = rng.permutation(17), rng.permutation(13)
        heads = (
            [f"train_the_pile_{DOMAINS[i]}" for i in columns],
            [f"metric/the_pile_{VALIDATED[i]}_val_loss" for i in others],
        )
        tables = mixture[:, columns], losses[:, others]
        for kind, head, table in zip(("mixture", "pile_loss"), heads, tables):
            rows = [["index", *head], *([number, *row] for number, row in enumerate(table.tolist(), start=1))]
            files[form.format(kind) + ".csv"] = text(rows)
        wanted.append((mixture / mixture.sum(axis=1, keepdims=True), losses))
    return files, wanted


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of the user with the excerpt, whose sums are pinned; the data folder beside it is empty."""
    files, _ = excerpt()
    pins = []
    for archive in CATALOG["regmix"].files:
        content = files[archive.file.rpartition("/")[2]]
        pins.append(dataclasses.replace(archive, sha256=hashlib.sha256(content).hexdigest(), size=len(content)))
    monkeypatch.setitem(CATALOG, "regmix", dataclasses.replace(CATALOG["regmix"], files=tuple(pins)))
    monkeypatch.setenv("MINIBATCH_JAX_DATA", str(tmp_path / "data"))
    given = tmp_path / "given"
    given.mkdir()
    for name, content in files.items():
        (given / name).write_bytes(content)
    return given


def test_a_folder_of_the_user_is_copied_and_read_by_names_of_domains(folder, capsys):
    assert main(["fetch", "--folder", str(folder), "regmix"]) == 0 and "sha256 checked" in capsys.readouterr().out
    for path in folder.iterdir():
        path.unlink()
    assert main(["fetch", "regmix"]) == 0
    check_fetched("regmix")
    for split, (mixture, losses) in zip(("train", "test_1m", "test_60m", "test_1b"), excerpt()[1]):
        runs = mixture_runs(split)
        np.testing.assert_allclose(runs.mixtures, mixture, rtol=1e-6)
        np.testing.assert_allclose(runs.losses, losses, rtol=1e-6)
        np.testing.assert_allclose(runs.target("pile_cc"), losses[:, VALIDATED.index("pile_cc")], rtol=1e-6)
        np.testing.assert_allclose(runs.target("mean"), losses.mean(axis=1), rtol=1e-6)


def test_a_missing_and_a_wrong_file_are_named(folder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"regmix need .*test_pile_loss_1B.csv.*fetch regmix$"):
        check_fetched("regmix")
    with pytest.raises(FileNotFoundError, match=r"'regmix' needs .*train_mixture_1m.csv.*fetch regmix"):
        arrays("regmix", "train")
    whole = (folder / "test_mixture_60m.csv").read_bytes()
    (folder / "test_mixture_60m.csv").write_bytes(whole[:-1])
    assert main(["fetch", "--folder", str(folder), "regmix"]) == 1
    message = capsys.readouterr().err
    assert f"{hashlib.sha256(whole[:-1]).hexdigest()}, wanted {hashlib.sha256(whole).hexdigest()}" in message
    assert f"not kept; {folder} holds another file" in message
    (folder / "test_mixture_60m.csv").unlink()
    assert main(["fetch", "--folder", str(folder), "regmix"]) == 1
    assert f"{folder} holds no file test_mixture_60m.csv" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["regmix"]


def test_the_network_is_asked_for_the_pinned_commit(folder, monkeypatch, tmp_path, capsys):
    archive = CATALOG["regmix"].files[0]
    command, _ = _archives._command(archive, tmp_path)
    commit = "b004d3a3f39846dcec6b3740da22bcd1ba95a5d0"
    assert command[-2:] == [
        f"https://raw.githubusercontent.com/sail-sg/regmix/{commit}/data/train_mixture_1m.csv",
        "train_mixture_1m.csv",
    ]

    def local(archive, where):
        name = archive.file.rpartition("/")[2]
        return [*command[:-2], (folder / name).as_uri(), name], {}

    monkeypatch.setattr(_archives, "_command", local)
    assert main(["fetch", "regmix"]) == 0 and len(mixture_runs("test_1b").losses) == 2
    (tmp_path / "data" / archive.file).unlink()
    (folder / "train_mixture_1m.csv").unlink()
    assert main(["fetch", "regmix"]) == 1
    message = capsys.readouterr().err
    assert "failed with exit status 1 (if you have the files: python -m experiments.datasets fetch --folder" in message


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("train_mixture_1m.csv", (2, 1, "0.9"), "Row 1 of train_mixture_1m.csv sums to .*sum to 1"),
        ("test_mixture_1B.csv", (1, 0, "7"), "test_mixture_1B.csv and test_pile_loss_1B.csv differ in their index"),
        ("test_mixture_60m.csv", (0, 3, "x"), "test_mixture_60m.csv has no column train_the_pile_"),
        ("test_pile_loss_1m.csv", (1, 5, "nan"), "test_pile_loss_1m.csv holds a number that is not finite"),
    ],
)
def test_tables_of_another_form_are_named(tmp_path, name, change, message):
    for file, content in excerpt()[0].items():
        (tmp_path / file).write_bytes(content)
    rows = list(csv.reader(io.StringIO(excerpt()[0][name].decode())))
    row, column, value = change
    rows[row][column] = value
    (tmp_path / name).write_bytes(text(rows))
    with pytest.raises(ValueError, match=message):
        CATALOG["regmix"].read(tmp_path)
