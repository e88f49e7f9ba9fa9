"""The table for users of pytorch-metric-learning names all of its miners and losses, and only functions we have."""

import json
import re
from pathlib import Path

from minibatch_jax import metrics, mining, modules, sampling

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs/pytorch_metric_learning.md").read_text()
PEER = json.loads((Path(__file__).parent / "pml_reference.json").read_text())


def test_every_miner_and_loss_of_the_peer_has_a_row():
    theirs = {name for row in re.findall(r"^\| (.*?) \|", TEXT, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert len(PEER["names"]) > 45
    assert set(PEER["names"]) <= theirs


def test_every_function_named_exists():
    columns = re.findall(r"^\| .*? \| (.*) \|$", TEXT, re.MULTILINE)
    named = {name for column in columns for name in re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", column)}
    arguments = {"axis_name", "active_mean", "anchor_mean", "minibatch_jax", "vicreg_loss"}
    arguments |= {"get_outliers", "avg_of_avgs"}  # of the peer
    nouns = (mining, metrics, sampling, mining.losses.ranking)
    assert named - arguments <= {name for noun in nouns for name in dir(noun)}
    assert "vicreg_loss" in dir(modules)


def test_the_examples_run():
    first, several_labels = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names = {}
    exec(first, names)
    assert names["loss"] > 0
    exec(several_labels, names)
    assert round(float(names["recall"]), 3) == 0.333 and names["loss"] > 0
    assert names["memory"].num_stored == 9 and (names["memory"].labels >= 0).all()
