"""The terms and the network of CREST on text; a short run."""

import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.engine import folders
from experiments.selection import crest_text
from experiments.selection.crest_text import BUCKETS, CLASSES, TERMS, Config, logits, params, terms


def test_terms_are_words_and_pairs_and_the_rest_is_padding():
    found = terms(b"The cat, the CAT sat")
    wanted = [b"the", b"the cat", b"cat", b"cat the", b"the", b"the cat", b"cat", b"cat sat"]
    assert found[:8].tolist() == [zlib.crc32(term) % BUCKETS for term in wanted]
    assert found.shape == (TERMS,) and (found[8:] == -1).all()
    assert (terms(b" ".join(b"%d" % number for number in range(500))) >= 0).all()
    assert (terms(b"") == -1).all()


def test_padding_is_not_read():
    made, rows = params(Config(width=8), 0), jnp.array([[3, 5, -1, -1], [3, 5, 5, 5]])
    table = np.asarray(made["table"])
    found = np.asarray(logits(made, rows))
    weights = [np.asarray(array) for layer in made["layers"] for array in layer]
    for row, buckets in zip(found, ([3, 5], [3, 5, 5, 5])):
        hidden = np.maximum(sum(table[b] for b in buckets) / len(buckets) ** 0.5 @ weights[0] + weights[1], 0)
        np.testing.assert_allclose(row, hidden @ weights[2] + weights[3], rtol=1e-4, atol=1e-5)


def made_up(name, split):
    """Forty posts of each group, of words that the group likes."""
    rng, count = np.random.default_rng(len(split)), 40 * CLASSES
    label = np.arange(count) % CLASSES
    words = [[*rng.integers(0, 500, 10), *(1000 + 3 * group + rng.integers(0, 3, 4))] for group in label]
    return {"text": np.array([b" ".join(b"w%d" % word for word in row) for row in words]), "label": label}


def test_both_arms_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(crest_text, "arrays", made_up)
    sizes: Any = {
        "steps": 120,
        "tenth": 60,
        "evaluations": 4,
        "width": 16,
        "subset": 4,
        "medoids": 2,
        "test_examples": 300,
    }
    arms = ("random 10%", "fresh coresets 10%")
    records = crest_text.main(Config(seeds=(0,), out=str(tmp_path / "out"), arms=arms, **sizes))
    for name in arms:
        accuracies = [r["metrics"]["test_accuracy"] for r in records if r["arm"] == name]
        assert len(accuracies) == 4 and accuracies[-1] > 0.5 > accuracies[0]
