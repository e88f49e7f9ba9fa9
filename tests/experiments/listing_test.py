"""Every experiment is listed, documented and configured in the same way."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as dispatcher

FOLDER = Path(dispatcher.__file__).parent
FILES = dispatcher.files()
SPEED = {path.stem: path for path in (FOLDER / "speed").glob("*.py") if not path.stem.startswith("_")}
FIELDS = {"seeds", "out"}
RESULTS = FOLDER / "results"


def test_the_listing_contains_every_file():
    lines = dispatcher.listing().splitlines()
    for name, path in {**FILES, **SPEED}.items():
        claim = dispatcher.docstring(path).splitlines()[0]
        assert [line for line in lines if line.split()[:1] == [name] and line.endswith(claim)], name


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from experiments.__main__ import main; main([]); "
        "print([m for m in ('jax', 'numpy', 'orbax', 'matplotlib', 'tyro') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert output.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", FILES)
def test_docstring_has_the_required_parts(name):
    doc = dispatcher.docstring(FILES[name])
    assert doc.splitlines()[0].endswith("."), "the first line is the claim in one sentence"
    for part in ("Claim", "Command", "Minutes", "Expected", "Reference"):
        assert re.search(rf"^{part}: *\S|^{part}:\n", doc, re.MULTILINE), f"no '{part}:' in {name}"
    assert f"python -m experiments {name}" in doc
    assert re.search(r"^Minutes: \d", doc, re.MULTILINE)
    assert re.search(r"arXiv|doi|\d{4}", doc.split("Reference:")[1])


@pytest.mark.parametrize("name", FILES)
def test_config_is_frozen_and_has_seeds_and_out(name):
    module = importlib.import_module(dispatcher.module_of(name))
    config = module.Config()
    assert {field.name for field in dataclasses.fields(config)} >= FIELDS
    assert len(config.seeds) >= 3 and config.out == f"runs/{name}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seeds = ()
    assert callable(module.main)


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_the_configuration_of_a_result_is_the_default_one(name):
    config = dataclasses.asdict(importlib.import_module(dispatcher.module_of(name)).Config())
    stored = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["config"]
    assert stored == json.loads(json.dumps({field: value for field, value in config.items() if field != "out"}))


@pytest.mark.parametrize("name", SPEED)
def test_speed_cases_have_a_main_and_a_claim(name):
    assert "def main(" in SPEED[name].read_text()
    assert dispatcher.docstring(SPEED[name])


def test_flags_reach_the_config(monkeypatch):
    module = importlib.import_module("experiments.quickstart")
    seen = []
    monkeypatch.setattr(module, "main", seen.append)
    assert dispatcher.main(["quickstart", "--seeds", "4", "5", "--learning-rate", "0.5"]) == 0
    assert seen == [dataclasses.replace(module.Config(), seeds=(4, 5), learning_rate=0.5)]


def test_help_shows_the_flags(capsys):
    with pytest.raises(SystemExit) as exit_code:
        dispatcher.main(["quickstart", "--help"])
    assert exit_code.value.code == 0
    shown = capsys.readouterr().out
    assert "--learning-rate" in shown and "\nCommand: " in shown


@pytest.mark.parametrize("args", [["nonsense"], ["speed", "nonsense"]])
def test_unknown_names_are_refused(capsys, args):
    assert dispatcher.main(args) == 2
    assert "unknown: nonsense; wanted one of" in capsys.readouterr().err


def test_all_speed_cases_run_if_none_is_named(monkeypatch):
    ran = []
    monkeypatch.setattr(dispatcher, "files", lambda folder: dict.fromkeys(["case_a", "case_b"]))
    modules = {f"experiments.speed.{n}": type("M", (), {"main": staticmethod(lambda n=n: ran.append(n))}) for n in "ab"}
    monkeypatch.setattr(importlib, "import_module", lambda name: modules[name.replace("case_", "")])
    dispatcher.run_speed([])
    assert ran == ["a", "b"]


def test_nothing_is_compiled_into_the_working_folder(tmp_path):
    code = "import os; from experiments.__main__ import main; main([]); print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    environment = os.environ | {"MINIBATCH_JAX_DATA": str(tmp_path / "data"), "PYTHONPATH": str(FOLDER.parent)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "data" / "compiled")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_terminal_shows_the_listing(encoding):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "experiments"]
    subprocess.run(command, cwd=FOLDER.parent, env=os.environ | plain, capture_output=True, check=True)
