import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import mining, normalize, value_and_grad
from minibatch_jax.selection import keep_topk
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses

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


def losses_of_towers(loss, x, y, block_size):
    pairs = jnp.arange(x.shape[0])
    compare = mining.dot_product_similarity
    return mining.blockwise_losses(loss, x, pairs, y, pairs, compare=compare, block_size=block_size)


def info_nce_of_towers(towers, block_size):
    loss = functools.partial(mining.info_nce_loss, temperature=1 / towers["scale"], reduction="anchors")
    x, y = towers["first"], towers["second"]
    return losses_of_towers(loss, x, y, block_size) + losses_of_towers(loss, y, x, block_size)


def sigmoid_of_towers(towers, block_size):
    loss = functools.partial(mining.sigmoid_loss, scale=towers["scale"], bias=towers["bias"], reduction="anchors")
    return losses_of_towers(loss, towers["first"], towers["second"], block_size)


def info_nce_of_all_pairs(towers):
    logits = towers["scale"] * jnp.dot(towers["first"], towers["second"].T, precision="highest")
    return -sum(jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (0, 1))


def sigmoid_of_all_pairs(towers):
    return jnp.sum(sigmoid_pair_losses(PairEmbeddings(**towers)), axis=1)


@pytest.mark.parametrize(
    ("of_blocks", "of_all"),
    [(info_nce_of_towers, info_nce_of_all_pairs), (sigmoid_of_towers, sigmoid_of_all_pairs)],
)
def test_weighted_rows_of_two_towers_have_the_value_and_gradient_of_all_pairs(of_blocks, of_all):
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(96, 8)).astype(np.float32) for _ in range(2))
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first + second, second))
    towers = {"first": first, "second": second, "scale": np.float32(8), "bias": np.float32(-6)}
    half = optax.chain(keep_topk(48), normalize())

    def step(items_fn):
        fn = value_and_grad(items_fn, half)
        return jax.jit(lambda towers: fn(towers, jnp.zeros(96), half.init(jnp.zeros(96))))(towers)

    (value, aux), slopes, _ = step(lambda towers, _: of_blocks(towers, 16))
    (expected, expected_aux), wanted, _ = step(lambda towers, _: of_all(towers))
    assert np.count_nonzero(aux.weights) == 48
    np.testing.assert_allclose(aux.items, expected_aux.items, rtol=1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, slope in wanted.items():
        np.testing.assert_allclose(slopes[name], slope, rtol=1e-5, atol=1e-5 * np.max(np.abs(slope)), err_msg=name)


@pytest.mark.parametrize("of_towers", [info_nce_of_towers, sigmoid_of_towers])
def test_32768_pairs_of_two_towers_need_less_than_two_gigabytes_forward_and_backward(of_towers):
    number, tower = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((32768, 64), "float32")
    towers = {"first": tower, "second": tower, "scale": number, "bias": number}
    step = jax.jit(jax.value_and_grad(lambda towers: of_towers(towers, 512).mean()))
    memory = step.lower(towers).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes < 2e9
