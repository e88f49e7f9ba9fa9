"""The splits, the reference model's checkpoint, the arms and the summary of the RHO-LOSS experiment."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import Arm, folders
from experiments.selection import reducible_loss
from experiments.selection.reducible_loss import Config, repeated, share, splits, summarize, train_reference
from tests.experiments.selection._digits28 import digits28

SMALL = Config(examples=900, holdout=300, test_examples=200, patch=7, width=16, depth=1, reference_steps=200)


def images(split):
    return [image.tobytes() for image in split["image"]]


def test_splits_do_not_overlap_and_hold_the_noise_asked_for():
    made = splits(dataclasses.replace(SMALL, noise=0.1), digits28(), 3)
    names = [images(made[name]) for name in ("train", "holdout", "test")]
    assert sum(map(len, names)) == len({image for name in names for image in name}) == 1400
    truth = dict(zip(images(digits28()["train"]), digits28()["train"]["label"]))
    for name in ("train", "holdout"):
        split = made[name]
        assert [truth[image] for image in images(split)] == split["clean"].tolist()
        assert (split["noisy"] != split["clean"]).sum() == round(0.1 * len(split["clean"]))
    again, other = (splits(SMALL, digits28(), seed)["train"] for seed in (3, 4))
    assert images(again) == names[0] and images(other)[:5] != names[0][:5]


def test_the_reference_is_the_checkpoint_with_the_lowest_loss_on_the_last_quarter():
    """Against a plain loop, on a least-squares fit to noise that is best early on."""
    config = Config(reference_steps=600, evaluate_every=50, keep=8)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 10)).astype(np.float32) * 10
    holdout = x, (x[:, 0] + 20 * rng.normal(size=16)).astype(np.float32)

    def losses(params, batch):
        return (batch[0] @ params - batch[1]) ** 2

    key = jax.random.key(1)
    best = train_reference(config, key, jnp.zeros(10), jax.tree.map(jnp.asarray, holdout), losses)
    params, mean, square, seen = np.zeros(10), np.zeros(10), np.zeros(10), []
    for checkpoint, checkpoint_key in enumerate(jax.random.split(key, 12)):
        for number, step_key in enumerate(jax.random.split(checkpoint_key, 50), 50 * checkpoint + 1):
            rows = np.asarray(jax.random.randint(step_key, (8,), 0, 12))
            slope = 2 * x[rows].T @ (x[rows] @ params - holdout[1][rows]) / 8
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            params = params - 1e-3 * mean / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
        seen.append((np.mean((x[12:] @ params - holdout[1][12:]) ** 2), params))
    lowest = min(range(12), key=lambda i: seen[i][0])
    np.testing.assert_allclose(best, seen[lowest][1], rtol=1e-3, atol=1e-4)
    assert lowest < 11


def test_summary():
    names = ("clean_accuracy", "noisy_accuracy", "clean_known", "noisy_known", "noisy_wrong")
    rows = ((0.5, 0.1, 0.0, 0.2, 1.0), (0.85, 0.2, 0.5, 0.2, 0.0), (0.7, 0.3, 1.0, 0.2, 0.5))
    records = [{"step": 10 * (i + 1), "metrics": dict(zip(names, row))} for i, row in enumerate(rows)]
    made = summarize(Config(), records)
    assert (made["clean_best"], made["clean_last"], made["clean_to_80%"], made["noisy_last"]) == (0.85, 0.7, 20, 0.3)
    assert math.isnan(made["noisy_to_75%"]) and (made["clean_known"], made["noisy_wrong"]) == (0.5, 0.5)


def test_shares_count_the_kept_rows_only():
    kept, wrong = jnp.array([True, True, False]), jnp.array([True, False, True])
    assert [int(n) for n in share(kept, wrong)] == [1, 2]


def test_repeated_steps_are_those_on_one_part_after_the_other():
    def step(state: Any, batch: Any):
        return 2 * state + jnp.sum(batch["x"]), {"rows": (jnp.sum(batch["x"]), 1)}

    start: Any = jnp.array(1.0)
    state, metrics = repeated(Arm(lambda key: start, step), 2, 3).step(start, {"x": jnp.arange(8.0)})
    np.testing.assert_array_equal(state, 2 * (2 * 1 + 3) + 12)
    assert [float(n) for n in metrics["rows"]] == [15, 2]


def test_reducible_loss_leaves_wrong_labels_out(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(reducible_loss, "fashion", digits28)
    monkeypatch.setattr(reducible_loss, "print_step_costs", lambda *args, **options: {})
    sizes = {"batch_size": 80, "keep": 16, "steps": 60, "evaluate_every": 20, "checkpoint_every": 60}
    arms = ("uniform", "top loss", "RHO-LOSS")
    config = dataclasses.replace(SMALL, **sizes, seeds=(0,), out=str(tmp_path / "out"), arms=arms, learning_rate=0.02)
    records = reducible_loss.main(config)
    made = {name: summarize(config, [r for r in records if r["arm"] == name]) for name in arms}
    assert made["uniform"]["noisy_wrong"] == pytest.approx(0.3, abs=0.05)
    assert made["RHO-LOSS"]["noisy_wrong"] < 0.2 < 0.5 < made["top loss"]["noisy_wrong"]
    assert all(r["metrics"]["clean_wrong"] == 0 for r in records)
    assert made["uniform"]["clean_last"] > 0.5
