"""Further scores of retrieval, neighbors and agreement of clusterings, against brute force and scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as peer

from minibatch_jax import metrics
from tests.metrics.retrieval_test import data

KS = (1, 5, 10)


def by_sorting(x, labels, ks):
    """For each query: its class, whether it has a positive, and its scores by a full sort."""
    for i, query in enumerate(x):
        keep = np.arange(len(x)) != i
        ranked = (labels[keep] == labels[i])[np.argsort(-(x[keep] @ query))]
        total = ranked.sum()
        if not total:
            yield labels[i], False, None
            continue
        precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        first = np.argmax(ranked)
        scores = [ranked[:total].mean(), (precisions * ranked)[:total].sum() / total]
        yield labels[i], True, [*scores, (precisions * ranked).sum() / total, 1 / (first + 1), *(first < k for k in ks)]


@pytest.mark.parametrize("average", ["query", "class"])
@pytest.mark.parametrize("block_size", [8, 1024])
def test_scores_and_averages_equal_sorting(average, block_size):
    x, labels = data(0)
    labels[1:3] = [7, 9]  # two more singletons
    call = functools.partial(metrics.retrieval_scores, ks=KS, average=average, block_size=block_size)
    found = jax.jit(call)(x, labels)
    told = list(by_sorting(x, labels, KS))
    values = {c: [v for k, ok, v in told if ok and k == c] for c in np.unique(labels)}
    if average == "class":
        means = [np.mean(v, axis=0) for v in values.values() if v]
        expected, left_out = np.mean(means, axis=0), sum(not v for v in values.values())
    else:
        expected, left_out = np.mean([v for _, ok, v in told if ok], axis=0), sum(not ok for _, ok, _ in told)
    np.testing.assert_allclose(np.concatenate([found[:4], found.recall]), expected, rtol=1e-5)
    assert found.left_out == left_out == 3


def test_average_precision_is_that_of_scikit_learn():
    x, labels = data(3)
    similarities = x @ x.T
    expected = []
    for i in range(len(x)):
        keep = np.arange(len(x)) != i
        if (labels[keep] == labels[i]).any():
            expected.append(peer.average_precision_score(labels[keep] == labels[i], similarities[i, keep]))
    found = jax.jit(metrics.retrieval_scores)(x, labels)
    np.testing.assert_allclose(found.mean_average_precision, np.mean(expected), rtol=1e-5)
    assert np.isnan(
        metrics.retrieval_scores(jnp.asarray(x), jnp.asarray(labels), max_positives=9).mean_average_precision
    )


def test_collapsed_and_broken_embeddings_have_the_worst_scores():
    labels = jnp.arange(12) // 3
    for fill in (1.0, jnp.nan):
        found = metrics.retrieval_scores(jnp.full((12, 2), fill), labels, ks=(1, 9))
        np.testing.assert_allclose(found.reciprocal_rank, 1 / 10, rtol=1e-6)  # behind all nine negatives
        assert found.recall.tolist() == [0, 0]
        np.testing.assert_allclose(found.mean_average_precision, (1 / 10 + 2 / 11) / 2, rtol=1e-6)


@pytest.mark.parametrize("recall", [None, 0.9])
@pytest.mark.parametrize("block_size", [4, 1024])
def test_neighbors_are_those_of_a_sort(recall, block_size):
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=(13, 4)).astype(np.float32), rng.normal(size=(21, 4)).astype(np.float32)
    r[7] = r[3]
    call = jax.jit(lambda x, r: metrics.neighbors(x, r, 5, recall=recall, block_size=block_size))
    found = call(x, r)
    order = np.argsort(-(x @ r.T), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.similarities, np.take_along_axis(x @ r.T, order, axis=1), rtol=1e-5)
    itself = jax.jit(lambda x: metrics.neighbors(x, k=3, recall=recall, block_size=block_size))(x)
    similarities = x @ x.T
    np.fill_diagonal(similarities, -np.inf)
    np.testing.assert_array_equal(itself.indices, np.argsort(-similarities, axis=1)[:, :3])


def test_absent_and_broken_rows_are_never_neighbors():
    x = jnp.array([[1.0], [jnp.nan], [3.0], [jnp.inf], [2.0]])
    found = metrics.neighbors(x, k=3, where=jnp.array([True, True, True, True, False]))
    assert found.indices.tolist() == [[2, -1, -1], [-1] * 3, [0, -1, -1], [-1] * 3, [2, 0, -1]]
    assert jnp.all((found.similarities == -jnp.inf) == (found.indices < 0))


def clusters(seed, size, kinds, noise):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, kinds, size)
    return labels, np.where(rng.random(size) < noise, rng.integers(0, kinds + 2, size), (labels + 1) % kinds)


@pytest.mark.parametrize("size, kinds", [(40, 4), (300, 7), (5000, 3), (20_000, 10)])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_mutual_information_is_that_of_scikit_learn(size, kinds, noise):
    labels, found = clusters(size, size, kinds, noise)
    step = jax.jit(lambda a, b: metrics.mutual_information(a, b, kinds, kinds + 2))
    normalized, adjusted = step(labels, found)
    np.testing.assert_allclose(normalized, peer.normalized_mutual_info_score(labels, found), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(adjusted, peer.adjusted_mutual_info_score(labels, found), rtol=1e-3, atol=2e-4)


def test_labels_out_of_range_are_left_out_and_one_class_agrees():
    labels, found = clusters(0, 60, 4, 0.4)
    expected = metrics.mutual_information(jnp.asarray(labels), jnp.asarray(found), 4, 6)
    more = np.append(labels, [-1, 9, 0]), np.append(found, [0, 1, -3])
    jax.tree.map(np.testing.assert_array_equal, metrics.mutual_information(*map(jnp.asarray, more), 4, 6), expected)
    same = metrics.mutual_information(jnp.zeros(5, jnp.int8), jnp.ones(5, jnp.int8), 1, 2)
    assert same == (1, 1)


def test_bad_input_is_named():
    x, labels = (jnp.asarray(v) for v in data(4))
    with pytest.raises(ValueError, match="an entry of ks is 38, wanted at most 37"):
        metrics.retrieval_scores(x, labels, ks=(1, 38))
    with pytest.raises(ValueError, match="average is 'macro'"):
        metrics.retrieval_scores(x, labels, average="macro")
    masks = {"positives": jnp.zeros((37, 37), bool), "negatives": jnp.zeros((37, 37), bool)}
    with pytest.raises(ValueError, match="average is 'class' with masks, wanted labels"):
        metrics.retrieval_scores(x, average="class", **masks)
    with pytest.raises(ValueError, match="k is 38"):
        metrics.neighbors(x, k=38)
    with pytest.raises(ValueError, match="recall is 1.0"):
        metrics.neighbors(x, recall=1.0)
    with pytest.raises(TypeError, match="where has dtype int32"):
        metrics.neighbors(x, where=jnp.ones(37, jnp.int32))
    with pytest.raises(TypeError, match="clusters has dtype float32"):
        metrics.mutual_information(labels, x[:, 0], 6, 6)
