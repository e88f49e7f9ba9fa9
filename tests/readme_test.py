"""The README and the guides: their code runs and learns what they say, and their tables leave nothing out."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.__main__ import listing
from tests.conformance_test import public_factories

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
METHODS = (ROOT / "docs" / "methods.md").read_text()
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run_blocks(codes):
    """Run the blocks of a page one after the other, under JAX's own rules of promotion."""
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code in codes:
            exec(code, names)
    return names


def run(code):
    names = run_blocks([code])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        names["after"] = names["accuracy"](names["params"])
    return names


def test_the_training_loop_learns_from_the_rows_it_keeps():
    (code,) = blocks(README, "python")
    names = run(code)
    assert names["before"] < 0.6
    assert names["after"] > 0.97
    weights = np.asarray(names["aux"].weights)
    assert np.count_nonzero(weights) == 32
    np.testing.assert_allclose(weights[weights > 0], 1 / 32, rtol=1e-6)


def test_the_mean_over_all_rows_fails_as_the_readme_says():
    (code,) = blocks(README, "python")
    names = run(code.replace("keep_bottomk(32)", "keep_bottomk(64)").replace("gather=32", "gather=64"))
    assert np.count_nonzero(names["aux"].weights) == 64
    assert names["after"] < 0.5


def test_the_two_commands_make_their_own_environment():
    first, tests = blocks(README, "sh")[0].splitlines()
    assert re.fullmatch(r"python3 -m venv \.venv && \.venv/bin/pip install -e '\.\[experiments\]' && \.venv/.*", first)
    assert re.fullmatch(r"python3 -m venv \.venv && \.venv/bin/pip install -e '\.\[dev\]' && \.venv/.*", tests)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", GUIDES, ids=[page.stem for page in GUIDES])
def test_the_code_of_a_guide_runs(page):
    run_blocks(blocks(page.read_text(), "python"))


def test_the_method_table_is_what_the_docstrings_say():
    assert runpy.run_path(str(ROOT / "docs" / "generate.py"))["methods"]() == METHODS


def test_the_tables_name_every_transformation_and_experiment():
    words = {word for name in re.findall(r"`([^`]+)`", METHODS) for word in name.split()}
    composing = {"among_rows", "mask_rows", "normalize", "record"}  # they serve every method and belong to none
    assert set(public_factories()) - composing <= words
    experiments = set(re.findall(r"^  (\w+) .* min  ", listing(), flags=re.MULTILINE))
    assert len(experiments) > 20
    assert experiments <= words | {"quickstart"}


def test_transformations_that_belong_to_no_method_are_in_the_guide():
    guide = (ROOT / "docs" / "start.md").read_text()
    assert all(f"`{name}" in guide for name in ("among_rows", "mask_rows", "normalize", "record"))
