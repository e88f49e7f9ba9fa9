"""The pages for users of torchcfm, POT and OTT-JAX: their examples run, and they name only functions we have."""

import re
from pathlib import Path

import pytest

import minibatch_jax
from minibatch_jax import coupling

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("torchcfm", "pot", "ott_jax")
each = pytest.mark.parametrize("page", PAGES)


@each
def test_the_example_runs(page):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), flags=re.DOTALL):
        exec(block, names)
    assert "plan" in names or names["pairs"].weights.shape == (64,)


@each
def test_every_function_named_in_the_right_column_exists(page):
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    ours = set(dir(coupling)) | set(dir(coupling.costs)) | set(dir(minibatch_jax))
    for _, cell in rows[1:]:
        called = set(re.findall(r"`(\w+)(?=[`(])", cell))
        arguments = {
            "epsilon",
            "rho",
            "converged",
            "tolerance",
            "max_iterations",
            "neural",
            "x0",
            "reg_ot_cost",
            "Plan",
            "vmap",
        }
        arguments |= {"domain_adaptation", "color_transfer"}  # experiments
        assert called - arguments <= ours, called - arguments - ours
