"""Pairs from posts, hashed words, cut documents, and training on pairs that share rare words."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import folders
from experiments.mining import _long_texts
from experiments.mining import single_sample_texts as experiment


def test_a_pair_is_a_subject_and_what_follows_and_a_thread_gives_one(monkeypatch):
    monkeypatch.setattr(_long_texts, "LEAST_WORDS", 3)
    monkeypatch.setattr(_long_texts, "QUERY_WORDS", 5)
    posts = ["a b c d e f g h i", "re a b c d x y z u v", "re re p q r s t u v w", "too short a post here"]
    pairs = _long_texts.long_pairs(posts)
    assert pairs == [(list("abcde"), list("fghi")), (list("pqrst"), list("uvw"))]


def test_hashed_words_count_and_cosines_are_those_of_word_vectors():
    texts = [["a", "b", "a"], ["c"], []]
    found = _long_texts.hashed(texts, 1 << 12)
    np.testing.assert_allclose(np.sort(found[0])[-3:], [0, np.log(2), np.log(3)], rtol=1e-6)
    assert np.count_nonzero(found[1]) == 1 and not found[2].any()
    np.testing.assert_allclose(np.linalg.norm(_long_texts.to_length(found, 7.0), axis=1), [7, 7, 0], rtol=1e-6)


def test_a_share_of_the_documents_is_cut():
    rows = {name: jnp.full((400, 1), value) for value, name in enumerate(("query", "document", "short"))}
    for share in (0.0, 0.5, 1.0):
        items = experiment.shortened(share)(jax.random.key(0), rows, 0.5)
        assert abs(float(jnp.mean(items["document"] == 2)) - share) < 0.08
        assert abs(float(jnp.mean(items["positive"])) - 0.5) < 0.08


def test_orthogonal_pairs_learn_and_info_nce_of_one_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    rng = np.random.default_rng(0)

    def part(number):
        topic = rng.normal(size=(number, 8)).astype(np.float32)
        noise = rng.normal(size=(2, number, 24)).astype(np.float32)
        query, document = (np.concatenate([topic, n], axis=1) for n in noise)
        return {"query": query, "document": document, "short": document}

    monkeypatch.setattr(experiment, "text_rows", lambda *args: {"train": part(200), "test": part(40)})
    arms = "InfoNCE, batches of 1", "orthogonal, single pairs"
    options = {"steps": 200, "evaluate_every": 200, "checkpoint_every": 200, "buckets": 32, "dimensions": 8}
    records = experiment.main(
        experiment.Config(seeds=(0,), out=str(tmp_path), arms=arms, learning_rate=1e-2, **options)
    )
    last = {r["arm"]: r["metrics"] for r in records}
    assert last[arms[0]]["gradient_norm"] == 0
    assert last[arms[1]]["ndcg_at_10"] > last[arms[0]]["ndcg_at_10"] + 0.2
