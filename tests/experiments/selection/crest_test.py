"""Coresets of the experiment against the library's one transformation; the summary and the batches; a short run."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.datasets import arrays
from experiments.engine import folders, init_mlp, mlp
from experiments.selection import _crest_arms, crest
from experiments.selection._crest_arms import Problem
from minibatch_jax import value_and_grad
from minibatch_jax.mining.class_batches import index_classes
from minibatch_jax.sampling.coresets import random_coreset
from minibatch_jax.selection import keep_class_medoids
from minibatch_jax.selection.crest import LearnedState
from tests.experiments.selection._digits28 import digits28

ERROR_WITHOUT = "error_ratio_without_weights"


def digits():
    def split(name):
        data = arrays("digits", name)
        return {"input": jnp.asarray(data["image"].reshape(-1, 64) / 8 - 1, jnp.float32), "label": data["label"]}

    return jax.tree.map(jnp.asarray, {"train": split("train"), "test": split("test")})


def params_of(seed):
    return init_mlp(jax.random.key(seed), (64, 8, 10))


PROBLEM = Problem(digits, mlp, params_of, 10, 2, 6, 2, 4.0, (3e-3, 3e-3))


def test_a_coreset_is_that_of_the_transformation():
    train, params, items = digits()["train"], params_of(0), _crest_arms.items_of(mlp)
    examples, learned = index_classes(train["label"], 10), LearnedState(jnp.zeros(len(train["label"]), jnp.int32))

    @jax.jit
    def choose(key):
        made = random_coreset(items, key, params, train, examples, learned, **PROBLEM.sizes)
        batch = jax.tree.map(lambda x: x[made.subset], train)
        select = value_and_grad(items, keep_class_medoids(20, 10), has_aux=True)
        aux = select(params, batch, optax.EmptyState(), weights=jnp.ones(60), labels=batch["label"])[0][1]
        return made, aux.weights, items(params, batch)[1]["features"]

    made, wanted, features = jax.device_get(choose(jax.random.key(1)))
    found = np.zeros(60)
    for row, weight in zip(*made.rows):
        found[np.flatnonzero(made.subset == row)[0]] += 60 * weight
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    distances[train["label"][made.subset][:, None] != train["label"][made.subset][None]] = np.inf

    def to_medoids(medoids):  # of two examples alone in a cluster either may be the medoid
        return np.where(medoids[:, None] > 0, distances, np.inf).min(0).reshape(10, -1).sum(1)

    np.testing.assert_allclose(to_medoids(found), to_medoids(wanted), rtol=1e-4)
    assert (found.reshape(10, -1) > 0).sum(1).tolist() == [2] * 10
    np.testing.assert_allclose(found.reshape(10, -1).sum(1), 6, rtol=1e-5)


def test_fresh_coresets_are_new_after_every_step_and_have_no_model():
    train, params, sampler = digits()["train"], params_of(0), _crest_arms.sampler_of(PROBLEM, "fresh")
    state = sampler.init(0, labels=train["label"], params=params)
    step = jax.jit(lambda state: sampler.update(state, sampler.sample(state)[0], params=params, data=train))
    first = step(state)
    second = step(first)
    for state in (first, second):
        assert int(state.filled) == 1
        np.testing.assert_allclose(state.coresets.weights[0].sum(), 1, rtol=1e-5)
    assert first.coresets.indices[0].tolist() != second.coresets.indices[0].tolist()
    assert int(second.costs.coresets) == 2 and int(second.costs.selections) == 0


def test_where_every_row_is_a_medoid_a_coreset_is_a_random_batch():
    """Stratified by class, so that its error is a little below that of a random batch of the same size."""
    problem, train = PROBLEM._replace(medoids=8, subset=8), digits()["train"]
    made = [_crest_arms.error_ratios(problem, jax.random.key(k), params_of(0), train) for k in range(20)]
    ratio, without_weights = (np.array([m[name] for m in made]) for name in ("error_ratio", ERROR_WITHOUT))
    np.testing.assert_allclose(ratio, without_weights, rtol=1e-4)
    assert 0.4 < np.exp(np.log(ratio).mean()) < 1.2


def test_what_is_learned_late_or_never_is_difficult():
    train = digits()["train"]
    wrong = np.arange(len(train["label"])) % 10 == 0
    labels = jnp.where(wrong, (train["label"] + 1) % 10, train["label"])
    problem = PROBLEM._replace(data=lambda: {"train": train | {"label": labels}}, medoids=6)
    hard = _crest_arms.difficulty(problem, 400)
    assert hard.min() == 0 and hard.max() <= 1
    assert hard[wrong].mean() > 0.7 > 0.5 > hard[~wrong].mean()


def test_batches_are_permutations():
    rows = _crest_arms.random_rows(num_examples=10, batch_size=3, steps=7, seed=0)
    assert rows.shape == (7, 3)
    for epoch in (rows[:3], rows[3:6]):
        assert len(set(epoch.reshape(-1).tolist())) == 9
    assert rows[:3].tolist() != rows[3:6].tolist()


def test_summary_takes_the_first_evaluation_at_the_target():
    curve = [(0.5, 1.0, 0.2, 0.1), (0.86, 2.0, 0.4, 0.3), (0.84, 3.0, 0.6, 0.5), (0.84, 4.0, 0.8, 0.9)]
    records = [
        {"metrics": {"test_accuracy": a, "cpu_seconds": s, "error_ratio": e, "difficulty": d}} for a, s, e, d in curve
    ]
    made = _crest_arms.summarize((0.85, 0.9), records)
    assert (made["test_accuracy"], made["seconds_to_85%"], made["cpu_seconds"]) == (0.84, 2.0, 4.0)
    assert math.isnan(made["seconds_to_90%"]) and made["error_ratio"] == pytest.approx(0.5)
    assert [made[f"difficulty_{quarter}"] for quarter in (1, 2, 3, 4)] == [0.1, 0.3, 0.5, 0.9]


def test_arms_get_their_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(crest, "fashion", digits28)
    arms, network = ("random 10%", "CREST 10%"), {"patch": 7, "width": 16, "depth": 1}
    config = crest.Config(seeds=(0,), out=str(tmp_path / "out"), steps=160, tenth=80, evaluations=4, arms=arms)
    config = dataclasses.replace(config, examples=1000, test_examples=300, subset=8, medoids=3, **network)
    records = crest.main(dataclasses.replace(config, random_rate=0.02, coreset_rate=0.02))
    of_arm = {name: [r for r in records if r["arm"] == name] for name in arms}
    for made in of_arm.values():
        assert [r["step"] for r in made] == [12.5, 25, 37.5, 50]
        assert made[-1]["metrics"]["test_accuracy"] > 0.5
    assert of_arm["CREST 10%"][-1]["metrics"]["selections"] > 0
