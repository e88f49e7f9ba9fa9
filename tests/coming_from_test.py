"""The pages for users of coreax, cords, activeft and small-text name only functions that we have."""

import re
from pathlib import Path

import pytest

import minibatch_jax
from minibatch_jax import coupling, metrics, pool, sampling, selection

DOCS = Path(__file__).parent.parent / "docs"
OURS = {name for noun in (minibatch_jax, coupling, metrics, pool, sampling, selection) for name in dir(noun)}
OUR_ARGUMENTS = {"item_weights", "bandwidth", "num_first", "noise_std", "warmup"}
THEIR_ARGUMENTS = {
    "median_heuristic",
    "select_every",
    "mean_pooling",
    "also_query_opposite",
    "batch_search",
    "random_initialization",
}


@pytest.mark.parametrize("page", ["coreax", "cords", "activeft", "small_text"])
def test_every_function_named_in_the_right_column_exists(page):
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 15
    named = {name for _, cell in rows[1:] for name in re.findall(r"`(?:\w+\.)?([a-z0-9]+(?:_[a-z0-9]+)+)", cell)}
    assert len(named) > 5
    known = OURS | OUR_ARGUMENTS | THEIR_ARGUMENTS
    assert named <= known, named - known
