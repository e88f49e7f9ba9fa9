"""What the README and the guides tell a newcomer to type does what they say."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(text, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_training_loop_learns_from_the_rows_it_keeps():
    (code,) = blocks(README)
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, names)
    assert names["accuracy"] > 0.9  # 1/3 by chance; the training labels themselves are right in 7 of 9 cases
    weights = np.asarray(names["aux"].weights)
    assert np.count_nonzero(weights) == 32
    np.testing.assert_allclose(weights[weights > 0], 1 / 32, rtol=1e-5)


def test_the_two_commands_need_nothing_before_them():
    commands = blocks(README, "sh")[0].strip().splitlines()
    assert len(commands) == 2 and all(c.startswith("python3 -m venv ") for c in commands)
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_the_code_of_a_guide_runs(page):
    for code in blocks((ROOT / "docs" / page).read_text()):
        exec(code, {})


def test_the_method_table_is_what_the_docstrings_say():
    command = [sys.executable, "docs/generate.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_experiment_is_in_the_method_table():
    from experiments.__main__ import files

    table = (ROOT / "docs" / "methods.md").read_text()
    named = set(re.findall(r"`(\w+)`", table))
    assert set(files()) - {"quickstart"} <= named


def _environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}
