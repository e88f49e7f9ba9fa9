"""Compute and wrong texts of the race of JEST, and a short race on pairs made here."""

import dataclasses

import numpy as np
import pytest

from experiments.engine import folders
from experiments.selection import jest_race
from experiments.selection._emoji_pairs import SIDE, VENDORS


def made_pairs(validate=False):
    """Images that show their words as colors of patches, by four vendors with a tint of their own."""
    rng = np.random.default_rng(0)

    def split(emoji, vendors):
        words = (rng.random((emoji, 16)) < 0.3).astype(np.float32)
        words[np.arange(emoji), rng.integers(0, 16, emoji)] = 1
        shown = np.repeat(np.repeat(words.reshape(-1, 4, 4), SIDE // 4, 1), SIDE // 4, 2)[:, None, ..., None] * 2 - 0.6
        image = shown + 0.1 * rng.normal(size=(emoji, vendors, 1, 1, 3)) + 0.1 * rng.normal(size=(1, vendors, 1, 1, 3))
        return {"image": image.astype(np.float32), "words": words, "category": np.arange(emoji) % 4}

    train = split(60, VENDORS + 1)
    by_vendor = [{**train, "image": train["image"][:, part]} for part in (slice(VENDORS), slice(VENDORS, None))]
    return {"train": by_vendor[0], "new_vendor": by_vendor[1], "new_emoji": split(20, 4)}


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("uniform", 3 * 10),
        ("joint, 1/2", 3 * 10 + 2 * 10),
        ("independent, 1/5", 3 * 10 + 5 * 10),
        ("uniform, two resolutions", 3 * 6),
        ("Flexi-JEST, 1/2", 3 * 6 + 2 * 2),
    ],
)
def test_arms_make_as_many_updates_as_cost_the_same(name, cost):
    config = jest_race.Config(updates=900, keep=8)
    method = jest_race.METHODS[name]
    for pairs in (0, 400):
        reference = pairs * (0 if "uniform" in name else 2 if "Flexi" in name else 10)
        expected = (900 * 30 * 8 - reference) // (cost * 8)
        assert jest_race.updates_of(config, method, (10, 2), pairs) == expected - expected % 3


def test_wrong_texts_are_those_of_others_and_never_curated():
    curated = np.arange(0, 100, 4)
    text, wrong = jest_race.shuffled_texts(np.random.default_rng(0), 100, curated, 0.5)
    assert (text[curated] == curated[:, None]).all() and not wrong[curated].any()
    assert np.bincount(text.reshape(-1)).tolist() == [VENDORS] * 100
    np.testing.assert_array_equal(wrong > 0, text != np.arange(100)[:, None])
    assert 0.75 * 0.4 < wrong.mean() < 0.75 * 0.6


@pytest.mark.parametrize("name", ["joint, 1/2", pytest.param("Flexi-JEST, 1/2", marks=pytest.mark.slow)])
def test_what_is_chosen_jointly_is_less_often_wrong(name, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(jest_race, "emoji_pairs", made_pairs)
    config = dataclasses.replace(
        jest_race.Config(),
        seeds=(0,),
        out=str(tmp_path / "out"),
        arms=(name,),
        updates=90,
        keep=8,
        chunks=4,
        curated=0.5,
        wrong=1.0,
        reference_updates=120,
        width=8,
        depth=1,
        dimensions=8,
    )
    records = jest_race.main(config)
    assert [r["step"] for r in records] == [30, 60, 90]
    assert records[-1]["metrics"]["wrong_pairs"] < 0.42  # of a half
