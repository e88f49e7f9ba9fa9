"""Every miner on anchors and other references equals itself on the square problem that holds them as a block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, mining
from tests.conformance_test import CASES

A, M = 16, 24
DRAWS = 2000
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
MINERS = {name: case for name, case in CASES.items() if name.startswith("mine_") and name != "mine_angular"}
DRAWN = {
    "mine_distance_weighted": lambda key: mining.mine_distance_weighted(3, key, farthest=1.9),
    "mine_random": mining.mine_random,
}
SIGNALS = ("reference_labels", "masks")


@functools.cache
def problem(kind):
    """Weights and signals of the anchors and references, and of all 40 items, where all other pairs have weight 0."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(A + M, 2)).astype(np.float32)
    distances = np.sqrt(np.sum((points[:, None] - points[None]) ** 2, axis=-1)) / 2
    distances[2, A + 3] = np.nan
    weights = np.zeros((A + M, A + M), np.float32)
    weights[:A, A:] = rng.uniform(0.5, 2.0, (A, M)) * (rng.random((A, M)) < 0.9)
    square = {"distances": distances}
    if kind == "masks":
        relation = rng.integers(0, 4, (A + M, A + M))  # some pairs are neither
        square |= {"positives": relation == 0, "negatives": relation == 1}
        part = {name: value[:A, A:] for name, value in square.items()}
    else:
        labels = rng.integers(0, 4, A + M).astype(np.int32)
        square |= {"labels": labels}
        part = {"distances": distances[:A, A:], "labels": labels[:A], "reference_labels": labels[A:]}
    return (jnp.asarray(weights[:A, A:]), jax.tree.map(jnp.asarray, part)), (
        jnp.asarray(weights),
        jax.tree.map(jnp.asarray, square),
    )


def once(tx):
    return lambda weights, signals: tx.update(weights, tx.init(weights), **signals)[0]


def over_devices(tx, signals):
    """Weights and signals sharded by rows, but for the labels of the references, which every device holds."""
    specs = {name: P() if name == "reference_labels" else P("data") for name in signals}
    step = once(across("data", tx))
    return jax.jit(jax.shard_map(step, mesh=MESH, in_specs=(P("data"), specs), out_specs=P("data")))


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("name", MINERS)
def test_a_miner_of_rectangular_weights(name, kind):
    tx = MINERS[name].make()
    (weights, signals), square = problem(kind)
    found = jax.jit(once(tx))(weights, signals)
    np.testing.assert_allclose(over_devices(tx, signals)(weights, signals), found, rtol=1e-6, atol=1e-7)
    assert np.any(found > 0) and np.any((found == 0) & (weights > 0))
    if name not in DRAWN:
        whole = np.array(jax.jit(once(tx))(*square))
        np.testing.assert_allclose(found, whole[:A, A:], rtol=1e-6, atol=1e-7)
        whole[:A, A:] = 0
        assert not whole.any()


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_miner_that_draws_has_the_mean_of_the_square_problem(name, kind):
    """The draws depend on the shape, so their means are compared, within five standard errors."""
    part, square = problem(kind)

    def moments(weights, signals):
        draws = jax.vmap(lambda key: once(DRAWN[name](key))(weights, signals))(
            jax.random.split(jax.random.key(0), DRAWS)
        )
        return jnp.mean(draws, axis=0), jnp.var(draws, axis=0)

    mean, variance = jax.jit(moments)(*part)
    whole, whole_variance = (np.array(x) for x in jax.jit(moments)(*square))
    errors = np.sqrt((variance + whole_variance[:A, A:]) / DRAWS)
    np.testing.assert_array_less(np.abs(mean - whole[:A, A:]), 5 * errors + 1e-6)
    whole[:A, A:] = 0
    assert not whole.any() and np.sum(errors > 0) > 20


def test_every_miner_that_draws_is_listed():
    assert set(DRAWN) == {name for name, case in MINERS.items() if jax.tree.leaves(case.make().init(jnp.ones((A, M))))}


@pytest.mark.parametrize("kind", SIGNALS)
def test_angles_need_square_distances(kind):
    part, _ = problem(kind)
    with pytest.raises(ValueError, match=r"distances has shape \[16, 24\].*mine_angular needs square distances"):
        once(mining.mine_angular())(*part)
