"""A row that is not finite is in no pair: values and gradients of every loss are those without the row, and finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from minibatch_jax.mining.losses import manifolds
from tests.mining import catalog

ROWS, CLASSES, WIDTH, ABSENT = 12, 3, 4, 5
LABELS = np.arange(ROWS) % CLASSES
VECTORS = np.random.default_rng(1).normal(size=(CLASSES, WIDTH))
CENTERS = np.random.default_rng(2).normal(size=(CLASSES, 2, WIDTH))


def of_classes(loss):
    """A loss of the cosines of embeddings to one vector for each class."""

    def total(x, labels, vectors):
        similarities = mining.cosine_similarity(x, vectors)
        return loss(similarities, *class_masks(labels))

    return total


def class_masks(labels):
    classes = jnp.arange(CLASSES)
    return mining.positive_mask(labels, classes), mining.negative_mask(labels, classes)


def of_pairs(loss):
    return lambda x, labels, vectors: loss(1 - mining.cosine_similarity(x), *catalog.all_pairs(labels))


def sphere_face(x, labels, vectors):
    lengths = mining.euclidean_distances(x, jnp.zeros((1, WIDTH)))
    similarities = mining.cosine_similarity(x, vectors)
    return mining.margin_softmax_loss(similarities, *class_masks(labels), multiple=4, scale=lengths)


def soft_triple(x, labels, vectors):
    centers = jnp.concatenate([vectors[:, None] + 0.5, vectors[:, None]], axis=1)
    similarities = mining.cosine_similarity(x, centers.reshape(-1, WIDTH)).reshape(-1, CLASSES, 2)
    softened = mining.soften_centers(similarities)
    return mining.margin_softmax_loss(softened, *class_masks(labels), cosine=0.01, scale=20.0)


def proxy_anchor(x, labels, vectors):
    masks = (mask.T for mask in class_masks(labels))
    return mining.proxy_anchor_loss(mining.cosine_similarity(vectors, x), *masks)


def manifold(x, labels, vectors):
    similarities = mining.cosine_similarity(jnp.concatenate([x, vectors]))
    return mining.manifold_loss(similarities, *class_masks(labels), margin=0.3)


def walks(x, labels, vectors):
    similarities = mining.cosine_similarity(jnp.concatenate([vectors, x]))
    return jnp.sum(manifolds.random_walk_similarity(similarities)[:CLASSES, :CLASSES] ** 2)


def dynamic(x, labels, vectors):
    loss = functools.partial(mining.dynamic_margin_loss, mining.init_dynamic_margin())
    value, margin = loss(mining.euclidean_distances(mining.normalize_embeddings(x)), *catalog.all_pairs(labels))
    return value + jnp.sum(margin.histogram**2)


def remembered(x, labels, vectors):
    """The batch is compared with itself and with a memory that holds it as well."""
    pairs = mining.memory_pairs(mining.remember(mining.init_memory(20, WIDTH), x, labels), x + 0.5, labels)
    return mining.supcon_loss(mining.cosine_similarity(x, pairs.references), pairs.positives, pairs.negatives)


def blockwise(x, labels, vectors):
    losses = mining.blockwise_losses(functools.partial(mining.supcon_loss, reduction="anchors"), x, labels)
    return jnp.sum(losses)


def to_proxies(x, labels, vectors):
    proxies = mining.proxies.update_proxies(mining.proxies.init_proxies(CLASSES, WIDTH), x, labels)
    return jnp.sum(proxies.embeddings * vectors)


def mined(x, labels, vectors):
    return mining.mined_triplet_loss(x, labels, margin=1.0)


LOSSES = {
    **{name: of_pairs(loss) for name, loss in (catalog.LOSSES | catalog.SCALAR_LOSSES).items()},
    **{name: of_pairs(loss) for name, loss in catalog.TRIPLET_LOSSES.items()},
    "arc_face": of_classes(functools.partial(mining.margin_softmax_loss, angle=0.5)),
    "blockwise_losses": blockwise,
    "dynamic_margin_loss": dynamic,
    "info_nce_of_classes": of_classes(mining.info_nce_loss),
    "manifold_loss": manifold,
    "memory_pairs": remembered,
    "mined_triplet_loss": mined,
    "proxy_anchor_of_classes": proxy_anchor,
    "random_walk_similarity": walks,
    "soft_triple": soft_triple,
    "sphere_face": sphere_face,
    "update_proxies": to_proxies,
}


def with_a_row(fill):
    """The rows with one more, of a class that has others."""
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH))
    row = np.full((1, WIDTH), fill)
    row[0, 0] = 1.0
    return np.concatenate([x[:ABSENT], row, x[ABSENT:]]), np.insert(LABELS, ABSENT, 1)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_without_the_row(name):
    step = jax.jit(jax.value_and_grad(LOSSES[name], (0, 2)))
    x, labels = with_a_row(np.nan)
    present = np.arange(ROWS + 1) != ABSENT
    vectors = jnp.asarray(VECTORS, jnp.float32)
    value, (slopes, class_slopes) = step(jnp.asarray(x[present], jnp.float32), jnp.asarray(LABELS), vectors)
    assert np.isfinite(value) and (np.any(np.asarray(slopes) != 0) or name == "update_proxies")
    for fill in (np.nan, np.inf):
        x, labels = with_a_row(fill)
        actual, (all_slopes, all_class_slopes) = step(jnp.asarray(x, jnp.float32), jnp.asarray(labels), vectors)
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(all_slopes[present], slopes, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(all_slopes[ABSENT], 0)
        np.testing.assert_allclose(all_class_slopes, class_slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_a_center_that_is_not_finite_is_left_out(fill):
    rng = np.random.default_rng(3)
    similarities = jnp.asarray(rng.uniform(-1, 1, (5, 3, 4)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)

    def total(s):
        softened = mining.soften_centers(s)
        return jnp.sum(jnp.where(jnp.isfinite(softened), softened, 0) * weights), softened

    spoilt = similarities.at[:, :, 1].set(fill).at[0].set(fill)
    (_, softened), slopes = jax.value_and_grad(total, has_aux=True)(spoilt)
    kept = jnp.delete(similarities, 1, axis=2)
    (_, expected), expected_slopes = jax.value_and_grad(total, has_aux=True)(kept)
    np.testing.assert_allclose(softened[1:], expected[1:], rtol=1e-6)
    assert np.all(np.isnan(softened[0])) and not np.any(slopes[0]) and not np.any(slopes[:, :, 1])
    np.testing.assert_allclose(jnp.delete(slopes, 1, axis=2)[1:], expected_slopes[1:], rtol=1e-5)


def test_rows_that_are_not_finite_are_in_no_pair_and_take_no_slot_of_a_memory():
    rows = jnp.array([[1.0, 0.0], [jnp.nan, 0.0], [0.0, 1.0]])
    memory = mining.remember(mining.init_memory(4, 2), rows, jnp.array([0, 0, 1]))
    pairs = mining.memory_pairs(memory, rows, jnp.array([0, 0, 1]))
    usable = np.array([True, False, True, True, True, False, False])
    np.testing.assert_array_equal(pairs.references, [[1, 0], [0, 0], [0, 1], [1, 0], [0, 1], [0, 0], [0, 0]])
    pair = np.asarray(pairs.positives | pairs.negatives)
    np.testing.assert_array_equal(pair[0], usable & (np.arange(7) != 0))
    assert not pair[1].any()


def test_rows_that_are_not_finite_teach_no_proxy():
    rows = jnp.array([[2.0, 0.0], [jnp.nan, 5.0], [jnp.inf, 0.0]])
    proxies = mining.proxies.update_proxies(mining.proxies.init_proxies(3, 2), rows, jnp.array([0, 0, 1]))
    assert proxies.embeddings.tolist() == [[1, 0], [0, 0], [0, 0]] and proxies.seen.tolist() == [True, False, False]
