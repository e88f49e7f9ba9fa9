"""The mean colours of mini-batch plans against a loop over scipy, recolouring and metrics against plain counting."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize

from experiments.coupling import color_transfer as experiment

CONFIG = experiment.Config(k=2, m=3, rounds=4, mass=2 / 3)


def looped(name: str, x: np.ndarray, y: np.ndarray, key: jax.Array) -> np.ndarray:
    """Sums of partners and their numbers, pair of mini-batches by pair of mini-batches."""
    total, count = np.zeros_like(x), np.zeros(len(x))
    for round_key in jax.random.split(key, CONFIG.rounds):
        keys = jax.random.split(round_key)
        sides = [np.asarray(experiment.draw(k, len(x), CONFIG.k, CONFIG.m)) for k in keys]
        found = {}
        for u, i in enumerate(sides[0]):
            for v, j in enumerate(sides[1]):
                cost = ((x[i][:, None] - y[j][None]) ** 2).sum(-1)
                rows, columns = scipy.optimize.linear_sum_assignment(cost)
                found[u, v] = cost[rows, columns].mean(), i[rows], j[columns]
        straight = found[0, 0][0] + found[1, 1][0] < found[0, 1][0] + found[1, 0][0]
        kept = {"m-OT": list(found), "BoMb-OT": [(0, 0), (1, 1)] if straight else [(0, 1), (1, 0)]}[name]
        for pair in kept:
            np.add.at(total, found[pair][1], y[found[pair][2]])
            np.add.at(count, found[pair][1], 1)
    return np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], x)


@pytest.mark.parametrize("name", ["m-OT", "BoMb-OT"])
def test_new_colours_are_the_mean_partners(name):
    x, y = np.random.default_rng(0).uniform(size=(2, 9, 3)).astype(np.float32)
    found = jax.jit(experiment.methods(CONFIG)[name])(jax.random.key(1), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, looped(name, x, y, jax.random.key(1)), rtol=1e-5)


def test_all_colours_at_once_equal_scipy_and_pot():
    x, y = np.random.default_rng(2).uniform(size=(2, 12, 3)).astype(np.float32)
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    partner = y[scipy.optimize.linear_sum_assignment(cost)[1]]
    entropic = 12 * ot.sinkhorn(np.full(12, 1 / 12), np.full(12, 1 / 12), cost, 0.1 * cost.mean()) @ y
    methods, key = experiment.methods(experiment.Config(epsilon=0.1)), jax.random.key(0)
    inputs = key, jnp.asarray(x), jnp.asarray(y)
    np.testing.assert_allclose(jax.jit(methods["OT, all colours"])(*inputs), partner, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(methods["Sinkhorn, all colours"])(*inputs), entropic, rtol=1e-2)
    moved = methods["match mean and deviation"](*inputs)
    np.testing.assert_allclose(moved.std(0), y.std(0), rtol=1e-4)


def test_pixels_move_as_the_nearest_colours_do_and_stay_in_range(monkeypatch):
    monkeypatch.setattr(experiment, "NEIGHBORS", 1)
    image = np.array([[[0.1, 0.1, 0.1], [0.8, 0.8, 0.9]]], np.float32)
    colors = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32)
    shifts = np.array([[0.2, 0.0, -0.3], [0.0, 0.1, 0.5]], np.float32)
    np.testing.assert_allclose(experiment.recolor(image, colors, shifts), [[[0.3, 0.1, 0], [0.8, 0.9, 1]]], rtol=1e-6)


def test_metrics_of_a_shifted_and_of_a_shuffled_source(monkeypatch):
    monkeypatch.setattr(experiment, "PIXEL_STRIDE", 1)
    rng = np.random.default_rng(3)
    source = rng.uniform(0, 0.5, (6, 7, 3)).astype(np.float32)
    shifted = experiment.measure(source + np.float32(0.25), source, source)
    assert shifted["shift"] == pytest.approx(0.25 * 3**0.5, rel=1e-5)
    assert shifted["structure"] == pytest.approx(1, abs=1e-5) and shifted["color_spread"] == pytest.approx(1, rel=1e-4)
    assert shifted["color_distance"] == pytest.approx(0.25, rel=0.15)  # the mean of (direction . (1, 1, 1))^2 is 1
    shuffled = experiment.measure(rng.permutation(source.reshape(-1, 3)).reshape(source.shape), source, source)
    assert shuffled["color_distance"] == pytest.approx(0, abs=1e-6)
    assert shuffled["structure"] < 0.5 and shifted["roughness"] < 1e-5 < 1 < shuffled["roughness"]


def test_differences_are_those_of_all_neighbours():
    image = np.random.default_rng(4).normal(size=(3, 4, 3))
    down = [image[r + 1, c] - image[r, c] for r in range(2) for c in range(4)]
    right = [image[r, c + 1] - image[r, c] for r in range(3) for c in range(3)]
    np.testing.assert_allclose(experiment.differences(image), down + right)


def test_a_tiny_run_leaves_a_table_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "photograph", lambda name: np.full((4, 5, 3), 0.2 + 0.1 * len(name), np.float32))
    config = experiment.Config(
        seeds=(0,),
        out=str(tmp_path),
        direction="china to flower",
        arms=("unchanged", "BoMb-OT"),
        colors=8,
        k=2,
        m=2,
        rounds=2,
    )
    far, near = experiment.main(config)
    assert near["metrics"]["color_distance"] < far["metrics"]["color_distance"] / 2
    assert (tmp_path / "china_to_flower" / "results.png").exists()


def test_photographs_are_halved():
    assert experiment.photograph("china").shape == experiment.photograph("flower").shape == (213, 320, 3)
