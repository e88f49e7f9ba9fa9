"""The rows of the experiment on hard batches, its summary, and a short run of two arms."""

import math

import numpy as np
import pytest

from experiments.engine import folders
from experiments.selection import hard_batches
from experiments.selection.hard_batches import SHUFFLED, Config, distinct, splits, summarize
from tests.experiments.selection._digits28 import digits28


def test_labels_are_wrong_where_it_says_so_and_rows_are_those_of_the_seed():
    config = Config(examples=100, test_examples=50)
    clean, noisy = (splits(config, digits28(), noise, seed=1)[0] for noise in (0.0, 0.2))
    assert int(clean["wrong"].sum()) == 0 and int(noisy["wrong"].sum()) == 20
    np.testing.assert_array_equal(clean["image"], noisy["image"])
    np.testing.assert_array_equal(clean["label"] != noisy["label"], noisy["wrong"])
    assert clean["image"].shape == (100, 28, 28, 1)
    images = {image.tobytes() for image in np.asarray(clean["image"])}
    assert len(images) == 100 and images <= {image.tobytes() for image in digits28()["train"]["image"]}


def test_padding_is_no_row_that_was_drawn():
    assert distinct(np.array([[0, 1], [2, -1], [0, 1]]), examples=6) == 0.5


def test_summary_takes_the_first_evaluation_at_the_target():
    curve = [(0.7, 0.5, 0.2), (0.8, 0.6, 0.4), (0.78, 0.7, 0.6), (0.79, 0.74, 1.0)]
    records = [
        {
            "step": 10 * number,
            "metrics": {"clean_accuracy": a, "noisy_accuracy": b, "clean_distinct": c, "noisy_distinct": c}
            | {"wrong_share": b},
        }
        for number, (a, b, c) in enumerate(curve, 1)
    ]
    made = summarize(Config(), records)
    assert (made["clean_accuracy"], made["clean_to_75%"], made["clean_to_80%"]) == (0.79, 20, 20)
    assert math.isnan(made["noisy_to_75%"])
    assert (made["clean_distinct"], made["wrong_share"]) == pytest.approx((0.8, 0.72))


def test_a_fifth_of_the_batches_is_visited_again_after_the_first_round(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(hard_batches, "fashion", digits28)
    settings = {"examples": 640, "test_examples": 200, "batch_size": 64, "steps": 30, "evaluate_every": 10}
    network = {"patch": 7, "width": 16, "depth": 1, "learning_rate": 0.02, "fractions": (0.2,), "seeds": (0,)}
    records = hard_batches.main(Config(out=str(tmp_path / "out"), **settings, **network))
    of_arm = {name: [r["metrics"] for r in records if r["arm"] == name] for name in (SHUFFLED, "hardest 20%")}
    assert [m["clean_distinct"] for m in of_arm[SHUFFLED]] == [1, 1, 1]
    first, _, last = of_arm["hardest 20%"]  # a round of ten batches, then rounds of two
    assert first["noisy_distinct"] == 1 > last["noisy_distinct"]
    assert all(m["wrong_share"] == pytest.approx(0.2) for m in of_arm[SHUFFLED])
    assert all(m[-1]["clean_accuracy"] > 0.4 for m in of_arm.values())
