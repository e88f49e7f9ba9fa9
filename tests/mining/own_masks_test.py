"""Functions of embeddings with masks in place of labels: multi-label data, pairs that are neither, several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import metrics, mining

SIZE, OTHERS = 24, 16
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
supcon = functools.partial(mining.supcon_loss, reduction="anchors")


def draw(seed=0, size=SIZE):
    """Unit embeddings and three labels of which each may be on."""
    rng = np.random.default_rng(seed)
    x, tags = rng.normal(size=(size, 4)), rng.random((size, 3)) < 0.4
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32), tags


def masks_of_tags(tags, others):
    """Positive if a label is shared, ignored if one of the two has none, negative else; the diagonal is as it comes."""
    shared = np.array([[np.any(a & b) for b in others] for a in tags])
    told = np.array([[a.any() and b.any() for b in others] for a in tags])
    return {"positives": jnp.asarray(shared), "negatives": jnp.asarray(~shared & told)}


def without_itself(masks):
    apart = ~jnp.eye(SIZE, dtype=bool)
    return [mask & apart for mask in masks.values()]


X, TAGS = draw()
MASKS = masks_of_tags(TAGS, TAGS)
R, REFERENCE_TAGS = draw(1, OTHERS)
RECTANGLE = masks_of_tags(TAGS, REFERENCE_TAGS)


def loss_in_blocks(x, labels=None, *references, **options):
    return mining.blockwise_losses(supcon, x, labels, *references, **options).sum()


def of_distances(loss, compare):
    """The same loss of all pairs at once."""

    def whole(x, r, positives, negatives):
        return loss(compare(x, r), positives, negatives)

    return whole


LOSSES = {
    "blocks": (
        loss_in_blocks,
        of_distances(functools.partial(mining.supcon_loss, reduction="sum"), mining.cosine_similarity),
    ),
    "mined": (
        functools.partial(mining.mined_triplet_loss, margin=0.3),
        of_distances(functools.partial(mining.triplet_loss, margin=0.3, mining="hard"), mining.euclidean_distances),
    ),
}


@pytest.mark.parametrize("block_size", [8, 1024])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_the_loss_of_all_pairs(name, block_size):
    loss, whole = LOSSES[name]

    def square(x, masks):
        return loss(x, block_size=block_size, **masks)

    def against(x, r, masks):
        return loss(x, None, r, block_size=block_size, **masks)

    value, gradient = jax.jit(jax.value_and_grad(square))(X, MASKS)
    positives, negatives = without_itself(MASKS)
    expected, wanted = jax.jit(jax.value_and_grad(lambda x: whole(x, x, positives, negatives)))(X)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)
    value, gradients = jax.jit(jax.value_and_grad(against, argnums=(0, 1)))(X, R, RECTANGLE)
    expected, wanted = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))(X, R, *RECTANGLE.values())
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for actual, right in zip(gradients, wanted):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-5)
        assert np.abs(right).max() > 0.01


def all_of(x, labels=None, *references, **options):
    """What every function returns that takes embeddings, with the pairs told in one way."""
    options = {"block_size": 4, **options}
    return {
        "blocks": mining.blockwise_losses(supcon, x, labels, *references, **options),
        "mined": mining.mined_triplet_loss(x, labels, *references, reduction="none", **options),
        "mean": mining.mined_triplet_loss(x, labels, *references, **options),
        "ranks": metrics.nearest_positive_ranks(x, labels, *references, **options),
        "recall": metrics.recall_at_k(x, labels, 2, *references, **options),
        "scores": metrics.retrieval_scores(x, labels, *references, **options),
        "some": metrics.retrieval_scores(x, labels, *references, max_positives=3, **options),
    }


def require_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), actual, expected)


def test_masks_of_labels_are_the_labels():
    labels, classes = jnp.arange(SIZE) % 5, jnp.arange(OTHERS) % 5
    same = labels[:, None] == labels[None]  # with the diagonal, which counts neither way
    run = jax.jit(all_of)
    require_same(run(X, positives=same, negatives=~same), run(X, labels))
    same = labels[:, None] == classes[None]
    require_same(run(X, None, R, positives=same, negatives=~same), run(X, labels, R, classes))


def test_references_that_contain_the_anchors():
    options = {"first_row": jnp.asarray(4), "block_size": 4}
    rows = MASKS["positives"][4:12], MASKS["negatives"][4:12]
    part = mining.blockwise_losses(supcon, X[4:12], None, X, positives=rows[0], negatives=rows[1], **options)
    np.testing.assert_allclose(part, mining.blockwise_losses(supcon, X, **MASKS)[4:12], rtol=1e-5)


@pytest.mark.parametrize("against", [False, True], ids=["itself", "others"])
def test_masks_are_sharded_with_the_anchors(against):
    references, masks = ((None, R), RECTANGLE) if against else ((), MASKS)

    def shard(x, r, masks):
        return all_of(x, *((None, r) if against else ()), axis_name="data", block_size=1, **masks)

    expected = jax.jit(all_of)(X, *references, **masks)
    specs = jax.tree.map(lambda x: P("data") if x.ndim and len(x) == len(X) else P(), expected)
    step = jax.jit(jax.shard_map(shard, mesh=MESH, in_specs=P("data"), out_specs=specs))
    require_same(step(X, R, masks), expected)


def test_gradients_over_devices_are_those_of_one():
    def total(x, masks, axis_name=None):
        options = {"block_size": 1, "axis_name": axis_name, **masks}
        losses = mining.blockwise_losses(supcon, x, **options)
        return mining.reduce_losses(losses, losses > 0, "mean", axis_name) + mining.mined_triplet_loss(x, **options)

    shard = jax.shard_map(functools.partial(total, axis_name="data"), mesh=MESH, in_specs=P("data"), out_specs=P())
    value, gradient = jax.jit(jax.value_and_grad(shard))(X, MASKS)
    expected, wanted = jax.jit(jax.value_and_grad(total))(X, MASKS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_in_no_pair(fill):
    bad = X.at[20:].set(fill)
    real = jnp.arange(SIZE) < 20
    run = jax.jit(jax.value_and_grad(lambda x, m: loss_in_blocks(x, **m) + mining.mined_triplet_loss(x, **m)))
    value, gradient = run(bad, MASKS)
    expected, wanted = run(X, {name: mask & real[:, None] & real[None] for name, mask in MASKS.items()})
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_masks_need_no_second_array_of_all_pairs():
    batch, rows = 4096, 16
    options = {"block_size": rows}
    shapes = (
        jax.ShapeDtypeStruct((batch, 8), "float32"),
        {name: jax.ShapeDtypeStruct((batch, batch), "bool") for name in MASKS},
    )
    for step in (
        jax.value_and_grad(lambda x, m: loss_in_blocks(x, **m, **options)),
        lambda x, m: metrics.recall_at_k(x, **m, **options),
    ):
        used = jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        assert used < 16 * 4 * rows * batch + 16 * 4 * batch * 8 < batch * batch


CALLS = {
    "blockwise_losses": functools.partial(mining.blockwise_losses, supcon),
    "mined_triplet_loss": mining.mined_triplet_loss,
    "nearest_positive_ranks": metrics.nearest_positive_ranks,
    "recall_at_k": metrics.recall_at_k,
    "retrieval_scores": metrics.retrieval_scores,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bad_input_is_named(call):
    labels, positives, negatives = jnp.arange(SIZE), *MASKS.values()
    for given, message in (
        ({}, "labels is None, wanted labels, or positives and negatives"),
        ({"labels": labels, **MASKS}, "labels and positives and negatives are given, wanted labels, or"),
        ({"labels": labels, "negatives": negatives}, "labels and negatives are given, wanted labels, or"),
        ({"positives": positives}, "negatives is None, wanted both positives and negatives"),
        ({"negatives": negatives}, "positives is None, wanted both positives and negatives"),
        ({"positives": positives[:5], "negatives": negatives}, r"positives has shape \[5, 24\], wanted \[24, 24\]"),
        ({"references": R, **MASKS}, r"positives has shape \[24, 24\], wanted \[24, 16\]"),
        ({"references": X, "reference_labels": labels, **MASKS}, "reference_labels is given with positives"),
    ):
        with pytest.raises(ValueError, match=message):
            call(X, **given)
    with pytest.raises(TypeError, match="negatives has dtype float32, wanted bool"):
        call(X, positives=positives, negatives=jnp.ones((SIZE, SIZE)))
