"""Gradients of pair losses, distances and similarities, against `jax.grad` of the same loss written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, mining, value_and_grad, weight_transformation
from minibatch_jax.coupling import couple_assignment
from tests.mining.catalog import ON_DISTANCES, ON_SIMILARITIES, TRIPLET_LOSSES, WITHOUT_REDUCTION

ROWS, D, BATCHES = 12, 3, 20

LOSSES = {
    **{loss.__name__: (loss, "distances") for loss in ON_DISTANCES},
    **{loss.__name__: (loss, "similarities") for loss in (*ON_SIMILARITIES, *WITHOUT_REDUCTION)},
    **{name: (loss, "distances") for name, loss in TRIPLET_LOSSES.items()},
}
MINERS = {
    "all": (optax.with_extra_args_support(optax.identity()), lambda d, p, n: (p, n)),
    "multi_similarity": (
        mining.mine_multi_similarity(0.1),
        lambda d, p, n: mining.multi_similarity_pair_masks(-d, p, n, 0.1),
    ),
    "margin": (mining.mine_pair_margin(0.3, 0.9), lambda d, p, n: mining.margin_pair_masks(d, p, n, 0.3, 0.9)),
    "ranges": (
        mining.mine_ranges((0.0, 0.9), (0.2, 2.0)),
        lambda d, p, n: mining.range_pair_masks(d, p, n, (0.0, 0.9), (0.2, 2.0)),
    ),
    "hardest": (mining.mine_hardest_pairs(), mining.hardest_pair_masks),
    "ranks": (
        mining.mine_ranks(negative_ranks=(1, 4)),
        lambda d, p, n: mining.rank_pair_masks(d, p, n, negative_ranks=(1, 4)),
    ),
}


def batches(seed=0, number=BATCHES):
    """Embeddings of which two rows are equal, and labels of four classes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, ROWS, D))
    x[:, 5] = x[:, 2]
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 4, (number, ROWS)), jnp.int32)


def embed(params, x):
    return mining.normalize_embeddings(jnp.tanh(jnp.dot(x, params["w"])))


def items_of(kind):
    def items(params, x):
        similarities = mining.cosine_similarity(embed(params, x))
        return 1 - similarities if kind == "distances" else similarities

    return items


def keep(weights, state, params=None, *, kept, **extra_args):
    return jnp.where(kept, weights, 0), state


@functools.cache
def mined():
    """Parameters, batches and the masks that each miner keeps in each batch, `[miners * batches, ...]`."""

    def masks_of(x, labels):
        distances = items_of("distances")(params, x)
        pairs = mining.positive_mask(labels), mining.negative_mask(labels)
        return [masks(distances, *pairs) for _, masks in MINERS.values()]

    def weights_of(x, labels):
        ones = jnp.ones((ROWS, ROWS), x.dtype)
        signals = {"distances": items_of("distances")(params, x), "labels": labels}
        return [miner.update(ones, miner.init(ones), **signals)[0] for miner, _ in MINERS.values()]

    with jax.enable_x64(True):
        x, labels = batches()
        params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(D, D)))}
        masks, weights = jax.jit(jax.vmap(lambda x, y: (masks_of(x, y), weights_of(x, y))))(x, labels)
    for (positives, negatives), kept in zip(masks[1:], weights[1:]):
        np.testing.assert_array_equal(kept, positives | negatives)
    repeated = [np.tile(a, (len(MINERS), *[1] * (a.ndim - 1))) for a in (x, labels)]
    return params, repeated, [np.concatenate([pair[i] for pair in masks]) for i in (0, 1)]


@pytest.mark.parametrize("name", LOSSES)
def test_every_pair_loss_behind_every_mask_miner_has_the_gradient_of_the_loss_of_the_kept_pairs(name):
    loss, kind = LOSSES[name]
    items = items_of(kind)
    params, (x, labels), masks = mined()
    miner = weight_transformation(lambda weights: optax.EmptyState(), keep, extra_signals=("kept",))
    fn = value_and_grad(items, miner, items=kind, loss=loss)

    def both(batch):
        x, labels, positives, negatives = batch
        (value, _), grads, _ = fn(params, x, optax.EmptyState(), labels=labels, kept=positives | negatives)
        return (value, grads["w"]), jax.value_and_grad(lambda p: loss(items(p, x), positives, negatives))(params)

    with jax.enable_x64(True):
        found = jax.jit(lambda b: jax.lax.map(both, b))((x, labels, *masks))
    (value, gradient), (expected_value, expected) = found
    np.testing.assert_allclose(value, expected_value, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(gradient, expected["w"], rtol=1e-6, atol=1e-9)
    assert np.mean(np.abs(expected["w"]).max(axis=(1, 2)) > 1e-4) > 0.3


@pytest.mark.parametrize("kind", ["distances", "similarities"])
def test_without_a_loss_weights_are_slopes_of_one_sign_for_positives_and_the_other_for_the_rest(kind):
    x, labels = batches(2, 1)
    params = {"w": jnp.eye(D)}
    miner = mining.mine_semihard(0.4)
    x, labels = x[0].astype(jnp.float32), labels[0]
    fn = value_and_grad(items_of(kind), miner, items=kind)
    (value, aux), grads, _ = fn(params, x, miner.init(jnp.ones((ROWS, ROWS))), labels=labels)
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    loss = lambda p: mining.triplet_loss(items_of("distances")(p, x), *masks, margin=0.4, mining="semihard")  # noqa: E731
    np.testing.assert_allclose(grads["w"], jax.grad(loss)(params)["w"], rtol=1e-4, atol=1e-6)
    signs = np.where(masks[0], 1.0, -1.0) * (1 if kind == "distances" else -1)
    np.testing.assert_allclose(value, np.sum(signs * np.asarray(aux.weights) * np.asarray(aux.items)), rtol=1e-5)


def test_rectangular_pairs_and_masks_of_ones_own():
    x, labels = batches(3, 2)
    x, labels = x.astype(jnp.float32), labels
    params = {"w": jnp.eye(D)}
    positives = labels[0][:, None] == labels[1][None, :8]
    negatives = ~positives
    miner = mining.mine_pair_margin(0.1, 0.9)

    def distances(params, batch):
        return 1 - mining.cosine_similarity(embed(params, batch), embed(params, x[1, :8]))

    fn = value_and_grad(distances, miner, items="distances", loss=mining.contrastive_loss)
    state = miner.init(jnp.ones((ROWS, 8)))
    by_masks = fn(params, x[0], state, positives=positives, negatives=negatives)
    by_labels = fn(params, x[0], state, labels=labels[0], reference_labels=labels[1, :8])
    assert jnp.array_equal(by_masks[1]["w"], by_labels[1]["w"])

    def loss(params):
        d = distances(params, x[0])
        return mining.contrastive_loss(d, *mining.margin_pair_masks(d, positives, negatives, 0.1, 0.9))

    np.testing.assert_allclose(by_masks[1]["w"], jax.grad(loss)(params)["w"], rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="one of 'positives' and 'negatives' is given, wanted both"):
        fn(params, x[0], state, positives=positives)


def squared(params, batch):
    sources, targets = batch
    return jnp.sum(jnp.square(jnp.dot(sources, params["w"])[:, None] - targets[None]), axis=2)


def test_pair_losses_are_summed_with_the_weights_of_a_plan():
    x, _ = batches(4, 2)
    sources, targets = x[0].astype(jnp.float32), x[1, :ROWS].astype(jnp.float32)
    params = {"w": jnp.eye(D)}
    couple = couple_assignment()
    cost = squared(params, (sources, targets))
    fn = value_and_grad(squared, couple, items="pair_losses")
    (value, aux), grads, _ = fn(params, (sources, targets), couple.init(cost), cost=cost)
    rows, columns = np.nonzero(aux.weights)
    assert len(rows) == ROWS and sorted(columns) == list(range(ROWS))
    by_hand = lambda p: jnp.sum(jnp.square(jnp.dot(sources[rows], p["w"]) - targets[columns])) / ROWS  # noqa: E731
    expected_value, expected = jax.value_and_grad(by_hand)(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("side", [0, 1])
def test_a_source_or_target_without_weight_reaches_no_pair_gradient(bad, side):
    x, _ = batches(5, 2)
    batch = [x[0].astype(jnp.float32), x[1, :8].astype(jnp.float32)]
    params = {"w": jnp.eye(D)}
    weights = jnp.full((ROWS, 8), 1 / 96).at[(3, slice(None)) if side == 0 else (slice(None), 3)].set(0)
    fn = value_and_grad(squared, optax.identity(), items="pair_losses")
    state = optax.EmptyState()
    expected = fn(params, tuple(batch), state, weights=weights)
    batch[side] = batch[side].at[3].set(bad)
    actual = fn(params, tuple(batch), state, weights=weights)
    np.testing.assert_allclose(actual[1]["w"], expected[1]["w"], rtol=1e-5)
    np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("with_loss", [True, False])
def test_an_example_without_weight_reaches_no_gradient_of_distances(bad, with_loss):
    x, labels = batches(6, 1)
    x, labels = x[0].astype(jnp.float32), labels[0]
    params = {"w": jnp.eye(D)}
    real = jnp.arange(ROWS) != 4
    weights = jnp.where(real[:, None] & real[None], 1.0, 0.0)
    miner = mining.mine_multi_similarity()

    def distances(params, x):
        return mining.squared_euclidean_distances(jnp.dot(x, params["w"]))

    loss = functools.partial(mining.contrastive_loss, negative_margin=3.0) if with_loss else None
    fn = value_and_grad(distances, miner, items="distances", loss=loss)
    state = miner.init(weights)
    expected = fn(params, x, state, labels=labels, weights=weights)
    actual = fn(params, x.at[4].set(bad), state, labels=labels, weights=weights)
    np.testing.assert_allclose(actual[1]["w"], expected[1]["w"], rtol=1e-5)
    np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-5)
    assert np.abs(expected[1]["w"]).max() > 0.1


@pytest.mark.parametrize("references", ["batch and memory", "proxies"])
def test_padding_of_nan_reaches_no_gradient_of_rectangular_pairs(references):
    rng = np.random.default_rng(8)
    x, past = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (6, 8))
    params = {"w": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)}

    def similarities(params, x):
        z = jnp.dot(x, params["w"])
        return jnp.dot(z, (jnp.concatenate([z, past]) if references == "batch and memory" else past).T)

    columns = 14 if references == "batch and memory" else 8
    weights = np.ones((6, columns))
    weights[5] = weights[3] = 0  # row 5 is padding; row 3 is no anchor
    if references == "batch and memory":
        weights[:, 5] = 0  # row 3 is still a reference
    positives = rng.uniform(size=weights.shape) < 0.4
    masks = {"positives": jnp.asarray(positives), "negatives": jnp.asarray(~positives)}
    fn = value_and_grad(similarities, optax.with_extra_args_support(optax.identity()), items="similarities")
    run = lambda x: fn(params, x, optax.EmptyState(), weights=jnp.asarray(weights), **masks)[1]["w"]  # noqa: E731
    np.testing.assert_allclose(run(x.at[5].set(jnp.nan)), run(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [mining.supcon_loss, None], ids=["supcon", "none"])
def test_shard_map_gives_the_gradient_of_one_device(loss):
    x, labels = batches(7, 2)
    x, labels = x.reshape(-1, D)[:16].astype(jnp.float32), labels.reshape(-1)[:16]
    params = {"w": jnp.eye(D)}
    miner = mining.mine_multi_similarity()
    state = miner.init(jnp.ones((16, 16)))
    similarities = lambda p, x: mining.cosine_similarity(embed(p, x))  # noqa: E731
    (value, aux), grads, _ = value_and_grad(similarities, miner, items="similarities", loss=loss)(
        params, x, state, labels=labels
    )

    def everywhere(p, x):
        z = embed(p, x)
        return mining.cosine_similarity(z, jax.lax.all_gather(z, "data", tiled=True))

    def masks(labels):
        columns = jax.lax.all_gather(labels, "data", tiled=True)
        rows = jax.lax.axis_index("data") * labels.shape[0] + jnp.arange(labels.shape[0])
        same = labels[:, None] == columns[None]
        return {"positives": same & (rows[:, None] != jnp.arange(16)[None]), "negatives": ~same}

    fn = value_and_grad(everywhere, across("data", miner), items="similarities", loss=loss, axis_name="data")

    def shard(p, x, labels):
        (v, a), g, _ = fn(p, x, state, **masks(labels))
        return v, a.weights, g, a.kept

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("data"), P("data")), "out_specs": (P(), P("data"), P(), P())}
    found = jax.jit(jax.shard_map(shard, mesh=mesh, **specs))(params, x, labels)
    for actual, expected in zip(found, (value, aux.weights, grads["w"], aux.kept)):
        actual = actual["w"] if isinstance(actual, dict) else actual
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": mining.supcon_loss}, "loss is given with items='losses', wanted items='distances' or 'similarities'"),
        ({"items": "pair_losses", "gather": 4}, "gather is given with items='pair_losses'.*sample_pairs"),
        (
            {"items": "distances", "micro_batches": 2},
            "micro_batches is given with items='distances'.* or encode",
        ),
        ({"items": "pairs"}, "items is 'pairs', wanted one of 'losses', 'pair_losses', 'distances', 'similarities'"),
    ],
)
def test_arguments_that_contradict_each_other_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        value_and_grad(squared, optax.identity(), **options)


def test_items_of_another_rank_are_named():
    fn = value_and_grad(lambda p, b: b, optax.identity(), items="distances")
    with pytest.raises(ValueError, match=r"items_fn returned \[3\], wanted \[A, M\], one distance for each"):
        fn(0.0, jnp.ones(3), optax.EmptyState())
