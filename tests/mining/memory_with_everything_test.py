"""Cross-batch memory with every miner, loss and block equals a concatenation by hand, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, mining
from tests.mining import catalog
from tests.mining.miners.rectangular_test import DRAWN, MINERS
from tests.mining.sharding_test import some_and_all

B, K, STORED, WIDTH = 16, 24, 20, 4  # four slots of the memory are empty
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
LOSSES = {**catalog.LOSSES, **catalog.SCALAR_LOSSES, **catalog.TRIPLET_LOSSES}
OF_ANCHORS = {
    name: functools.partial(loss, reduction="anchors")
    for name, loss in {**catalog.LOSSES, **catalog.TRIPLET_LOSSES}.items()
    if name not in catalog.NO_SUM_OVER_ANCHORS
}


@functools.cache
def problem():
    """A batch, labels, a memory, and by hand: the past embeddings and the masks `[B, B + STORED]`."""
    rng = np.random.default_rng(4)
    x, past = (rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (B, STORED))
    past /= np.linalg.norm(past, axis=1, keepdims=True)
    y, past_y = (rng.integers(-1, 3, n).astype(np.int32) for n in (B, STORED))  # -1 is the label of empty slots, too
    memory = mining.init_memory(K, WIDTH)
    for part in (slice(0, 8), slice(8, STORED)):
        memory = mining.remember(memory, jnp.asarray(past[part]), jnp.asarray(past_y[part]))
    same = y[:, None] == np.concatenate([y, past_y])[None]
    others = ~np.eye(B, B + STORED, dtype=bool)
    return jnp.asarray(x), jnp.asarray(y), memory, past, (jnp.asarray(same & others), jnp.asarray(~same & others))


def dissimilarities(x, y=None):
    return 1 - mining.cosine_similarity(x, y)


def value_of(name, references, distances, *masks):
    if name != "angular_loss":
        return LOSSES[name](distances, *masks)
    reference_similarities = mining.cosine_similarity(references)
    return mining.angular_loss(1 - distances, *masks, reference_similarities=reference_similarities)


def by_hand(x):
    """References, distances and masks without a memory; the gradient is that of the batch alone."""
    _, _, _, past, masks = problem()
    z = mining.normalize_embeddings(x)
    references = jnp.concatenate([z, past])
    return references, dissimilarities(z, references), *masks


def by_memory(x, y, axis_name=None):
    z = mining.normalize_embeddings(x)
    pairs = mining.memory_pairs(problem()[2], z, y, axis_name=axis_name)
    return pairs.references, dissimilarities(z, pairs.references), pairs.positives, pairs.negatives


def mixed(values):
    """One number that no value leaves unchanged, and the values."""
    scales = {name: (1 + 0.1 * i) * jnp.linspace(1, 2, values[name].size) for i, name in enumerate(sorted(values))}
    return sum(jnp.sum(values[name].reshape(-1) * scales[name]) for name in scales), values


def compare(found, wanted):
    (_, values), gradient = found
    (_, expected), slope = wanted
    for name, value in expected.items():
        assert np.any(value != 0), name
        np.testing.assert_allclose(values[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max())


@some_and_all(("angular_loss", "histogram_loss", "lifted_structure_loss", "supcon_loss"), LOSSES)
def test_every_loss_of_a_batch_and_a_memory(names):
    x, y, *_ = problem()
    wanted = jax.jit(jax.value_and_grad(lambda x: mixed({n: value_of(n, *by_hand(x)) for n in names}), has_aux=True))
    found = jax.jit(
        jax.value_and_grad(lambda x, y: mixed({n: value_of(n, *by_memory(x, y)) for n in names}), has_aux=True)
    )
    expected = wanted(x)
    compare(found(x, y), expected)
    compare(found(*jax.device_put((x, y), NamedSharding(MESH, P("data")))), expected)


@some_and_all(("contrastive_loss", "triplet_loss_semihard"), OF_ANCHORS)
def test_every_loss_of_anchors_in_blocks_with_a_memory(names):
    def blocks(x, y, axis_name=None):
        z = mining.normalize_embeddings(x)
        references, _, positives, negatives = by_memory(x, y, axis_name)
        options = {"references": references, "positives": positives, "negatives": negatives, "block_size": 2}
        found = {
            name: mining.blockwise_losses(OF_ANCHORS[name], z, compare=dissimilarities, **options) for name in names
        }
        triplet = mining.mined_triplet_loss(z, compare=dissimilarities, reduction="anchors", **options)
        return found | {"mined_triplet_loss": triplet}

    def whole(x):
        _, *pairs = by_hand(x)
        found = {name: OF_ANCHORS[name](*pairs) for name in names}
        return mixed(found | {"mined_triplet_loss": mining.triplet_loss(*pairs, mining="hard", reduction="anchors")})

    x, y, *_ = problem()
    local = functools.partial(blocks, axis_name="data")
    sharded = jax.shard_map(local, mesh=MESH, in_specs=P("data"), out_specs=P("data"))
    expected = jax.jit(jax.value_and_grad(whole, has_aux=True))(x)
    for function in (blocks, sharded):
        step = jax.value_and_grad(lambda x, y, function=function: mixed(function(x, y)), has_aux=True)
        compare(jax.jit(step)(x, y), expected)


def test_every_miner_of_a_batch_and_a_memory():
    x, y, *_ = problem()

    def mined(x, y, axis_name=None):
        _, distances, positives, negatives = by_memory(x, y, axis_name)
        signals = {"distances": distances, "positives": positives, "negatives": negatives}
        miners = {name: case.make() for name, case in MINERS.items()}
        if axis_name:
            miners = {name: across(axis_name, tx) for name, tx in miners.items()}
        return {name: once(tx, distances, **signals) for name, tx in miners.items()}

    def whole(x):
        _, distances, *masks = by_hand(x)
        signals = {"distances": distances, "positives": masks[0], "negatives": masks[1]}
        return {name: once(case.make(), distances, **signals) for name, case in MINERS.items()}

    local = functools.partial(mined, axis_name="data")
    sharded = jax.shard_map(local, mesh=MESH, in_specs=P("data"), out_specs=P("data"))
    expected, one, eight = jax.jit(whole)(x), jax.jit(mined)(x, y), jax.jit(sharded)(x, y)
    usable = np.asarray(problem()[4][0] | problem()[4][1])
    for name in MINERS:
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-6, atol=1e-7, err_msg=name)
        assert not np.any(one[name][:, B + STORED :]), name
        kept = np.asarray(one[name][:, : B + STORED])
        assert np.any(kept[:, B:] > 0) and not np.any(kept[~usable]), name
        if name not in DRAWN:  # draws depend on the number of columns
            np.testing.assert_allclose(kept, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def once(tx, like, **signals):
    weights = jnp.ones(like.shape)
    return tx.update(weights, tx.init(weights), **signals)[0]


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_angular_triplets_of_a_batch_and_a_memory_need_the_distances_between_the_references(axis_name):
    x, y, *_ = problem()

    def mined(references, distances, *masks):
        between = mining.euclidean_distances(references)
        distances = mining.euclidean_distances(references[: len(distances)], references)
        return mining.angular_triplet_weights(distances, *masks, reference_distances=between)

    expected = jax.jit(lambda x: mined(*by_hand(x)))(x)
    if axis_name is None:
        found = jax.jit(lambda x, y: mined(*by_memory(x, y)))(x, y)
    else:  # the partitioner: the weights are shares of the triplets of all devices
        found = jax.jit(lambda x, y: mined(*by_memory(x, y)))(*jax.device_put((x, y), NamedSharding(MESH, P("data"))))
    assert not np.any(found[:, B + STORED :]) and np.any(found[:, B:] > 0)
    np.testing.assert_allclose(found[:, : B + STORED], expected, rtol=1e-4, atol=1e-7)
