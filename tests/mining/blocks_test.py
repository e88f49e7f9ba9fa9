import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import mining

supcon = functools.partial(mining.supcon_loss, reduction="none")


def data(size=24):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(size, 5)), jnp.float32), jnp.asarray(rng.integers(0, 4, size))


def whole(x, labels):
    return mining.supcon_loss(mining.cosine_similarity(x), mining.positive_mask(labels), mining.negative_mask(labels))


@pytest.mark.parametrize("block_size", [6, 24, 1024])
def test_value_and_gradient_equal_the_whole(block_size):
    x, labels = data()
    blocks = lambda x: mining.blockwise_losses(supcon, x, labels, block_size=block_size).mean()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(blocks))(x)
    expected, gradient_expected = jax.jit(jax.value_and_grad(whole))(x, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-4, atol=1e-6)


def test_shards_of_anchors_give_the_gradient_of_the_whole():
    x, labels = data()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(x, y):
        references, classes = (jax.lax.all_gather(v, "data", tiled=True) for v in (x, y))
        first_row = jax.lax.axis_index("data") * x.shape[0]
        losses = mining.blockwise_losses(supcon, x, y, references, classes, block_size=1, first_row=first_row)
        return jax.lax.psum(jnp.sum(losses), "data") / references.shape[0]

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())
    value, gradient = jax.jit(jax.value_and_grad(sharded))(x, labels)
    expected, gradient_expected = jax.jit(jax.value_and_grad(whole))(x, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-4, atol=1e-6)


def test_memory_is_one_block_row_forward_and_backward():
    batch, width, rows = 4096, 16, 64
    step = jax.jit(jax.value_and_grad(lambda x, y: mining.blockwise_losses(supcon, x, y, block_size=rows).mean()))
    shapes = jax.ShapeDtypeStruct((batch, width), "float32"), jax.ShapeDtypeStruct((batch,), "int32")
    used = step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < 16 * 4 * rows * batch + 16 * 4 * batch * width < 4 * batch * batch


def test_bad_input_is_named():
    x, labels = data()
    with pytest.raises(ValueError, match="block_size is 7, wanted a divisor of the number of embeddings 24"):
        mining.blockwise_losses(supcon, x, labels, block_size=7)
    with pytest.raises(ValueError, match="references is None"):
        mining.blockwise_losses(supcon, x, labels, reference_labels=labels)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_ranks_distances_in_float32(dtype):
    embeddings = jnp.asarray(1 + np.random.default_rng(3).normal(size=(32, 4)) / 8, dtype)
    labels, wide = jnp.arange(32) % 4, embeddings.astype(jnp.float32)
    loss = functools.partial(mining.smooth_ap_loss, reduction="anchors")
    actual, expected = (mining.blockwise_losses(loss, x, labels, block_size=8) for x in (embeddings, wide))
    np.testing.assert_array_equal(actual, expected)
    value, gradient = jax.value_and_grad(mining.mined_triplet_loss)(embeddings, labels)
    right, slopes = jax.value_and_grad(mining.mined_triplet_loss)(wide, labels)
    assert value.dtype == gradient.dtype == dtype
    assert value == right.astype(dtype)
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (gradient, slopes)), atol=2**-7)


def test_32768_pairs_of_two_towers_need_less_than_two_gigabytes_forward_and_backward():
    towers, pairs = jax.ShapeDtypeStruct((32768, 64), "float32"), jnp.arange(32768)
    loss = functools.partial(mining.info_nce_loss, reduction="anchors")

    def both_ways(x, y):
        one_way = lambda u, v: mining.blockwise_losses(loss, u, pairs, v, pairs, block_size=512).mean()  # noqa: E731
        return one_way(x, y) + one_way(y, x)

    memory = jax.jit(jax.value_and_grad(both_ways, (0, 1))).lower(towers, towers).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes < 2e9
