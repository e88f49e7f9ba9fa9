"""Losses, miners and retrieval of a batch over 8 devices equal those of one device, in blocks and as whole rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import metrics, mining
from tests.conformance_test import CASES
from tests.mining import catalog

SIZE = 32
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
SEPARABLE = {
    name: functools.partial(loss, reduction="anchors")
    for name, loss in {**catalog.LOSSES, **catalog.TRIPLET_LOSSES}.items()
    if name not in catalog.NO_SUM_OVER_ANCHORS
}


def mined(d, p, n):
    kept = mining.multi_similarity_pair_masks(-d, *mining.rank_pair_masks(d, p, n, negative_ranks=(1, None)), 0.3)
    return mining.contrastive_loss(d, *kept, reduction="anchors")


IN_BLOCKS = {**SEPARABLE, "mined": mined}


def batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, 4)) + rng.normal(size=(8, 4))[np.arange(SIZE) % 8]
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32), jnp.arange(SIZE) % 8


def over_devices(function, out_specs=None):
    return jax.shard_map(function, mesh=MESH, in_specs=P("data"), out_specs=out_specs or P())


def some_and_all(some, everything):
    """A few names in every run, the others in the slow one."""
    rest = tuple(sorted(set(everything) - set(some)))
    return pytest.mark.parametrize("names", [some, pytest.param(rest, marks=pytest.mark.slow)], ids=["some", "rest"])


@some_and_all(("mined", "supcon_loss", "triplet_loss_semihard"), IN_BLOCKS)
def test_losses_of_anchors_in_blocks_over_devices(names):
    scales = np.linspace(1, 2, SIZE)[:, None] * np.linspace(1, 2, len(names))

    def mixed(losses):
        """One number that no loss leaves unchanged, and the losses."""
        return jnp.sum(jnp.stack(losses, axis=1) * scales.astype(np.float32)), dict(zip(names, losses))

    def local(x, y):
        options = {"compare": mining.euclidean_distances, "block_size": 2, "axis_name": "data"}
        return [mining.blockwise_losses(IN_BLOCKS[name], x, y, **options) for name in names]

    def whole(x, y):
        d, masks = mining.euclidean_distances(x), catalog.all_pairs(y)
        return mixed([IN_BLOCKS[name](d, *masks) for name in names])

    sharded = over_devices(local, P("data"))
    step = jax.jit(jax.value_and_grad(lambda x, y: mixed(sharded(x, y)), has_aux=True))
    (_, losses), gradient = step(*batch())
    (_, expected), wanted = jax.jit(jax.value_and_grad(whole, has_aux=True))(*batch())
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
        assert np.any(value != 0), name
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("reduction", ["mean", "active_mean", "anchor_mean", "sum"])
def test_reductions_over_devices(reduction):
    rng = np.random.default_rng(1)
    for shape in ((SIZE,), (SIZE, 3)):
        losses = jnp.asarray(np.maximum(rng.normal(size=shape), 0), jnp.float32)
        valid = jnp.asarray(rng.random(shape) < 0.6)
        sharded = over_devices(lambda x, v: mining.reduce_losses(x, v, reduction, "data"))
        value, gradient = jax.jit(jax.value_and_grad(sharded))(losses, valid)
        expected, wanted = jax.value_and_grad(mining.reduce_losses)(losses, valid, reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["active_mean", "sum"])
def test_loss_through_chosen_pairs_over_devices(reduction):
    options = {"reduction": reduction, "margin": 0.1}
    sharded = over_devices(functools.partial(mining.mined_triplet_loss, block_size=2, axis_name="data", **options))
    value, gradient = jax.jit(jax.value_and_grad(sharded))(*batch())
    expected, wanted = jax.jit(jax.value_and_grad(functools.partial(mining.mined_triplet_loss, **options)))(*batch())
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


WHOLE = {**catalog.LOSSES, **catalog.SCALAR_LOSSES, **catalog.TRIPLET_LOSSES}


@some_and_all(("contrastive_loss", "histogram_loss", "triplet_loss_all"), WHOLE)
def test_whole_rows_by_the_partitioner(names):
    """Under jit every function takes a sharded global batch as it is: all losses, also those that are no sum."""

    def total(x, y):
        d, masks = mining.euclidean_distances(x), catalog.all_pairs(y)
        values = {name: WHOLE[name](d, *masks) for name in names}
        return sum(values.values()), values

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, expected), wanted = compiled(*batch())
    sharded = jax.device_put(batch(), NamedSharding(MESH, P("data")))
    (_, actual), gradient = compiled(*sharded)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_miners_by_the_partitioner():
    transformations = {n: case.make() for n, case in CASES.items() if n.startswith(("mine_", "weigh_"))}

    @jax.jit
    def weigh(x, y):
        d, ones = mining.euclidean_distances(x), jnp.ones((SIZE, SIZE))
        ones = jax.lax.with_sharding_constraint(ones, NamedSharding(MESH, P("data")))
        return {name: tx.update(ones, tx.init(ones), distances=d, labels=y)[0] for name, tx in transformations.items()}

    expected = weigh(*batch())
    actual = weigh(*jax.device_put(batch(), NamedSharding(MESH, P("data"))))
    for name, weights in expected.items():
        np.testing.assert_allclose(actual[name], weights, rtol=1e-5, atol=1e-7, err_msg=name)
        assert np.any(weights > 0), name


def test_retrieval_over_devices():
    x, labels = batch()
    x += 0.5 * batch(3)[0]
    gallery, classes = batch(2)

    def scores(x, y, r, z, axis_name=None):
        options = {"block_size": 2, "axis_name": axis_name}
        return [
            metrics.recall_at_k(x, y, 1, **options),
            metrics.recall_at_k(x, y, 9, **options),
            metrics.recall_at_k(x, y, 3, r, z, **options),
            metrics.retrieval_scores(x, y, **options),
            metrics.retrieval_scores(x, y, r, z, max_positives=3, **options),
        ]

    actual = jax.jit(over_devices(functools.partial(scores, axis_name="data")))(x, labels, gallery, classes)
    expected = jax.jit(scores)(x, labels, gallery, classes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
    told = [v for v in jax.tree.leaves(expected) if v.dtype == jnp.float32 and v.ndim == 0 and jnp.isfinite(v)]
    assert len(told) > 9 and all(0 < v < 1 for v in told)
    ranks = over_devices(functools.partial(metrics.nearest_positive_ranks, axis_name="data"), P("data"))
    np.testing.assert_array_equal(jax.jit(ranks)(x, labels), metrics.nearest_positive_ranks(x, labels))
    with pytest.raises(ValueError, match=r"k is 33, wanted at most 32 \(the number of references\)"):
        over_devices(functools.partial(metrics.recall_at_k, k=33, axis_name="data"))(x, labels)


def test_a_device_reserves_one_block_row():
    batch, width, rows = 4096, 8, 16
    options = {"block_size": rows, "axis_name": "data"}

    def loss(x, y):
        losses = mining.blockwise_losses(functools.partial(mining.supcon_loss, reduction="anchors"), x, y, **options)
        return mining.reduce_losses(losses, losses > 0, "mean", "data") + mining.mined_triplet_loss(x, y, **options)

    rule = NamedSharding(MESH, P("data"))
    shapes = (
        jax.ShapeDtypeStruct((batch, width), "float32", sharding=rule),
        jax.ShapeDtypeStruct((batch,), "int32", sharding=rule),
    )
    for step in (
        jax.value_and_grad(over_devices(loss)),
        over_devices(functools.partial(metrics.recall_at_k, **options)),
    ):
        used = jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        assert used < 8 * 4 * rows * batch + 16 * 4 * batch * width < 4 * batch * batch // 8
