"""Many pairs are handled a block of rows at a time: the same values and gradients, in at most 4 arrays of all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import _row_blocks, mining, sample_pairs
from minibatch_jax.mining.losses.dynamic_margins import DynamicMargin
from tests.mining.losses.drawn import pairs

SEEN = DynamicMargin(jnp.arange(1.0, 12.0) / 66)


def dynamic_margin_loss(d, p, n, **options):
    return mining.dynamic_margin_loss(SEEN, d, p, n, **options)[0]


LOSSES = {
    "angular": mining.angular_loss,
    "binomial_deviance": mining.binomial_deviance_loss,
    "circle": functools.partial(mining.circle_loss, scale=8.0),
    "dynamic_margin": dynamic_margin_loss,
    "dynamic_margin, hard": functools.partial(dynamic_margin_loss, mining="hard"),
    "fast_ap": mining.fast_ap_loss,
    "hard_negative": mining.hard_negative_loss,
    "histogram": mining.histogram_loss,
    "intra_pair_variance": mining.intra_pair_variance_loss,
    "lifted_structure": mining.lifted_structure_loss,
    "pnp": functools.partial(mining.pnp_loss, temperature=0.1),
    "ranked_list": functools.partial(mining.ranked_list_loss, boundary=0.8, margin=0.6),
    "smooth_ap": functools.partial(mining.smooth_ap_loss, temperature=0.1),
    "triplet": mining.triplet_loss,
    "triplet, easy positive": functools.partial(mining.triplet_loss, mining="easy_positive"),
}
MINERS = {
    "angular": lambda: mining.mine_angular(margin=jnp.inf),
    "uniform_distances": lambda: mining.mine_uniform_distances(4),
}
DRAWN = {
    "distance_weighted": lambda: mining.mine_distance_weighted(64, key=0),
    "random": lambda: mining.mine_random(key=0, margin=jnp.inf),
}


def in_small_blocks(monkeypatch, block=16):
    """Blocks of `block` pairs, from three blocks on."""
    monkeypatch.setattr(_row_blocks, "WHOLE", 2 * block)
    monkeypatch.setattr(_row_blocks, "BLOCK", block)


def mined(miner, d, p, n):
    tx, weights = miner(), jnp.where(p | n, 1.0, 0.0)
    return tx.update(weights, tx.init(weights), distances=d, positives=p, negatives=n)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_the_same_in_blocks(name, monkeypatch):
    def both(*pairs):
        return jax.jit(jax.value_and_grad(lambda *pairs: LOSSES[name](*pairs)))(*pairs)

    expected = both(*pairs(2))
    in_small_blocks(monkeypatch)
    found = both(*pairs(2))
    assert expected[0] > 0
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "active_mean", "anchor_mean", "sum", "anchors", "none"])
def test_every_reduction_is_the_same_in_blocks(reduction, monkeypatch):
    expected = mining.intra_pair_variance_loss(*pairs(3), reduction=reduction)
    in_small_blocks(monkeypatch)
    found = mining.intra_pair_variance_loss(*pairs(3), reduction=reduction)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (mining.circle_loss, {"reduction": "average"}),
        (mining.smooth_ap_loss, {"temperature": -1.0}),
        (mining.pnp_loss, {"temperature": 0.0}),
    ],
)
def test_an_option_out_of_range_is_refused_in_blocks_too(loss, options, blocks, monkeypatch):
    if blocks:
        in_small_blocks(monkeypatch)
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is "):
        loss(*pairs(2), **options)


@pytest.mark.parametrize("name", MINERS)
def test_a_miner_weighs_the_same_in_blocks(name, monkeypatch):
    expected = mined(MINERS[name], *pairs(2))
    in_small_blocks(monkeypatch)
    found = mined(MINERS[name], *pairs(2))
    assert jnp.any(found > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_each_block_draws_its_own_negatives(name, monkeypatch):
    in_small_blocks(monkeypatch, 96)
    positives = jnp.zeros((24, 48), bool).at[:, 0].set(True)
    weights = np.asarray(mined(DRAWN[name], jnp.full((24, 48), 0.75), positives, ~positives)) * 24
    np.testing.assert_allclose(weights[:, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 2, rtol=1e-6)
    assert len(np.unique(weights[:, 1:].argmax(axis=1))) > 12  # 24 rows, 12 blocks of two


@pytest.mark.parametrize("mode", ["joint", "rows"])
def test_pairs_are_drawn_in_proportion_to_the_plan_in_blocks(mode, monkeypatch):
    in_small_blocks(monkeypatch, 3000)
    rows = jnp.array([[0.1, 0.0, 0.3], [0.2, 0.4, 0.0]])
    plan = jnp.tile(rows, (1500, 1)) if mode == "rows" else rows
    drawn = sample_pairs(0, plan, 3000, mode=mode)
    counts = np.zeros((2, 3))
    np.add.at(counts, (drawn.source % 2, drawn.target), np.asarray(drawn.weights))
    np.testing.assert_allclose(counts / counts.sum(), rows, atol=0.03)
    np.testing.assert_array_equal(counts[rows == 0], 0)


def test_rows_without_a_fitting_divisor_are_one_block():
    assert _row_blocks.number_of_blocks(2048, 2048) == 1
    assert _row_blocks.number_of_blocks(4096, 4096) == 16
    assert _row_blocks.number_of_blocks(4104, 4104) == 19  # 216 rows a block; 18 would leave 228, no multiple of 8
    assert _row_blocks.number_of_blocks(4099, 4099) == 1


@pytest.mark.parametrize("loss", ["circle", "triplet"])
def test_rows_on_several_devices_stay_where_they_are(loss, monkeypatch):
    in_small_blocks(monkeypatch, 1024)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    shapes = [jax.ShapeDtypeStruct((64, 64), dtype, sharding=rows) for dtype in ("float32", "bool", "bool")]
    step = jax.jit(jax.value_and_grad(lambda *pairs: LOSSES[loss](*pairs))).lower(*shapes).compile().as_text()
    assert "while(" in step and "all-reduce(" in step
    assert not any(move in step for move in ("all-gather(", "all-to-all(", "collective-permute("))


def with_gradient(loss):
    return jax.grad(lambda *pairs: loss(*pairs))


PROGRAMS = {
    "dynamic_margin, gradient": with_gradient(dynamic_margin_loss),
    "hard_negative, gradient": with_gradient(mining.hard_negative_loss),
    **{name: functools.partial(mined, miner) for name, miner in (MINERS | DRAWN).items()},
    "sample_pairs": lambda plan, p, n: sample_pairs(0, plan),
    "triplet, gradient": with_gradient(mining.triplet_loss),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_temporaries_of_many_pairs(name):
    size = 4096
    shapes = [jax.ShapeDtypeStruct((size, size), dtype) for dtype in ("float32", "bool", "bool")]
    memory = jax.jit(PROGRAMS[name]).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 4 * 4 * size**2
