"""The wrong labels, the alignments of the last layer and the weights of the experiment with a trusted direction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import trusted_direction as experiment
from experiments.selection.trusted_direction import Config
from minibatch_jax.selection import reweigh_by_alignment

SMALL = Config(examples=300, trusted=40, steps=40, batch_size=32, hidden=16)


def pixels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    images = np.eye(10, 12, dtype=np.float32)[labels] + 0.3 * rng.normal(size=(500, 12)).astype(np.float32)
    return {"train": {"image": images, "label": labels}, "test": {"image": images[400:], "label": labels[400:]}}


@pytest.mark.parametrize("kind", experiment.NOISES)
def test_as_many_labels_are_wrong_as_asked_for_and_none_of_the_trusted(kind):
    problem = experiment.make_problem(SMALL, pixels(), kind, 0)
    wrong = np.asarray(problem.train["y"] != problem.right)
    assert wrong.sum() == 120
    if kind == "next":
        np.testing.assert_array_equal(problem.train["y"][wrong], (problem.right[wrong] + 1) % 10)
    truth = {x.tobytes(): y for x, y in zip(pixels()["train"]["image"], pixels()["train"]["label"])}
    for rows, labels in ((problem.train, problem.right), (problem.trusted, problem.trusted["y"])):
        assert [truth[x.tobytes()] for x in np.asarray(rows["x"])] == labels.tolist()


def test_the_last_layer_is_that_of_the_whole_with_a_direction_of_zeros_elsewhere():
    problem = experiment.make_problem(SMALL, pixels(), "any", 0)
    params = experiment.init_mlp(jax.random.key(0), (12, 16, 10))
    batch = jax.tree.map(lambda x: x[:20], problem.train)
    found = experiment.last_layer(params, batch, problem.trusted)
    direction = jax.grad(lambda p: jnp.mean(experiment.losses(p, problem.trusted)))(params)
    direction = [*jax.tree.map(jnp.zeros_like, direction[:-1]), direction[-1]]
    expected = experiment.alignment(experiment.losses, params, batch, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_wrong_labels_lose_weight():
    problem = experiment.make_problem(dataclasses.replace(SMALL, noise=0.5), pixels(), "next", 0)
    found = experiment.train(SMALL, reweigh_by_alignment(), experiment.whole, 40, problem, jax.random.key(0))
    assert found["wrong"] < 0.35
