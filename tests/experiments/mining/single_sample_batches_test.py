"""Losses of isolated examples, metrics and data of the single-sample experiment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from experiments.engine import folders, init_mlp
from experiments.mining import _single_samples as single_samples
from experiments.mining import single_sample_batches as experiment


@pytest.fixture
def params():
    return init_mlp(jax.random.key(0), (6, 32, 4))


@pytest.fixture
def rows():
    query, document = np.random.default_rng(1).normal(size=(2, 8, 6)).astype(np.float32)
    return {"query": query, "document": document}


def gradient(loss, params, items, size, setting):
    mean = functools.partial(single_samples.mean_loss, loss=loss, setting=setting)
    return jax.jit(jax.grad(mean))(params, single_samples.in_groups(items, size))


def numpy_cosines(params, first, second):
    def embed(x):
        (k0, b0), (k1, b1) = [(np.asarray(k), np.asarray(b)) for k, b in params]
        y = np.maximum(np.asarray(x) @ k0 + b0, 0) @ k1 + b1
        return y / np.linalg.norm(y, axis=1, keepdims=True)

    return embed(first) @ embed(second).T


def test_single_pairs_accumulate_to_the_gradient_of_the_batch(params, rows):
    items = single_samples.isolated_pairs(jax.random.key(2), rows, 0.5)
    single, batch = (gradient(single_samples.orthogonal, params, items, size, 0.5) for size in (1, 8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), single, batch)


def test_info_nce_of_one_has_no_gradient_and_does_not_accumulate_to_that_of_the_batch(params, rows):
    single, batch = (gradient(single_samples.info_nce, params, rows, size, 0.1) for size in (1, 8))
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(single))
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(batch)) > 1e-3


def test_losses_against_numpy(params, rows):
    cosines = numpy_cosines(params, rows["query"], rows["document"])
    logits = cosines / 0.1
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert float(jax.jit(single_samples.info_nce)(params, rows, 0.1)) == pytest.approx(expected, rel=1e-4)
    items = single_samples.with_a_negative(jax.random.key(0), rows, 0.1)
    assert len(items["query"]) == 5
    gap = np.array([cosines[i, (i + 1) % 8] - cosines[i, i] for i in range(5)]) / 0.1
    assert float(jax.jit(single_samples.info_nce_of_sampled)(params, items, 0.1)) == pytest.approx(
        np.log1p(np.exp(gap)).mean(), rel=1e-4
    )
    items = single_samples.isolated_pairs(jax.random.key(2), rows, 0.5)
    y = np.asarray(items["positive"])
    assert 0 < y.sum() < 8
    values = [(cosines[i, i] - 1) ** 2 if y[i] else cosines[i, (i + 1) % 8] ** 2 for i in range(8)]
    assert float(jax.jit(single_samples.orthogonal)(params, items, 0.5)) == pytest.approx(np.mean(values), rel=1e-4)


def test_the_share_of_negatives_is_as_asked():
    rows = {name: jnp.arange(1000.0)[:, None] for name in ("query", "document")}
    items = single_samples.isolated_pairs(jax.random.key(0), rows, 0.75)
    own = np.asarray(items["query"] == items["document"])[:, 0]
    np.testing.assert_array_equal(own, items["positive"])
    assert own.mean() == pytest.approx(0.25, abs=0.04)


def test_retrieval_scores_against_scikit_learn():
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(400, 5)).astype(np.float32)
    documents = (queries + rng.normal(size=(400, 5))).astype(np.float32)
    found = single_samples.retrieval(jnp.asarray(queries), jnp.asarray(documents))
    scores = queries @ documents.T
    assert float(found["ndcg_at_10"]) == pytest.approx(ndcg_score(np.eye(400), scores, k=10), rel=1e-5)
    assert float(found["recall_at_1"]) == pytest.approx(np.mean(scores.argmax(1) == np.arange(400)))
    assert float(found["cosine_of_others"]) == pytest.approx(scores[~np.eye(400, dtype=bool)].mean(), rel=1e-4)


def test_a_step_for_each_pair_takes_as_many_steps(rows):
    config = experiment.Config(batch_size=8, hidden=5, dimensions=4)
    method = single_samples.Method(single_samples.isolated_pairs, single_samples.orthogonal, 1, step_for_each=True)
    one = single_samples.arm(config, 6, single_samples.Tuned(1e-2, 0.5), method)
    state, metrics = jax.jit(one.step)(one.init(jax.random.key(0)), rows)
    assert int(state.opt_state[0].count) == 8 and float(metrics["gradient_norm"]) > 0


@pytest.mark.parametrize("validate", [False, True])
def test_documents_are_other_drawings_of_the_same_emoji(validate, monkeypatch):
    rng = np.random.default_rng(0)
    drawings = {
        name: 5 + 3 * (rng.normal(size=(n, 1, 12)) + 0.3 * rng.normal(size=(n, 4, 12)))
        for name, n in (("train", 1482), ("test", 370))
    }
    monkeypatch.setattr(experiment, "emoji_rows", lambda split: {"image": drawings[split]})
    splits = experiment.rows_of(validate)
    assert [len(splits[name]["query"]) for name in ("train", "test")] == ([1185, 297] if validate else [1482, 370])
    query, document = (splits["test"][name] for name in ("query", "document"))
    own = np.linalg.norm(query - document, axis=1).mean()
    assert 0 < own < 0.9 * np.linalg.norm(query - np.roll(document, 1, axis=0), axis=1).mean()
    train = np.stack([splits["train"][name] for name in ("query", "document")])
    np.testing.assert_allclose([train.mean(), train.std()], [0, 1], atol=1e-6)
    held_out = drawings["train"][1185:] if validate else drawings["test"]
    pixels = drawings["train"][: len(train[0]), :2]
    np.testing.assert_allclose(query, (held_out[:, 0] - pixels.mean()) / pixels.std(), atol=1e-6)


@pytest.mark.slow
def test_the_whole_experiment_in_little(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    query = np.random.default_rng(4).normal(size=(200, 12)).astype(np.float32)
    pairs = {"query": query, "document": query[:, ::-1].copy()}
    splits = {"train": {k: v[:150] for k, v in pairs.items()}, "test": {k: v[150:] for k, v in pairs.items()}}
    monkeypatch.setattr(experiment, "rows_of", lambda *args: splits)
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path / "out"), steps=400, evaluate_every=200, checkpoint_every=400, hidden=64
    )
    last = {r["arm"]: r["metrics"] for r in experiment.main(config)}
    untrained = last["InfoNCE, batches of 1"]
    assert untrained["gradient_norm"] == 0
    assert last["InfoNCE, batches of 32"]["recall_at_1"] > untrained["recall_at_1"] + 0.2
    assert last["orthogonal, single pairs"]["recall_at_1"] > untrained["recall_at_1"] + 0.1
