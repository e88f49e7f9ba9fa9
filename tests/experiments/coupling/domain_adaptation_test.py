"""Data, batches, couplings and metrics of the experiment against plain counting, NumPy and scipy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from experiments.coupling import domain_adaptation as experiment
from experiments.engine import State
from experiments.shared import step_costs
from minibatch_jax import weight_transformation, weights_of

SIZES = {"SOURCE_PER_CLASS": 12, "NUM_SOURCE": 120, "TEST_PER_CLASS": 3, "VALIDATION_PER_CLASS": 2}


@pytest.fixture
def small(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (400, 28, 28, 1)).astype(np.uint8)
    sets = {
        ("mnist_5k", "train"): {"image": image, "label": np.arange(400) % 10},
        ("digits", "train"): {"image": image[:120, :8, :8] // 16, "label": np.arange(120) % 10},
        ("digits", "test"): {"image": image[120:150, :8, :8] // 16, "label": np.arange(30) % 10},
    }
    monkeypatch.setattr(experiment, "arrays", lambda name, split: sets[name, split])
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    for name, value in SIZES.items():
        monkeypatch.setattr(experiment, name, value)


def _rows(images):
    return {x.tobytes() for x in images}


@pytest.mark.parametrize("task", experiment.TASKS)
def test_no_image_is_in_two_parts_and_the_test_images_are_fixed(small, task):
    data, tuning, other = (experiment.make_data(task, *args) for args in ((False, 0), (True, 0), (False, 1)))
    image, label = data["train"]["image"], data["train"]["label"]
    source, target = image[:120], image[120:]
    np.testing.assert_array_equal(label[:120], np.repeat(np.arange(10), 12))
    assert len(_rows(source) | _rows(target) | _rows(data["test"]["image"])) == len(image) + 30
    np.testing.assert_array_equal(data["test"]["image"], other["test"]["image"])
    assert not _rows(tuning["test"]["image"]) & _rows(tuning["train"]["image"][120:])
    assert np.bincount(data["test"]["label"]).tolist() == [3] * 10
    assert np.bincount(tuning["test"]["label"]).tolist() == [2] * 10
    counts = np.bincount(label[120:], minlength=10)
    np.testing.assert_allclose(data["frequency"], counts / counts.sum())
    assert (counts[5:].max() < 0.2 * counts[:5].min()) == (task in experiment.KEPT_SHARE)
    assert (counts[5:].max() == 0) == (task == "absent")


def test_batches_have_equal_classes_in_each_mini_batch_and_resume(small):
    batches = experiment.MiniBatches(200, 80, 0, mini_batches=2)
    next(batches)
    state = batches.get_state()
    index = next(batches)["index"]
    source, target = index[:40].reshape(2, 20), index[40:]
    for mini_batch in source:
        assert np.bincount(mini_batch // 12).tolist() == [2] * 10
    assert len(set(index)) == 80 and target.min() >= 120 and target.max() < 200
    other = experiment.MiniBatches(200, 80, 5, mini_batches=2)
    other.set_state(state)
    np.testing.assert_array_equal(next(other)["index"], index)
    with pytest.raises(ValueError, match="batch_size"):
        experiment.MiniBatches(200, 70, 0, mini_batches=2)


def test_only_the_pairs_are_coupled_and_within_mini_batches():
    """Weights of the pairs against scipy, mini-batch by mini-batch; the losses of the source keep theirs."""
    cost = np.random.default_rng(1).uniform(size=(12, 12)).astype(np.float32)
    items = {"source": jnp.zeros((12, 1)), "pairs": jnp.asarray(cost)}
    weights = jax.tree.map(lambda x: jnp.full(x.shape, 1 / x.size), items)
    methods = experiment.methods(experiment.Config(mini_batches=3))
    names = "m-OT", "m-POT, s = 0.6", "BoMb-OT"
    run = {n: weights_of(experiment.only_pairs(methods[n]), weights, cost=items) for n in names}
    expected = np.zeros_like(cost)
    for i in range(3):
        block = np.s_[4 * i : 4 * i + 4], np.s_[4 * i : 4 * i + 4]
        expected[block][scipy.optimize.linear_sum_assignment(cost[block])] = 1 / 12
    np.testing.assert_allclose(run["m-OT"]["pairs"], expected, atol=1e-6)
    np.testing.assert_allclose(run["m-OT"]["source"], 1 / 12, rtol=1e-6)
    assert float(jnp.sum(run["m-POT, s = 0.6"]["pairs"])) == pytest.approx(0.6, rel=1e-5)
    within = np.kron(np.eye(3), np.ones((4, 4))) > 0
    for name, plan in run.items():
        assert (np.asarray(plan["pairs"])[~within] > 0).any() == (name == "BoMb-OT"), name


def test_the_loss_is_that_of_the_coupled_pairs():
    """A coupling of item i with item i of the same mini-batch, written out pair by pair."""
    config = experiment.Config(batch_size=8, mini_batches=2, feature_weight=0.3, label_weight=0.7)
    params = experiment.init_mlp(jax.random.key(0), (64, 128, 64, 10))
    image = np.random.default_rng(2).uniform(size=(8, 64)).astype(np.float32)
    label = np.array([1, 2, 3, 4, 1, 2, 9, 9])

    identity = weight_transformation(lambda w: optax.EmptyState(), lambda w, s, p=None, **_: (jnp.eye(4) / 4, s))

    batch = {"image": jnp.asarray(image), "label": jnp.asarray(label)}
    loss, grads, metrics = experiment.coupled_gradient(params, batch, config, identity)
    features, logits = (np.asarray(x) for x in experiment.predict(params, image))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean([log_p[i, label[i]] for i in range(4)])
    for i in range(4):
        distance = ((features[i] - features[4 + i]) ** 2).sum()
        expected += (0.3 * distance - 0.7 * log_p[4 + i, label[i]]) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert [float(x) for x in metrics["wrong_share"]] == pytest.approx([0.5, 1])

    def written_out(params):
        features, logits = experiment.predict(params, image)
        log_p = jax.nn.log_softmax(logits)
        distances = jnp.sum((features[:4] - features[4:]) ** 2, axis=1)
        of_target = log_p[jnp.arange(4, 8), label[:4]]
        return -jnp.mean(log_p[jnp.arange(4), label[:4]]) + jnp.mean(0.3 * distances - 0.7 * of_target)

    for ours, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(jax.grad(written_out)(params))):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_accuracies_weigh_classes(monkeypatch):
    label = np.repeat(np.arange(10), 2)
    guess = np.where(np.arange(20) == 3, 7, label)  # one of the two items of class 1 is wrong
    monkeypatch.setattr(experiment, "predict", lambda params, image: (None, jax.nn.one_hot(image, 10)))
    data = {
        "test": {"image": jnp.asarray(guess), "label": jnp.asarray(label)},
        "frequency": jnp.array([0.5, 0.5] + [0.0] * 8),
    }
    found = experiment.evaluate.__wrapped__(State((), ()), data)
    assert float(found["target_accuracy"]) == pytest.approx(0.75)
    assert float(found["balanced_accuracy"]) == pytest.approx(0.95)


def test_images_are_averaged_by_area_and_turned(small, monkeypatch):
    image = np.random.default_rng(3).uniform(size=(5, 28, 28)).astype(np.float32)
    by_three = image[:, 2:26, 2:26].reshape(5, 8, 3, 8, 3).mean((2, 4)).reshape(5, -1)
    np.testing.assert_allclose(experiment.shrink(image, 24), by_three, rtol=1e-5)
    fine = np.kron(image[:, 4:24, 4:24], np.ones((1, 2, 2))).reshape(5, 8, 5, 8, 5).mean((2, 4)).reshape(5, -1)
    np.testing.assert_allclose(experiment.shrink(image, 20), fine, rtol=1e-5)
    monkeypatch.setattr(experiment, "ANGLE", 90)
    (_, _), (target, label) = experiment.domains("rotated")
    all_images = experiment.arrays("mnist_5k", "train")["image"][..., 0] / 255
    turned = experiment.shrink(np.rot90(all_images, -1, axes=(2, 1)).astype(np.float32), 24)
    found = [int(np.abs(turned - x[None]).sum(1).argmin()) for x in target[:20]]
    np.testing.assert_allclose(target[:20], turned[found], atol=1e-4)
    np.testing.assert_array_equal(np.array(found) % 10, label[:20])


def test_a_tiny_run_leaves_a_table_and_pictures(tmp_path, small):
    config = experiment.Config(seeds=(0,), out=str(tmp_path), task="rotated", arms=("source only", "m-OT"))
    config = dataclasses.replace(
        config, steps=20, evaluate_every=20, checkpoint_every=20, batch_size=40, mini_batches=2
    )
    assert [r["arm"] for r in experiment.main(config)] == ["source only", "m-OT"]
    for name in ("domains.png", "table.md", "costs.md"):
        assert (tmp_path / "rotated" / name).exists()
