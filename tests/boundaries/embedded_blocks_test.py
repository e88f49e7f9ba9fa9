"""Gradients of batches that are embedded in blocks, against the same loss of all embeddings at once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, among_rows, mining, replicate, value_and_grad
from minibatch_jax.boundaries import embed_in_blocks
from minibatch_jax.selection import keep_by_jest

B, BLOCK, D = 24, 4, 5
NOTHING = optax.with_extra_args_support(optax.identity())
EMPTY = optax.EmptyState()
LABELS = jnp.arange(B, dtype=jnp.int32) % 6


def problem(dtype=jnp.float64):
    rng = np.random.default_rng(0)
    params = {"image": rng.normal(size=(D, D)), "text": rng.normal(size=(D, D)), "scale": np.asarray(0.7)}
    batch = {"image": rng.normal(size=(B, D)), "text": rng.normal(size=(B, D))}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, batch))


def encode(params, block):
    return {n: mining.normalize_embeddings(jnp.tanh(jnp.dot(block[n], params[n]))) for n in ("image", "text")}


def one_tower(params, block):
    return encode(params, block)["image"]


def similarities(params, z, batch):
    return params["scale"] * mining.cosine_similarity(z)


def distances(params, z, batch):
    return params["scale"] * mining.squared_euclidean_distances(z)


def clip(params, z, batch):
    return params["scale"] * jnp.dot(z["image"], z["text"].T)


def pair_losses(params, z, batch):
    return jax.nn.softplus(jnp.where(jnp.eye(B, dtype=bool), -1, 1) * clip(params, z, batch))


def both_ways(params, z, batch):
    """CLIP's losses of images and of texts, without an array of all pairs."""
    pairs = jnp.arange(B)
    loss = functools.partial(mining.supcon_loss, temperature=1.0, reduction="anchors")
    compare = mining.dot_product_similarity

    def losses(x, y):
        return mining.blockwise_losses(loss, x, pairs, y, pairs, compare=compare, block_size=6)

    image = params["scale"] * z["image"]
    return {"image": losses(image, z["text"]), "text": losses(z["text"], image)}


def whole(encode, items_fn, transformation, **options):
    return value_and_grad(lambda p, b: items_fn(p, encode(p, b), b), transformation, **options)


def masks():
    return mining.positive_mask(LABELS), mining.negative_mask(LABELS)


JEST = among_rows(keep_by_jest(8, 2, 0))
STEPS = {
    "ntxent": (one_tower, similarities, NOTHING, {"items": "similarities", "loss": mining.ntxent_loss}),
    "supcon": (one_tower, similarities, NOTHING, {"items": "similarities", "loss": mining.supcon_loss}),
    "miner": (
        one_tower,
        similarities,
        mining.mine_multi_similarity(),
        {"items": "similarities", "loss": mining.supcon_loss},
    ),
    "triplets": (one_tower, distances, mining.mine_semihard(0.4), {"items": "distances"}),
    "jest": (encode, pair_losses, JEST, {"items": "pair_losses"}),
    "clip": (encode, both_ways, NOTHING, {}),
}


BY_HAND = ("ntxent", "supcon", "clip", "triplets")


def by_hand(name, params, batch):
    """The loss as a formula of all embeddings, where one is at hand."""
    if name == "clip":
        s = clip(params, encode(params, batch), batch)
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(s, 1)) + jnp.diagonal(jax.nn.log_softmax(s, 0)))
    if name == "triplets":
        d = distances(params, one_tower(params, batch), batch)
        return mining.triplet_loss(d, *masks(), margin=0.4, mining="semihard")
    loss = STEPS[name][3]["loss"]
    return loss(similarities(params, one_tower(params, batch), batch), *masks())


def agree(found, expected, rtol=1e-6, atol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


def signals_of(name, params, batch):
    if name != "jest":
        return {"labels": LABELS} if STEPS[name][3] else {}
    return {"reference_pair_losses": 0.5 * pair_losses(params, encode(params, batch), batch)}


def state_of(transformation, options):
    return transformation.init(jnp.ones((B, B) if "items" in options else B))


@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_is_that_of_all_embeddings_at_once(name):
    encoder, items_fn, transformation, options = STEPS[name]
    with jax.enable_x64(True):
        params, batch = problem()
        state, signals = state_of(transformation, options), signals_of(name, params, batch)
        fn = value_and_grad(items_fn, transformation, encode=encoder, block_size=BLOCK, **options)
        plain = whole(encoder, items_fn, transformation, **options)

        def both(params, batch):
            (value, aux), grads, _ = fn(params, batch, state, **signals)
            if name in BY_HAND:
                return (value, grads), jax.value_and_grad(functools.partial(by_hand, name))(params, batch)
            (expected, wanted), slopes, _ = plain(params, batch, state, **signals)
            return (value, grads, aux.weights), (expected, slopes, wanted.weights)

        found, expected = jax.jit(both)(params, batch)
        if name == "triplets":  # the value lacks the margin
            found, expected = found[1], expected[1]
        agree(found, expected)
        assert np.abs((found if name == "triplets" else found[1])["image"]).max() > 1e-3


class Counted:
    """An encoder that counts its calls, and notes which rows they had."""

    def __init__(self, encode):
        self.encode, self.rows = encode, []

    def __call__(self, params, block):
        self.rows.append(np.asarray(block["row"]).tolist())
        return self.encode(params, block)


@pytest.mark.parametrize(
    ("gather", "kept", "second"),
    [
        (None, (1, 7, 13), [[1, 7, 13, 19]]),  # all three lie in one of six blocks
        (None, (0, 1, 2), [[0, 6, 12, 18], [1, 7, 13, 19], [2, 8, 14, 20]]),
        (4, (0, 1, 2), [[0, 1, 2, 0]]),  # packed into one block
        (4, (0, 1, 2, 6, 7), [[0, 6, 12, 18], [1, 7, 13, 19], [2, 8, 14, 20]]),  # more than were promised
    ],
)
def test_only_blocks_with_a_kept_row_are_encoded_again(gather, kept, second):
    params, batch = problem(jnp.float32)
    batch = batch | {"row": jnp.arange(B)}
    rows = jnp.isin(jnp.arange(B), jnp.asarray(kept))
    weights = jnp.where(rows[:, None] & rows[None], 1.0, 0.0)
    counted = Counted(encode)
    options = {"items": "pair_losses", "encode": counted, "block_size": BLOCK, "gather": gather}
    _, grads, _ = value_and_grad(pair_losses, NOTHING, **options)(params, batch, EMPTY, weights=weights)
    assert counted.rows == [*([j, j + 6, j + 12, j + 18] for j in range(6)), *second]
    _, expected, _ = whole(encode, pair_losses, NOTHING, items="pair_losses")(params, batch, EMPTY, weights=weights)
    agree(grads, expected, 1e-4)


def test_random_numbers_of_a_block_are_the_same_both_times():
    params, batch = problem(jnp.float32)
    keys = jax.random.split(jax.random.key(0), B)

    def dropped(params, rows, keep):
        return mining.normalize_embeddings(jnp.where(keep, jnp.tanh(jnp.dot(rows, params["image"])), 0))

    def by_row(params, block):
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, (D,)))(block["key"])
        return dropped(params, block["image"], keep)

    def by_block(params, block):
        return dropped(params, block["image"], jax.random.bernoulli(block["key"][0], 0.7, block["image"].shape))

    def all_blocks(params, batch):
        blocks = [jax.tree.map(lambda x: x[j :: B // BLOCK], batch) for j in range(B // BLOCK)]  # noqa: B023
        return jnp.stack([by_block(params, block) for block in blocks], axis=1).reshape(B, D)

    rows = jnp.arange(B) >= 8  # the first row of some blocks, which holds their key, has no weight
    options = {"items": "distances"}
    weights = jnp.where(rows[:, None] & rows[None], 1.0, 0.0)
    for encoder, reference in ((by_row, by_row), (by_block, all_blocks)):
        args = params, batch | {"key": keys}, EMPTY
        fn = value_and_grad(distances, NOTHING, encode=encoder, block_size=BLOCK, **options)
        plain = whole(reference, distances, NOTHING, **options)
        agree(fn(*args, labels=LABELS, weights=weights)[1], plain(*args, labels=LABELS, weights=weights)[1], 1e-4)


@pytest.mark.parametrize(("gather", "jit"), [(16, jax.jit), (None, lambda f: f)], ids=["jit", "eager"])
def test_padding_of_nan_reaches_no_gradient(gather, jit):
    params, batch = problem(jnp.float32)
    real = jnp.arange(B) % 4 != 1
    weights = jnp.where(real[:, None] & real[None], 1.0, 0.0)
    spoilt = batch | {"image": jnp.where(real[:, None], batch["image"], jnp.nan)}
    options = {"items": "similarities", "loss": mining.supcon_loss}
    fn = value_and_grad(similarities, NOTHING, encode=one_tower, block_size=BLOCK, gather=gather, **options)
    (value, _), grads, _ = jit(fn)(params, spoilt, EMPTY, labels=LABELS, weights=weights)
    (expected, _), slopes, _ = whole(one_tower, similarities, NOTHING, **options)(
        params, batch, EMPTY, labels=LABELS, weights=weights
    )
    agree((value, grads), (expected, slopes), 1e-4)


def test_nothing_left_and_a_slope_that_is_not_finite_are_seen():
    params, batch = problem(jnp.float32)
    fn = value_and_grad(distances, NOTHING, items="distances", encode=one_tower, block_size=BLOCK)
    broken = jax.tree.map(lambda x: x * jnp.nan, batch)
    (value, aux), grads, _ = fn(params, broken, EMPTY, labels=LABELS)
    assert np.isnan(value) and int(aux.dropped) == B * B
    agree(grads, jax.tree.map(jnp.zeros_like, params))
    root = lambda p, z, b: jnp.sqrt(jnp.sum(jnp.square(z - z), axis=1))  # noqa: E731
    _, grads, _ = value_and_grad(root, NOTHING, encode=one_tower, block_size=BLOCK)(params, batch, EMPTY)
    _, expected, _ = whole(one_tower, root, NOTHING)(params, batch, EMPTY)
    assert np.isnan(grads["image"]).all() and np.isnan(expected["image"]).all()


def everywhere(params, z, batch):
    return params["scale"] * mining.cosine_similarity(z, jax.lax.all_gather(z, "data", tiled=True))


@pytest.mark.parametrize(("items", "gather"), [("pair_losses", None), ("losses", None), ("losses", 8)])
def test_eight_devices_give_the_gradient_of_one(items, gather):
    params, batch = problem(jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = jnp.isin(jnp.arange(B), jnp.asarray([0, 5, 10, 11]))
    weights = jnp.where(rows, 0.25, 0)
    pairs = lambda p, z, b: p["scale"] * mining.cosine_similarity(z)  # noqa: E731
    if items == "pair_losses":
        weights, local, one = weights[:, None] * jnp.ones((1, B)), everywhere, pairs
    else:  # a device without an anchor of its own still has references
        local, one = (lambda p, z, b, f=f: jnp.sum(jnp.exp(f(p, z, b)), axis=1) for f in (everywhere, pairs))
    options = {"items": items, "encode": one_tower, "gather": gather}
    fn = value_and_grad(local, across("data", NOTHING), block_size=1, axis_name="data", **options)

    def part(params, batch, weights):
        (value, _), grads, _ = fn(params, batch, EMPTY, weights=weights)
        return value, grads

    shard = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    found = jax.jit(shard)(params, batch, weights)
    (value, _), grads, _ = whole(one_tower, one, NOTHING, items=items)(params, batch, EMPTY, weights=weights)
    agree(found, (value, grads), 1e-4)


@pytest.mark.parametrize(("kind", "gather"), [("Auto", None), ("Explicit", 8)])
def test_a_batch_on_a_mesh_is_encoded_where_it_lies(kind, gather):
    rng = np.random.default_rng(0)
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((7, D), (B, 7)))
    few = jnp.arange(B) < 8
    weights = jnp.where(few[:, None] & few[None], 1.0, 0.0)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2)
    rows = P("data", None) if kind == "Explicit" else None

    def tanh(out_sharding):
        return lambda w, x: jnp.tanh(jnp.dot(x, w, out_sharding=out_sharding))

    def squares(out_sharding):
        return lambda w, z, x: jnp.square(jnp.dot(z, replicate(z).T, out_sharding=out_sharding))

    options = {"items": "pair_losses", "encode": tanh(rows), "gather": gather, "rows_axis": "data"}
    fn = value_and_grad(squares(rows), NOTHING, block_size=8, **options)
    with jax.set_mesh(mesh):
        places = P(), P("data"), P("data")
        placed = [jax.device_put(a, NamedSharding(mesh, p)) for a, p in zip((w, x, weights), places)]
        compiled = jax.jit(lambda w, x, weights: fn(w, x, EMPTY, weights=weights)[1]).lower(*placed).compile()
        found = compiled(*placed)
    assert not re.findall(r"\[(?:\d+,)+7\]\S* all-gather\(", compiled.as_text())
    plain = whole(tanh(None), squares(None), NOTHING, items="pair_losses")
    agree(found, plain(w, x, EMPTY, weights=weights)[1], 1e-4, 1e-4)


class Net(nnx.Module):
    def __init__(self, *, drop, norm=False):
        rngs = nnx.Rngs(0)
        self.out, self.drop = nnx.Linear(D, 3, rngs=rngs), nnx.Dropout(drop, rngs=rngs)
        self.norm = nnx.BatchNorm(D, rngs=rngs) if norm else lambda x: x

    def __call__(self, x):
        return self.out(self.drop(self.norm(x)))


NETS = {None: {"drop": 0.0}, "drop.*count": {"drop": 0.5}, "norm.*mean": {"drop": 0.0, "norm": True}}


@pytest.mark.parametrize("changed", NETS)
def test_modules_of_nnx_without_mutable_state_only(changed):
    net = Net(**NETS[changed])
    _, batch = problem(jnp.float32)
    items = lambda net, z, b: mining.squared_euclidean_distances(z)  # noqa: E731
    encoder = lambda net, b: net(b["image"])  # noqa: E731
    fn = value_and_grad(items, NOTHING, items="distances", encode=encoder, block_size=BLOCK)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if changed is not None:
            with pytest.raises(ValueError, match=f"encode changes .*{changed}.*each block is encoded twice"):
                fn(net, batch, EMPTY, labels=LABELS)
            return
        _, grads, _ = nnx.jit(lambda net: fn(net, batch, EMPTY, labels=LABELS))(net)
        plain = nnx.jit(lambda net: whole(encoder, items, NOTHING, items="distances")(net, batch, EMPTY, labels=LABELS))
        agree(grads, plain(net)[1], 1e-4, 1e-3)


def test_low_precision_and_frozen_parameters():
    params, batch = problem(jnp.float32)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, batch))
    options = {"items": "distances", "wrt": lambda path: path != "scale"}
    fn = value_and_grad(distances, NOTHING, encode=one_tower, block_size=BLOCK, **options)
    _, grads, _ = fn(*low, EMPTY, labels=LABELS)
    assert grads["image"].dtype == jnp.bfloat16 and grads["scale"] is None
    _, expected, _ = fn(params, batch, EMPTY, labels=LABELS)
    np.testing.assert_allclose(grads["image"].astype(jnp.float32), expected["image"], rtol=0.1, atol=1)


def test_the_memory_is_that_of_a_block_and_of_embeddings():
    width, depth, size, block = 64, 8, 4, 512

    def deep(params, batch):
        x = batch
        for _ in range(depth):
            x = jnp.tanh(jnp.dot(x, params))
        return x[:, :size]

    def items(params, z, batch):
        loss = functools.partial(mining.ntxent_loss, reduction="anchors")
        return mining.blockwise_losses(loss, z, jnp.arange(len(z)) // 2, block_size=8)

    fn = value_and_grad(items, NOTHING, encode=deep, block_size=block)
    params = jax.ShapeDtypeStruct((width, width), jnp.float32)

    def temporaries(function, rows):
        arguments = params, jax.ShapeDtypeStruct((rows, width), jnp.float32)
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    plain = temporaries(jax.value_and_grad(lambda p, b: jnp.mean(items(p, deep(p, b), b))), block)
    for rows in (1024, 4096):
        beside = 2 * rows * size * 4 + width * width * 4  # embeddings, their slopes, the gradient of a block
        assert temporaries(lambda p, b: fn(p, b, EMPTY)[:2], rows) - beside <= 1.1 * plain


def test_embed_in_blocks_is_the_encoder():
    params, batch = problem(jnp.float32)
    agree(embed_in_blocks(encode, params, batch, BLOCK), encode(params, batch), 1e-5)
    total = lambda p: jnp.sum(embed_in_blocks(one_tower, p, batch, BLOCK))  # noqa: E731
    agree(jax.jit(jax.grad(total))(params), jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"block_size": None}, ValueError, "block_size is None, wanted both encode and block_size or neither"),
        ({"encode": None}, ValueError, "encode is None, wanted both encode and block_size or neither"),
        ({"encode": 3}, TypeError, "encode is int, wanted a function of parameters and a block"),
        ({"block_size": 5}, ValueError, "block_size is 5, wanted a divisor of the rows: 24"),
        ({"block_size": 0}, ValueError, "block_size is 0, wanted at least 1"),
        ({"gather": 6}, ValueError, "block_size is 4, wanted a divisor of the rows to gather: 6"),
        ({"gather": 30}, ValueError, "gather is 30, wanted at most 24"),
        ({"micro_batches": 2}, ValueError, "micro_batches is given with encode, wanted block_size alone"),
        ({"score_fn": distances}, ValueError, "score_fn is given with encode, wanted a selection of the items"),
        ({"has_state": True}, ValueError, "has_state is given with encode, wanted no state: each block is encoded"),
        ({"encode": lambda p, b: b["image"][:1]}, ValueError, r"embeddings has shape \[1, 5\], wanted 4 rows"),
        ({"encode": lambda p, b: jnp.arange(4)}, TypeError, "embeddings has dtype int32, wanted a floating-point"),
        ({"encode": lambda p, b: ()}, TypeError, r"encode returned \(\), wanted embeddings \[b, ...\]"),
    ],
)
def test_bad_input_is_named(options, error, message):
    params, batch = problem(jnp.float32)
    options = {"encode": one_tower, "block_size": BLOCK, "items": "distances"} | options
    with pytest.raises(error, match=message):
        value_and_grad(distances, NOTHING, **options)(params, batch, EMPTY, labels=LABELS)
    with pytest.raises(ValueError, match=r"batch\['key'\] has shape \[\], wanted 24 rows"):
        embed_in_blocks(one_tower, params, batch | {"key": jnp.zeros(())}, BLOCK)
    with pytest.raises(ValueError, match="batch has 0 rows, wanted at least 1"):
        embed_in_blocks(one_tower, params, jax.tree.map(lambda x: x[:0], batch), BLOCK)
