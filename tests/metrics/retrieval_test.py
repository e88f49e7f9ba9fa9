import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import metrics


def data(seed, size=37, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    labels[0] = classes  # a singleton
    x = rng.normal(size=(size, 4)) + 0.7 * rng.normal(size=(classes + 1, 4))[labels]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), labels


def recall_by_sorting(x, labels, references, reference_labels, k, skip_self):
    hits = []
    for i, query in enumerate(x):
        keep = np.arange(len(references)) != (i if skip_self else -1)
        order = np.argsort(-(references[keep] @ query))
        ranked = reference_labels[keep][order] == labels[i]
        if ranked.any():
            hits.append(ranked[:k].any())
    return np.mean(hits)


@pytest.mark.parametrize("block_size", [8, 1024])
@pytest.mark.parametrize("k", [1, 3])
def test_recall_equals_sorting(k, block_size):
    x, labels = data(0)
    actual = jax.jit(lambda x, y: metrics.recall_at_k(x, y, k, block_size=block_size))(x, labels)
    np.testing.assert_allclose(actual, recall_by_sorting(x, labels, x, labels, k, True), rtol=1e-6)


def test_recall_against_a_gallery_equals_sorting():
    (x, labels), (r, reference_labels) = data(1), data(2, 21)
    actual = metrics.recall_at_k(*map(jnp.asarray, (x, labels)), 2, *map(jnp.asarray, (r, reference_labels)))
    np.testing.assert_allclose(actual, recall_by_sorting(x, labels, r, reference_labels, 2, False), rtol=1e-6)


def test_collapsed_and_broken_embeddings_score_zero():
    labels = jnp.arange(12) // 3
    for x in (jnp.ones((12, 2)), jnp.full((12, 2), jnp.nan)):
        assert metrics.recall_at_k(x, labels) == 0
    assert metrics.recall_at_k(jax.nn.one_hot(labels, 4), labels) == 1


def test_no_positive_anywhere_is_zero():
    x, _ = data(3)
    assert metrics.recall_at_k(jnp.asarray(x), jnp.arange(37)) == 0
    np.testing.assert_array_equal(metrics.nearest_positive_ranks(jnp.asarray(x), jnp.arange(37)), 37)


def scores_by_sorting(x, labels, references, reference_labels, skip_self):
    found = []
    for i, query in enumerate(x):
        keep = np.arange(len(references)) != (i if skip_self else -1)
        ranked = (reference_labels[keep] == labels[i])[np.argsort(-(references[keep] @ query))]
        total = ranked.sum()
        if total:
            top = ranked[:total]
            found.append((top.mean(), sum(top[: j + 1].mean() for j in range(total) if top[j]) / total))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("options", [{}, {"max_positives": 16, "block_size": 8}])
def test_scores_equal_sorting(options):
    x, labels = data(5)
    actual = jax.jit(lambda x, y: metrics.retrieval_scores(x, y, **options))(x, labels)
    np.testing.assert_allclose(actual[:2], scores_by_sorting(x, labels, x, labels, True), rtol=1e-5)
    (r, reference_labels) = data(6, 21)
    actual = metrics.retrieval_scores(*map(jnp.asarray, (x, labels, r, reference_labels)))
    np.testing.assert_allclose(actual[:2], scores_by_sorting(x, labels, r, reference_labels, False), rtol=1e-5)


def test_scores_of_collapsed_and_broken_embeddings_are_zero():
    labels = jnp.arange(9) // 3
    for x in (jnp.ones((9, 2)), jnp.full((9, 2), jnp.nan)):
        np.testing.assert_array_equal(metrics.retrieval_scores(x, labels)[:2], 0)
    np.testing.assert_array_equal(jnp.stack(metrics.retrieval_scores(jax.nn.one_hot(labels, 3), labels)[:4]), 1)


def test_no_array_of_all_pairs_is_formed():
    step = jax.jit(lambda x, y: metrics.recall_at_k(x, y, 1, block_size=16))
    compiled = step.lower(jax.ShapeDtypeStruct((4096, 8), "float32"), jax.ShapeDtypeStruct((4096,), "int32")).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 4096 // 4


def test_bad_input_is_named():
    x, labels = (jnp.asarray(a) for a in data(4))
    with pytest.raises(ValueError, match=r"k is 38, wanted at most 37 \(the number of references\)"):
        metrics.recall_at_k(x, labels, 38)
    with pytest.raises(TypeError, match=r"k is 1\.0"):
        metrics.recall_at_k(x, labels, 1.0)
    with pytest.raises(ValueError, match="reference_labels is None"):
        metrics.recall_at_k(x, labels, 1, x)
    with pytest.raises(ValueError, match=r"labels has shape \[36\], wanted \[37\]"):
        metrics.recall_at_k(x, labels[1:])
    with pytest.raises(ValueError, match="block_size is 0"):
        metrics.nearest_positive_ranks(x, labels, block_size=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_makes_no_ties(dtype):
    rng = np.random.default_rng(7)
    labels = np.arange(300) % 60
    x = rng.normal(size=(60, 16))[labels] + 1.0 * rng.normal(size=(300, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = jnp.asarray(x.astype(np.float32)).astype(dtype)
    exact = np.asarray(x, np.float64)
    expected = recall_by_sorting(exact, labels, exact, labels, 1, True)
    assert 0.1 < expected < 0.9
    np.testing.assert_allclose(metrics.recall_at_k(x, jnp.asarray(labels)), expected, rtol=1e-6)
    scores = metrics.retrieval_scores(x, jnp.asarray(labels))
    np.testing.assert_allclose(scores[:2], scores_by_sorting(exact, labels, exact, labels, True), rtol=1e-5)


def ranked_by_loops(x, references, positives, negatives):
    """For each query that has a positive, from the nearest: whether each reference that is not ignored is right."""
    for query, right, wrong in zip(x, positives, negatives):
        told = np.flatnonzero(right | wrong)
        if right.any():
            yield right[told[np.argsort(-(references[told] @ query))]]


def masks_with_ignored(seed, rows, columns):
    kind = np.random.default_rng(seed).integers(0, 4, (rows, columns))
    kind[3] = 1  # no positive
    kind[4] = np.where(kind[4] == 1, 2, kind[4])  # no negative
    return kind == 0, kind == 1


@pytest.mark.parametrize("block_size", [8, 1024])
@pytest.mark.parametrize("against_itself", [True, False])
def test_scores_of_masks_equal_loops_that_leave_out_what_is_ignored(against_itself, block_size):
    x, _ = data(8)
    r = x if against_itself else data(9, 21)[0]
    positives, negatives = masks_with_ignored(10, len(x), len(r))
    apart = ~np.eye(len(x), dtype=bool) if against_itself else True
    found = list(ranked_by_loops(x, r, positives & apart, negatives & apart))
    masks = {"positives": positives, "negatives": negatives}
    references = None if against_itself else r

    @jax.jit
    def scores(x, references, masks):
        options = {**masks, "block_size": block_size}
        return (
            metrics.nearest_positive_ranks(x, None, references, **options),
            [metrics.recall_at_k(x, None, k, references, **options) for k in (1, 2)],
            metrics.retrieval_scores(x, None, references, **options),
        )

    ranks, recalls, both = scores(x, references, masks)
    with_positive = (positives & apart).any(axis=1)
    np.testing.assert_array_equal(ranks[~with_positive], len(r))
    np.testing.assert_array_equal(ranks[with_positive], [np.argmax(right) for right in found])
    np.testing.assert_allclose(recalls, [np.mean([right[:k].any() for right in found]) for k in (1, 2)], rtol=1e-6)
    tops = [right[: right.sum()] for right in found]
    precise = [np.mean([top[: j + 1].mean() * top[j] for j in range(len(top))]) for top in tops]
    np.testing.assert_allclose(both[:2], (np.mean([top.mean() for top in tops]), np.mean(precise)), rtol=1e-5)
    assert all(0.05 < score < 0.95 for score in (*recalls, *both[:2]))


def test_a_reference_that_is_ignored_may_hold_anything():
    x, _ = data(11)
    r, _ = data(12, 21)
    positives, negatives = masks_with_ignored(13, len(x), len(r))
    positives[:, 5:8], negatives[:, 5:8] = False, False

    @jax.jit
    def scores(r):
        masks = {"positives": positives, "negatives": negatives}
        ranks = metrics.nearest_positive_ranks(jnp.asarray(x), None, r, **masks)
        return ranks, metrics.retrieval_scores(jnp.asarray(x), None, r, **masks)

    expected = scores(jnp.asarray(r))
    for fill in (np.nan, np.inf, -np.inf, 100.0):
        jax.tree.map(np.testing.assert_array_equal, scores(jnp.asarray(r).at[5:8].set(fill)), expected)


@pytest.mark.parametrize("fill", [np.nan, 1.0])
def test_masks_of_collapsed_and_broken_embeddings_score_zero(fill):
    positives = np.eye(12, dtype=bool)[:, np.arange(12) ^ 1]
    negatives = ~positives & (np.arange(12) % 3 > 0)
    masks = {"positives": jnp.asarray(positives), "negatives": jnp.asarray(negatives)}
    assert metrics.recall_at_k(jnp.full((12, 2), fill), **masks) == 0
    np.testing.assert_array_equal(metrics.retrieval_scores(jnp.full((12, 2), fill), **masks)[:2], 0)
