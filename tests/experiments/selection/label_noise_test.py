"""The label noise experiments do what they say, in few steps."""

import dataclasses

import pytest

from experiments import quickstart
from experiments.engine import folders
from experiments.selection import label_noise


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])


@pytest.mark.slow
def test_arms_keep_what_their_names_say(tmp_path):
    config = label_noise.Config(
        seeds=(0,), out=str(tmp_path / "out"), steps=300, warmup_steps=20, evaluate_every=20, checkpoint_every=300
    )
    records = label_noise.main(config)

    def metrics(arm, at):
        return records_of[arm][at]["metrics"]

    records_of = {arm: [r for r in records if r["arm"] == arm] for arm in label_noise.LEARNING_RATES["digits"]}
    assert all(len(run) == 15 for run in records_of.values())
    for arm in records_of.keys() - {"oracle"}:
        assert metrics(arm, 0)["kept"] == 1, f"{arm} selects during the warm-up"
        assert metrics(arm, 0)["clean_share_of_kept"] == pytest.approx(0.6, abs=0.05)
    for at in (0, 14):
        assert metrics("oracle", at)["clean_share_of_kept"] == 1
        assert metrics("oracle", at)["kept"] == pytest.approx(0.6, abs=0.05)
        assert metrics("all samples", at)["kept"] == 1
    assert metrics("fixed k", 1)["kept"] == 19 / 32
    assert metrics("Adaptive-k", 14)["clean_share_of_kept"] > 0.9
    assert metrics("oracle", 14)["test_accuracy"] > metrics("all samples", 14)["test_accuracy"]


@pytest.mark.slow
def test_the_quickstart_shows_its_claim(tmp_path):
    records = quickstart.main(dataclasses.replace(quickstart.Config(), out=str(tmp_path / "out")))
    last = {(r["arm"], r["seed"]): r["metrics"]["test_accuracy"] for r in records if r["step"] == 1500}
    assert all(last["Adaptive-k", seed] > last["all samples", seed] for seed in (0, 1, 2))
