"""Against `optax.lars` where it agrees, its vmap for stacked leaves, and the equations of the paper in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax.schedules import scale_by_layer_trust_ratio

RNG = np.random.default_rng(0)
SCALES = np.array([1, 10, 0.1], np.float32)[:, None, None]
W = {"stack": RNG.normal(size=(3, 4, 2)).astype(np.float32) * SCALES, "head": RNG.normal(size=5).astype(np.float32)}
G = jax.tree.map(lambda w: RNG.normal(size=w.shape).astype(np.float32), W)
ETA, BETA = 0.02, 0.3


def updated(params=W, gradients=G, **options):
    tx = scale_by_layer_trust_ratio(ETA, BETA, **options)
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(gradients, params)


def optax_lars(gradients, params):
    tx = optax.lars(1.0, BETA, trust_coefficient=ETA, momentum=0.0)
    return jax.tree.map(jnp.negative, tx.update(gradients, tx.init(params), params)[0])


def paper(g, w):
    g, w = np.float64(g), np.float64(w)
    ratio = ETA * np.linalg.norm(w) / (np.linalg.norm(g) + BETA * np.linalg.norm(w))
    return ratio * (g + BETA * w)


def check_same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), found, expected)


def stacked(path, leaf):
    return 0 if path == "stack" else ()


def test_the_sum_is_optax_and_the_paper_is_its_closed_form():
    check_same(updated(denominator="sum"), optax_lars(G, W))
    check_same(updated(), jax.tree.map(paper, G, W))


def test_stacked_layers_are_what_each_layer_gets_alone():
    expected = {"stack": jax.vmap(optax_lars)(G["stack"], W["stack"]), "head": optax_lars(G["head"], W["head"])}
    check_same(updated(denominator="sum", batch_axes=stacked), expected)
    assert np.max(np.abs(expected["stack"] - optax_lars(G, W)["stack"])) > 0.1
    expected = {"stack": np.stack(list(map(paper, G["stack"], W["stack"]))), "head": paper(G["head"], W["head"])}
    check_same(updated(batch_axes=stacked), expected)


def test_several_axes_from_either_end_are_layers():
    found = updated(batch_axes=lambda path, leaf: (0, -1) if path == "stack" else ())["stack"]
    for layer in range(3):
        for column in range(2):
            expected = paper(G["stack"][layer, :, column], W["stack"][layer, :, column])
            np.testing.assert_allclose(found[layer, :, column], expected, rtol=1e-5, atol=1e-9)


def test_the_path_of_a_leaf_is_its_names():
    seen = []
    tree = {"blocks": [jnp.ones(2)]}
    tx = scale_by_layer_trust_ratio(batch_axes=lambda path, leaf: seen.append((path, leaf.shape)) or ())
    tx.update(tree, tx.init(tree), tree)
    assert seen == [("blocks/0", (2,))]


@pytest.mark.parametrize("denominator", ["sum", "paper"])
def test_a_norm_of_zero_has_the_ratio_one_as_in_optax(denominator):
    zero = jax.tree.map(np.zeros_like, W)
    check_same(updated(zero, G, denominator=denominator), G)
    still = updated(W, zero, denominator=denominator)
    check_same(still, optax_lars(zero, W))  # the decay alone moves, at the rate of the coefficient
    check_same(updated(zero, zero, denominator=denominator), zero)


def test_what_is_frozen_has_no_gradient():
    params = {"w": jnp.array([3.0, 4.0]), "frozen": jnp.ones(3), "empty": jnp.zeros((0, 2))}
    tx = scale_by_layer_trust_ratio(1.0)
    gradients = {"w": jnp.array([0.0, 2.0]), "frozen": None, "empty": jnp.zeros((0, 2))}
    updates, _ = tx.update(gradients, tx.init(params), params)
    assert updates["frozen"] is None and updates["empty"].shape == (0, 2)
    np.testing.assert_allclose(updates["w"], [0, 5])


def test_the_clip_bounds_the_ratio():
    found = updated(denominator="sum", clip=0.004)
    plain = jax.tree.map(lambda g, w: g + BETA * w, G, W)
    ratios = jax.tree.map(lambda p, w: ETA * np.linalg.norm(w) / np.linalg.norm(p), plain, W)
    assert ratios["head"] > 0.004
    check_same(found, jax.tree.map(lambda p, r: min(r, 0.004) * p, plain, ratios))


def test_scales_of_weights_and_gradients():
    tx = scale_by_layer_trust_ratio(ETA)
    one, other = (tx.update({"w": d * G["head"]}, (), {"w": c * W["head"]})[0]["w"] for c, d in ((1, 1), (7, 3)))
    np.testing.assert_allclose(other, 7 * one, rtol=1e-5)


def test_norms_of_half_precision_are_those_of_float32():
    w, g = jnp.full(4096, 64, jnp.float16), jnp.full(4096, 32, jnp.float16)  # the sum of squares is 2^24
    found = updated({"w": w}, {"w": g}, denominator="sum")["w"]
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(np.float32(found), ETA * 64, rtol=1e-3)


def test_sharded_parameters_have_the_ratio_of_the_whole():
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    tx = scale_by_layer_trust_ratio(ETA, BETA, axis_name="model", batch_axes=stacked)
    cut = {"stack": P(None, "model"), "head": P()}  # the head is whole on every device
    update = jax.shard_map(
        lambda g, p: tx.update(g, (), p)[0], mesh=mesh, in_specs=(cut, cut), out_specs=cut, check_vma=False
    )
    check_same(jax.jit(update)(G, W), updated(batch_axes=stacked))
    check_same(jax.jit(lambda g, p: tx.update(g, (), p)[0])(G, W), updated(batch_axes=stacked))  # no axis is bound


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_by_layer_trust_ratio(0.0), r"trust_coefficient is 0.0, wanted a number in \(0, inf\)"),
        (lambda: scale_by_layer_trust_ratio(weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: scale_by_layer_trust_ratio(denominator="mean"), "denominator is 'mean', wanted one of 'paper', 'sum'"),
        (lambda: scale_by_layer_trust_ratio(clip=0.0), "clip is 0.0"),
        (lambda: scale_by_layer_trust_ratio().update(G, ()), "params is None, wanted the parameters"),
        (
            lambda: updated(batch_axes=lambda path, leaf: 1),
            "batch_axes of 'head' is 1, wanted axes of an array",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
