"""The labeled rows of the experiment on pseudo-labels, the weights of its items, and a short run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import folders, init_mlp, mlp
from experiments.modules import _pseudo_label_batches, pseudo_labels
from experiments.modules._pseudo_label_batches import Method, splits
from experiments.modules.pseudo_labels import Config
from minibatch_jax import value_and_grad


def images(*_):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(10, dtype=np.int64), 40)
    image = rng.normal(size=(400, 196)).astype(np.float32) + 9 * np.eye(196, dtype=np.float32)[label]
    return {"train": {"image": image, "label": label}, "test": {"image": image[::4], "label": label[::4]}}


def test_each_class_has_as_many_labels_and_more_labels_are_added_to_fewer():
    few, many = (splits(images(), count, 300, 50, seed=1)[0] for count in (10, 40))
    assert np.bincount(few["label"][few["labeled"]], minlength=10).tolist() == [1] * 10
    assert np.bincount(many["label"][many["labeled"]], minlength=10).tolist() == [4] * 10
    assert np.all(many["labeled"][few["labeled"]])


def test_one_gradient_is_that_of_soft_cross_entropy_and_both_terms():
    method, params = Method(balance=True), init_mlp(jax.random.key(0), (5, 10))
    x, y = jax.random.normal(jax.random.key(1), (6, 5)), jax.random.dirichlet(jax.random.key(2), jnp.ones(10), (6,))
    rows = jnp.full(6, 1 / 6)
    fn = value_and_grad(lambda p, batch: _pseudo_label_batches.items(method, p, batch), optax.identity())
    mixed = _pseudo_label_batches.mix(method, jax.random.key(3), x, y, rows)
    weights = _pseudo_label_batches.weights_of_items(method, mixed, rows)
    _, grads, _ = jax.jit(fn)(params, {"image": x, "weight": rows}, optax.EmptyState(), weights=weights)

    def objective(params):
        p = jax.nn.softmax(mlp(params, x))
        balance, entropy = -jnp.mean(jnp.log(jnp.mean(p, axis=0))), -jnp.sum(p * jnp.log(p)) / 6
        return optax.softmax_cross_entropy(mlp(params, x), y).mean() + 0.8 * balance + 0.4 * entropy

    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(jax.jit(jax.grad(objective))(params))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_pseudo_labels_are_published_after_the_warmup_and_the_classes_are_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(pseudo_labels, "draw_panels", lambda *args, **options: None)
    monkeypatch.setattr(pseudo_labels, "fashion", images)
    sizes: Any = {"examples": 400, "test_examples": 100, "batch_size": 40, "hidden": 16}
    steps: Any = {"warmup": 20, "steps": 60, "evaluate_every": 20, "long_steps": 0}
    config = Config(seeds=(0,), out=str(tmp_path), arms=("+ quota 16",), tasks=("mnist 40",), **sizes, **steps)
    made = {r["step"]: r["metrics"] for r in pseudo_labels.main(config)["mnist 40"]}
    assert list(made) == [40, 60] and made[60]["test_error"] < 0.3
    assert made[60]["pseudo_label_error"] != made[40]["pseudo_label_error"]
