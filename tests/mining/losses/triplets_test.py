import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from minibatch_jax import mining
from tests.mining.triplet_oracle import MARGIN, batch, choose, oracle

MINING = ("all", "semihard", "nearest_semihard", "hard", "easy_positive")
FALLBACKS = ("drop", "easiest", "hardest")


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("negative", ["hard", "easy", "semihard"])
@pytest.mark.parametrize("positive", ["hard", "easy", "semihard"])
def test_selected_triplets_equal_loops(positive, negative, fallback):
    if positive == negative == "semihard":
        return
    d, p, n = batch(0)
    chosen = mining.triplet_choice(*map(jnp.asarray, (d, p, n)), positive, negative, fallback)
    for i in range(d.shape[0]):
        expected = choose(d[i], p[i], n[i], positive, negative, fallback)
        valid = expected is not None and expected[1] is not None
        assert bool(chosen.valid[i]) == valid
        if valid:
            assert (int(chosen.positive[i]), int(chosen.negative[i])) == expected


def test_long_rows_are_searched_in_blocks():
    d, p, n = batch(12, 5, 96)
    d = np.round(d, 1)  # with ties
    chosen = mining.triplet_choice(*map(jnp.asarray, (d, p, n)), "easy", "hard")
    for i in range(2, 5):
        expected = [np.flatnonzero(m)[np.argmin(d[i][m])] for m in (p[i], n[i])]
        assert [int(chosen.positive[i]), int(chosen.negative[i])] == expected


def test_ties_go_to_the_lowest_column():
    d, mask = jnp.full((1, 6), 0.5), jnp.array([[False, True, True, False, False, False]])
    for positive, negative in itertools.product(["hard", "easy"], ["hard", "easy"]):
        chosen = mining.triplet_choice(d, mask, jnp.roll(mask, 2, axis=1), positive, negative)
        assert (chosen.positive[0], chosen.negative[0]) == (1, 3)


KINDS = [("all", "drop"), ("hard", "drop"), *itertools.product(MINING[1:3] + MINING[4:], FALLBACKS)]
ROTATED = itertools.cycle([("active_mean", False), ("mean", True), ("anchor_mean", False), ("sum", True)])


@pytest.mark.parametrize(
    "name,fallback,reduction,smooth",
    [(*kind, *rest) for kind, rest in zip(KINDS, ROTATED)]
    + [("all", "drop", reduction, smooth) for reduction, smooth in itertools.islice(ROTATED, 4)]
    + [("semihard", "drop", "active_mean", False), ("hard", "drop", "active_mean", False)],
)
def test_loss_and_gradient_equal_triple_loops(name, fallback, reduction, smooth):
    d, p, n = batch(1)
    value, weights = oracle(d, p, n, name, fallback, smooth, reduction)
    options = {"mining": name, "fallback": fallback, "smooth": smooth, "reduction": reduction}
    arguments = tuple(map(jnp.asarray, (d, p, n)))
    loss, gradient = jax.jit(jax.value_and_grad(functools.partial(mining.triplet_loss, **options)))(
        *arguments, margin=MARGIN
    )
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, weights, rtol=1e-5, atol=1e-7)
    again, pair_weights = jax.jit(functools.partial(mining.losses.triplets.triplet_pair_weights, **options))(
        *arguments, margin=MARGIN
    )
    np.testing.assert_array_equal(pair_weights, gradient)
    np.testing.assert_array_equal(again, loss)
    assert np.any(weights > 0) and np.any(weights < 0)


@pytest.mark.parametrize("name", MINING)
def test_gradients_by_distance_and_margin(name):
    with jax.enable_x64(True):
        d, p, n = (jnp.asarray(x) for x in batch(2))
        loss = jax.jit(lambda d, m: mining.triplet_loss(d, p, n, margin=m, mining=name, reduction="mean"))
        check_grads(loss, (d.astype(jnp.float64), jnp.asarray(0.3)), order=1, modes=["rev"], eps=1e-7)


@pytest.mark.parametrize("name", MINING)
def test_losses_of_each_anchor_average_to_the_anchor_mean(name):
    d, p, n = (jnp.asarray(x) for x in batch(11))
    each = jax.jit(functools.partial(mining.triplet_loss, mining=name, reduction="anchors"))(d, p, n)
    weigh = functools.partial(mining.losses.triplets.triplet_pair_weights, mining=name, margin=jnp.inf, reduction="sum")
    mined = np.any(np.asarray(jax.jit(weigh)(d, p, n)[1]) > 0, axis=1)
    each = np.asarray(each)
    assert each.shape == (9,) and np.all(each[~mined] == 0)
    options = {"mining": name, "reduction": "anchor_mean"}
    loss = functools.partial(mining.triplet_loss, **options)
    np.testing.assert_allclose(each[mined].mean(), jax.jit(loss)(d, p, n), rtol=1e-6)
    cotangent = np.arange(9, dtype=np.float32)
    of_anchors = lambda d: mining.triplet_loss(d, p, n, mining=name, reduction="anchors")  # noqa: E731
    (gradient,) = jax.jit(lambda d, cotangent: jax.vjp(of_anchors, d)[1](cotangent))(d, cotangent)
    slope = jax.jit(jax.grad(loss))
    rows = [slope(*(np.asarray(x)[i : i + 1] for x in (d, p, n)))[0] for i in range(9)]
    np.testing.assert_allclose(gradient, cotangent[:, None] * np.stack(rows), rtol=1e-5, atol=1e-6)


def dense_loss(embeddings, labels, margin):
    d = mining.euclidean_distances(embeddings)
    violation = d[:, :, None] - d[:, None, :] + margin
    ok = mining.positive_mask(labels)[:, :, None] & mining.negative_mask(labels)[:, None, :] & (violation > 0)
    return jnp.sum(violation, where=ok) / jnp.sum(ok.astype(d.dtype))


def test_gradient_by_embeddings_equals_the_dense_loss():
    rng = np.random.default_rng(3)
    x = mining.normalize_embeddings(jnp.asarray(rng.normal(size=(20, 6)).astype(np.float32)))
    labels = jnp.asarray(rng.integers(0, 4, 20))

    def loss(x):
        d = mining.euclidean_distances(x)
        return mining.triplet_loss(d, mining.positive_mask(labels), mining.negative_mask(labels), margin=MARGIN)

    value, gradient = jax.jit(jax.value_and_grad(loss))(x)
    expected, gradient_expected = jax.jit(jax.value_and_grad(dense_loss))(x, labels, MARGIN)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MINING)
def test_permuting_and_renaming_changes_nothing(name):
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(14, 3)).astype(np.float32), rng.integers(0, 4, 14)
    order = rng.permutation(14)

    @jax.jit
    def weights(x, labels):
        d, y = mining.euclidean_distances(jnp.asarray(x)), jnp.asarray(labels)
        return mining.losses.triplets.triplet_pair_weights(
            d, mining.positive_mask(y), mining.negative_mask(y), margin=0.5, mining=name
        )

    value, w = weights(x, labels)
    permuted_value, permuted = weights(x[order], 100 - 7 * labels[order])
    np.testing.assert_allclose(permuted_value, value, rtol=1e-5)
    np.testing.assert_allclose(permuted, np.asarray(w)[order][:, order], atol=1e-6)


@pytest.mark.parametrize("name", MINING)
def test_collapsed_embeddings_lose_the_margin(name):
    labels = jnp.arange(8) // 2
    masks = mining.positive_mask(labels), mining.negative_mask(labels)

    def loss(x, **options):
        return mining.triplet_loss(mining.euclidean_distances(x), *masks, margin=0.2, mining=name, **options)

    x = jnp.ones((8, 3))
    step = jax.jit(jax.value_and_grad(loss))
    stuck = name in ("all", "hard")  # nothing is beyond the positive, so the semi-hard kinds find nothing
    np.testing.assert_allclose(step(x)[0], 0.2 if stuck else 0.0, rtol=1e-6)
    np.testing.assert_array_equal(step(x)[1], 0)
    if name != "semihard":
        smooth = jax.jit(lambda x: loss(x, smooth=True, fallback="hardest"))(x)
        np.testing.assert_allclose(smooth, np.log1p(np.exp(0.2)), rtol=1e-6)


@pytest.mark.parametrize(
    "name,reduction", list(zip(MINING, ["active_mean", "mean", "anchor_mean", "sum", "active_mean"]))
)
def test_no_triplets_is_zero_not_nan(name, reduction):
    d = mining.euclidean_distances(jnp.asarray(np.random.default_rng(5).normal(size=(6, 2)).astype(np.float32)))
    step = jax.jit(jax.value_and_grad(functools.partial(mining.triplet_loss, mining=name, reduction=reduction)))
    for labels in (jnp.arange(6), jnp.zeros(6, jnp.int32)):
        value, gradient = step(d, mining.positive_mask(labels), mining.negative_mask(labels))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", MINING)
def test_singletons_have_no_triplet_as_anchors_but_serve_as_negatives(name):
    x = np.random.default_rng(6).normal(size=(7, 2)).astype(np.float32)
    labels = jnp.array([0, 0, 0, 1, 1, 1, 2])
    d = mining.euclidean_distances(jnp.asarray(x))
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    weigh = jax.jit(functools.partial(mining.losses.triplets.triplet_pair_weights, mining=name, fallback="hardest"))
    _, weights = weigh(d, *masks, margin=5.0)
    np.testing.assert_array_equal(weights[6], 0)
    if name == "all":
        assert np.any(weights[:, 6] < 0)


@pytest.mark.parametrize("name,fill", [*zip(MINING, [np.nan, np.inf, -np.inf, np.nan, np.inf]), ("hard", -np.inf)])
def test_non_finite_distances_are_in_no_triplet(name, fill):
    d, p, n = batch(7)
    bad = np.random.default_rng(8).random(d.shape) < 0.2
    options = {"mining": name, "fallback": "easiest"}
    weigh = jax.jit(functools.partial(mining.losses.triplets.triplet_pair_weights, **options))
    spoilt = weigh(jnp.where(bad, fill, d), jnp.asarray(p), jnp.asarray(n))
    clean = weigh(jnp.asarray(d), jnp.asarray(p & ~bad), jnp.asarray(n & ~bad))
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    step = jax.jit(jax.value_and_grad(functools.partial(mining.triplet_loss, **options)))
    loss, gradient = step(jnp.where(bad, fill, d), jnp.asarray(p), jnp.asarray(n))
    assert np.isfinite(loss) and np.all(np.isfinite(gradient))


def test_half_precision_keeps_its_dtype():
    d, p, n = (jnp.asarray(x) for x in batch(9))
    loss, gradient = jax.value_and_grad(mining.triplet_loss)(d.astype(jnp.bfloat16), p, n)
    assert loss.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, mining.triplet_loss(d, p, n), rtol=0.05)


def test_shards_of_anchors_add_up_to_the_whole():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(10)
    x, labels = jnp.asarray(rng.normal(size=(16, 3)).astype(np.float32)), jnp.asarray(np.arange(16) // 4)

    def masks(y, everyone, rows):
        itself = rows[:, None] == jnp.arange(16)[None, :]
        return mining.positive_mask(y, everyone) & ~itself, mining.negative_mask(y, everyone)

    for name in ("all", "nearest_semihard"):

        def local(x, y, rows):
            everywhere = jax.lax.all_gather(x, "data", tiled=True)
            d = mining.euclidean_distances(x, everywhere)
            pairs = masks(y, jax.lax.all_gather(y, "data", tiled=True), rows)
            return jax.lax.psum(mining.triplet_loss(d, *pairs, mining=name, reduction="sum"), "data")  # noqa: B023

        sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P("data"), P("data")), out_specs=P())
        value, gradient = jax.jit(jax.value_and_grad(sharded))(x, labels, jnp.arange(16))

        def whole(x):
            d = mining.euclidean_distances(x)
            return mining.triplet_loss(
                d,
                mining.positive_mask(labels),
                mining.negative_mask(labels),
                mining=name,  # noqa: B023
                reduction="sum",
            )

        expected, gradient_expected = jax.jit(jax.value_and_grad(whole))(x)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-4, atol=1e-5)


def test_bad_input_is_named():
    d, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="negative is 'semihard', wanted one of 'hard', 'easy'"):
        mining.triplet_choice(d, mask, mask, "semihard", "semihard")
    with pytest.raises(ValueError, match="mining is 'semi', wanted one of"):
        mining.triplet_loss(d, mask, mask, mining="semi")
    with pytest.raises(ValueError, match="reduction is 'none'"):
        mining.losses.triplets.triplet_pair_weights(d, mask, mask, reduction="none")
    with pytest.raises(ValueError, match="fallback is None"):
        mining.triplet_choice(d, mask, mask, fallback=None)
    with pytest.raises(TypeError, match="positional arguments"):
        mining.triplet_loss(d, mask, mask, 0.2)
    with pytest.raises(TypeError, match="positional arguments"):
        mining.losses.triplets.triplet_pair_weights(d, mask, mask, 0.2)
    with pytest.raises(ValueError, match="margin is nan"):
        mining.triplet_loss(d, mask, mask, margin=float("nan"))
    with pytest.raises(TypeError, match="distances has dtype int32"):
        mining.triplet_loss(jnp.ones((2, 3), jnp.int32), mask, mask)
    with pytest.raises(ValueError, match=r"distances has shape \[0, 3\]"):
        mining.triplet_loss(d[:0], mask[:0], mask[:0])
    with pytest.raises(ValueError, match="fallback is 'none'"):
        mining.mine_semihard(fallback="none")
