"""Which emoji and styles are new, and what BatchFormer's experiments on them learn in little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.modules import _batch_former, _emoji_styles, batch_former_contrastive, batch_former_domains


def drawings(split):
    """Flat images whose color tells emoji, style and split apart, and a category."""
    number, first = {"train": (40, 0), "test": (10, 1000)}[split]
    color = (first + np.arange(number))[:, None] + np.arange(4) / 8
    images = np.broadcast_to(color[:, :, None, None, None], (number, 4, 2, 2, 3)).astype(np.float32)
    return images, (np.arange(number) % 9).astype(np.int32)


@pytest.mark.parametrize(("seed", "validate"), [(0, False), (1, False), (6, False), (7, False), (6, True)])
def test_each_seed_leaves_another_style_out_and_new_emoji_stay_new(monkeypatch, seed, validate):
    monkeypatch.setattr(_emoji_styles, "drawings", drawings)
    found = _emoji_styles.leave_one_style_out(seed, validate)
    other, seen = (0, [1, 3]) if validate else (seed % 4, [style for style in range(4) if style != seed % 4])
    known, new = (drawings(split)[0] for split in ("train", "test"))
    if validate:
        known, new = (known[rows] for rows in (np.arange(40) % 5 != 4, np.arange(40) % 5 == 4))
    mean, deviation = known[:, seen].mean(), known[:, seen].std()
    parts = {
        "train": known[:, seen],
        "new_style": known[:, [other]],
        "new_emoji": new[:, seen],
        "new_style_and_emoji": new[:, [other]],
    }
    for name, images in parts.items():
        np.testing.assert_allclose(found[name]["image"], (images - mean) / deviation, atol=1e-4)
        assert len(found[name]["label"]) == len(images)


def test_the_layer_alone_gives_an_example_no_gradient_of_another():
    layer = _batch_former.Layer(8, 2, 0.0)
    x = jax.random.normal(jax.random.key(0), (4, 8))

    def other(across):
        spec = layer._replace(across=across)
        params, streams = spec.start(jax.random.key(1))
        jacobian = jax.jacobian(lambda x: spec.doubled(params, streams, x)[0][4])(x)
        return float(jnp.max(jnp.abs(jacobian[:, 1:])))

    assert other(False) == 0 < other(True)
    params, _ = layer.start(jax.random.key(1))
    np.testing.assert_array_equal(layer.unchanged(params, x), x)


def test_contrast_is_the_cross_entropy_of_pairs():
    first, second = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in np.random.default_rng(0).normal(size=(2, 5, 3))
    )
    logits = first @ second.T / 0.2
    one, other = (np.mean(np.log(np.exp(z).sum(1)) - np.diag(z)) for z in (logits, logits.T))
    found = batch_former_contrastive.contrast(jnp.float32(first), jnp.float32(second), 0.2)
    assert float(found) == pytest.approx((one + other) / 2, rel=1e-4)


@pytest.mark.parametrize("experiment", [batch_former_domains, batch_former_contrastive])
def test_the_experiment_learns_more_than_chance(tmp_path, monkeypatch, experiment):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    rng = np.random.default_rng(0)
    colors = rng.normal(size=(9, 1, 1, 1, 3)).astype(np.float32)

    def part(number, styles):
        label = (np.arange(number) % 9).astype(np.int32)
        noise = rng.normal(size=(number, styles, 32, 32, 3)).astype(np.float32)
        return {"image": 2 * colors[label] + noise, "label": label}

    splits = {
        "train": part(36, 3),
        "new_style": part(36, 1),
        "new_emoji": part(9, 3),
        "new_style_and_emoji": part(9, 1),
    }
    monkeypatch.setattr(experiment, "leave_one_style_out", lambda *args, **options: splits)
    options = {"steps": 40, "evaluate_every": 40, "checkpoint_every": 40, "batch_size": 9, "width": 8, "patch": 16}
    config = experiment.Config(seeds=(0,), out=str(tmp_path), arms=("BatchFormer",), heads=2, **options)
    (record,) = experiment.main(config)
    name = {batch_former_domains: "new_style_accuracy", batch_former_contrastive: "same_emoji_recall"}[experiment]
    assert record["metrics"][name] > 0.4
