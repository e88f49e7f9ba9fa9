"""Views, losses, probes and budgets of the self-supervision experiment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.engine import folders
from experiments.modules import _self_supervision_probes
from experiments.modules import small_batch_self_supervision as experiment
from minibatch_jax.modules import init_targets, update_targets

CONFIG = experiment.Config(dataset="digits", head=16, projection=4, batch_sizes=(16,), images_seen=320)


@pytest.fixture(scope="module")
def params():
    return experiment.initial_params(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def views():
    return jax.random.uniform(jax.random.key(1), (3, 6, 8, 8))


def numpy_loss(params, targets, views) -> float:
    """Both networks, cosines and the mean, written out."""

    def linear(layer, x):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    def head(state, x):
        state = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
        y = linear(state["expand"], x)
        y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * state["norm"]["scale"] + state["norm"]["bias"]
        return linear(state["contract"], np.maximum(y, 0))

    def convolve(x, layer):
        kernel, bias = (np.asarray(a) for a in layer)
        kernel, half = kernel.reshape(3, 3, x.shape[3], -1), range(x.shape[1] // 2)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for j in half] for i in half]
        return np.maximum(np.einsum("ijbhwc,hwco->bijo", windows, kernel) + bias, 0)

    def project(params, x):
        first, second = params["encoder"]
        return head(params["projector"], convolve(convolve(x[..., None], first), second).reshape(len(x), -1))

    def distance(prediction, target):
        cosines = np.sum(prediction * target, 1) / np.linalg.norm(prediction, axis=1) / np.linalg.norm(target, axis=1)
        return np.mean(2 - 2 * cosines)

    p = [head(params["predictor"], project(params, np.asarray(v))) for v in views]
    pairs = ((1, targets.first),) if len(views) == 2 else ((1, targets.first), (2, targets.second))
    return sum(
        (distance(p[0], project(net, np.asarray(views[i]))) + distance(p[i], project(net, np.asarray(views[0])))) / 2
        for i, net in pairs
    )


@pytest.mark.parametrize("number", [2, 3])
def test_loss_against_numpy(params, views, number):
    other = experiment.initial_params(CONFIG, jax.random.key(2))
    targets = init_targets(experiment.without_predictor(params))._replace(second=experiment.without_predictor(other))
    found = jax.jit(lambda: experiment.loss(params, targets, views[:number], CONFIG))()
    assert float(found) == pytest.approx(numpy_loss(params, targets, views[:number]), rel=1e-3)


def test_targets_differ_only_if_they_take_turns(params):
    online, start = experiment.initial_params(CONFIG, jax.random.key(3)), init_targets(params)
    for name, same in (("three views, one target, equal gradients", True), ("TriBYOL, equal gradients", False)):
        targets = update_targets(start, online, 0.9, alternate=experiment.METHODS[name].alternate)
        (first, *_), (second, *_) = jax.tree.leaves(targets.first), jax.tree.leaves(targets.second)
        assert bool(jnp.all(first == second)) == same


def test_equal_gradients_are_equal():
    evaluations = {name: method.views * method.steps for name, method in experiment.METHODS.items()}
    assert all(value == pytest.approx(2) for name, value in evaluations.items() if "equal steps" not in name)


def test_a_view_is_a_moved_image_with_a_square_missing():
    batch = np.zeros((200, 14, 14), np.float32)
    batch[:, 7, 6] = 100
    seen = np.asarray(jax.jit(experiment.view)(jax.random.key(0), batch))
    assert (np.sum(seen == 0, axis=(1, 2)) == 16).all()
    bright = np.argwhere(seen > 10)
    moves = bright[:, 1:] - [7, 6]
    assert set(map(tuple, moves)) == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}
    values = seen[tuple(bright.T)]
    assert 69 < values.min() < 75 and 125 < values.max() < 131
    assert len(bright) > 200 * 0.8
    quiet = seen[(seen != 0) & (seen < 10)]
    assert quiet.std() == pytest.approx(0.1, rel=0.05)


def test_few_labels_are_of_each_class():
    labels = np.repeat(np.arange(4), 25)
    some = _self_supervision_probes.few_of_each(labels, 0)
    assert (np.bincount(labels[some]) == _self_supervision_probes.LABELS_PER_CLASS).all() and len(set(some)) == len(
        some
    )


@pytest.mark.parametrize("side", [8, 7])
def test_patches_and_kernel_are_a_strided_convolution(side):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    kernel = jax.random.normal(jax.random.key(1), (27, 4))
    form = {"window_strides": (2, 2), "padding": ((1, 1), (1, 1)), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    expected = jax.lax.conv_general_dilated(x, kernel.reshape(3, 3, 3, 4), **form)
    np.testing.assert_allclose(experiment.patches(x) @ kernel, expected, atol=1e-4)


@pytest.mark.slow
def test_the_whole_experiment_in_little(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    arms = "BYOL", "TriBYOL, equal steps", "untrained encoder", "pixels"
    config = dataclasses.replace(CONFIG, seeds=(0,), out=str(tmp_path / "out"), num_images=500, arms=arms)
    found = {r["arm"]: r["metrics"] for r in experiment.main(config)}
    assert found["BYOL"]["gradient_evaluations"] == 640
    assert found["TriBYOL, equal steps"]["gradient_evaluations"] == 960
    assert found["BYOL"]["linear_probe"] != found["untrained encoder"]["linear_probe"]
    assert found["pixels"]["nearest_neighbours"] > 0.9
