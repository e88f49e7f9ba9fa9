"""The splits, the reference model's checkpoint and the summary of the RHO-LOSS experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection.reducible_loss import Config, noisy_splits, shares, summarize, train_reference


def images(split):
    return [image.tobytes() for image in split["image"]]


@pytest.mark.parametrize("validate", [False, True])
def test_splits_do_not_overlap_and_hold_the_noise_asked_for(validate):
    config = Config(validate=validate, holdout_noise=0.1)
    splits = noisy_splits(config, 3)
    train, holdout = splits["train"], splits["holdout"]
    names = [images(splits[name]) for name in ("train", "holdout", "test")]
    assert sum(map(len, names)) == len({image for name in names for image in name})
    for split, noise in ((train, 0.3), (holdout, 0.1)):
        assert split["wrong"].sum() == round(noise * len(split["label"]))
    assert 0.08 < train["rare"].mean() < 0.2
    assert 0.4 < holdout["rare"].mean() < 0.6


def test_wrong_and_rare_are_those_of_the_true_labels():
    from experiments.datasets import arrays

    original = arrays("digits", "train")
    truth = dict(zip(images(original), original["label"]))
    for split in (noisy_splits(Config(), 0)[name] for name in ("train", "holdout")):
        true = np.array([truth[image] for image in images(split)])
        np.testing.assert_array_equal(split["wrong"], true != split["label"])
        np.testing.assert_array_equal(split["rare"], true >= 5)


def test_splits_depend_on_the_seed_alone():
    first, again, other = (noisy_splits(Config(), seed)["train"] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert images(first)[:5] != images(other)[:5]


def test_the_reference_is_the_checkpoint_with_the_lowest_loss_on_the_last_quarter():
    """Against a plain loop, on a least-squares fit to noise that is best early on."""
    config = Config(steps=60, evaluate_every=5, keep=8, reference_learning_rate=0.1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 10)).astype(np.float32)
    holdout = {"x": x, "label": (x[:, 0] + 2 * rng.normal(size=16)).astype(np.float32)}

    def losses(params, batch):
        return (batch["x"] @ params - batch["label"]) ** 2

    key = jax.random.key(1)
    best = train_reference(config, key, jnp.zeros(10), jax.tree.map(jnp.asarray, holdout), losses)
    params, seen = np.zeros(10), []
    for checkpoint_key in jax.random.split(key, 12):
        for step_key in jax.random.split(checkpoint_key, 5):
            rows = np.asarray(jax.random.randint(step_key, (8,), 0, 12))
            residual = x[rows] @ params - holdout["label"][rows]
            params = params - 0.1 * 2 * x[rows].T @ residual / 8
        seen.append((np.mean((x[12:] @ params - holdout["label"][12:]) ** 2), params))
    lowest = min(range(12), key=lambda i: seen[i][0])
    assert 0 < lowest < 11
    np.testing.assert_allclose(best, seen[lowest][1], rtol=1e-4, atol=1e-5)


def test_summary():
    metrics = [{"test_accuracy": a, "known_share": s} for a, s in ((0.5, 0.0), (0.85, 0.5), (0.7, 1.0))]
    records = [{"step": 10 * (i + 1), "metrics": m} for i, m in enumerate(metrics)]
    expected = {"to 80%": 20, "to 90%": 77, "best": 0.85, "last": 0.7, "known": 0.5}
    assert summarize(Config(steps=77), records) == expected


def test_shares_count_the_kept_rows_only():
    kept, wrong = jnp.array([True, True, False]), jnp.array([True, False, True])
    assert [int(n) for n in shares(kept, wrong=wrong)["wrong_share"]] == [1, 2]
