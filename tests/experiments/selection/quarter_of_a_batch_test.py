import numpy as np

from experiments.selection import quarter_of_a_batch
from experiments.selection.quarter_of_a_batch import Config


def test_arms_keep_a_quarter_and_learn(tmp_path, monkeypatch):
    def squares(pool, validate):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 100).astype(np.int32)
        images = rng.normal(size=(100, 784)).astype(np.float32) + 2 * labels[:, None]
        return {"train": {"image": images, "label": labels}, "test": {"image": images, "label": labels}}

    monkeypatch.setattr(quarter_of_a_batch, "fashion", squares)
    records = quarter_of_a_batch.main(Config((0,), str(tmp_path), (), 50, 16, 50, 50, keep=4, width=4))
    found = {r["arm"]: r["metrics"] for r in records}
    assert found.pop("whole batch")["kept"] == 1
    assert found.pop("loss rank (Selective-Backprop)")["kept"] < 0.5
    assert found.pop("gradient norm, unbiased")["kept"] <= 0.25
    assert found.pop("matched gradient (GradMatch)")["kept"] <= 0.25
    assert {name: metrics["kept"] for name, metrics in found.items()} == {
        "random": 0.25,
        "largest losses": 0.25,
        "medoids (CRAIG)": 0.25,
    }
    assert found["random"]["test_accuracy"] > 0.9
    assert abs(found["random"]["effective"] - 4) < 1e-3 < abs(found["medoids (CRAIG)"]["effective"] - 4)
