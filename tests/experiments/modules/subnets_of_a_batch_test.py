"""The masks of the arms and the data of the experiment on sub-nets."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.modules import subnets_of_a_batch as experiment
from experiments.modules.subnets_of_a_batch import Config


def test_the_random_half_has_the_size_of_the_sub_net_and_other_members():
    params = experiment.init_mlp(jax.random.key(0), (20, 10, 5))
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), (2, *p.shape)), params)
    chosen = experiment.agreeing(Config(), grads, params, jax.random.key(2))
    random = experiment.random_mask(Config(), grads, params, jax.random.key(2))
    for a, b in zip(jax.tree.leaves(chosen), jax.tree.leaves(random)):
        if a.size > 10:  # biases of 0 tie
            assert a.sum() == b.sum() == a.size // 2 and (a != b).any()


def test_without_a_key_nothing_is_dropped_and_with_one_the_mean_stays():
    params = experiment.init_mlp(jax.random.key(0), (6, 400, 3))
    x = jnp.ones((1, 6))
    clean = experiment.logits(params, x)
    np.testing.assert_allclose(experiment.logits(params, x, jax.random.key(0), 0.0), clean, rtol=1e-5)
    drawn = jax.vmap(lambda k: experiment.logits(params, x, k, 0.5))(jax.random.split(jax.random.key(1), 400))
    np.testing.assert_allclose(drawn.mean(0), clean, atol=0.25)
    assert np.std(drawn, axis=0).min() > 0.1


def test_known_digits_and_others_do_not_mix(monkeypatch):
    rng = np.random.default_rng(0)
    data = {"image": rng.integers(0, 255, (200, 28, 28)), "label": np.arange(200) % 10}
    data["image"][:, 0, :2] = data["label"][:, None]  # the label can be read off a corner
    data["image"][:, 1, :2] = data["label"][:, None]
    monkeypatch.setattr(experiment, "arrays", lambda name, split: data)
    known, few, test = experiment.make_data(Config(few=30), 3)
    for digits, offset in ((known, 0), (few, 5), (test, 5)):
        np.testing.assert_allclose(digits.x[:, 0] * 255, digits.y + offset, atol=1e-3)
    assert len(few.y) == 30 and len(test.y) == len(known.y) == 100


def test_more_steps_learn_more():
    rng = np.random.default_rng(0)
    y = jnp.asarray(np.arange(100) % 5)
    digits = experiment.Digits(jnp.eye(5, 196)[y] + 0.1 * jnp.asarray(rng.normal(size=(100, 196)), jnp.float32), y)
    config, params = Config(hidden=8), experiment.init_mlp(jax.random.key(0), (196, 8, 8, 5))
    optimizer = experiment.optax.chain(experiment.subnet_aggregate(2, 0.5), experiment.adam(config))
    losses = [experiment.tune(config, 2, optimizer, n, None, digits, digits, params, 0)["loss"] for n in (2, 60)]
    assert losses[1] < losses[0] - 0.1
