import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minibatch_jax import modules


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(count)]


def test_byol_losses_are_squared_distances_of_unit_vectors():
    p, z = arrays(2)
    unit = lambda v: np.asarray(v) / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(modules.byol_losses(p, z), ((unit(p) - unit(z)) ** 2).sum(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(modules.byol_losses(p, 3 * p), 0, atol=1e-6)
    np.testing.assert_allclose(modules.byol_losses(p, -p), 4, rtol=1e-6)
    slope, constant = jax.grad(lambda p, z: modules.byol_losses(p, z).sum(), argnums=(0, 1))(p, z)
    assert np.any(slope != 0)
    np.testing.assert_array_equal(constant, 0)
    assert np.all(np.isfinite(jax.grad(lambda p: modules.byol_losses(p, z).sum())(jnp.zeros((5, 3)))))


def test_losses_pair_views_with_the_targets_of_the_paper():
    p, (z1, z2), (w1, w3) = arrays(3, 1), arrays(2, 2), arrays(2, 3)
    ell = modules.byol_losses
    expected = (ell(p[0], z2) + ell(p[1], z1)) / 2 + (ell(p[0], w3) + ell(p[2], w1)) / 2
    np.testing.assert_allclose(modules.tri_byol_losses(tuple(p), (z1, z2), (w1, w3)), expected, rtol=1e-6)
    one_way = modules.tri_byol_losses(tuple(p), (z1, z2), (w1, w3), symmetric=False)
    np.testing.assert_allclose(one_way, ell(p[0], z2) + ell(p[0], w3), rtol=1e-6)


def test_targets_that_tie_are_one_target():
    online = [{"w": jnp.full(2, float(t))} for t in range(1, 7)]
    tied = moved = modules.init_targets({"w": jnp.zeros(2)})
    for parameters in online:
        tied = modules.update_targets(tied, parameters, 0.9, alternate=False)
        moved = modules.update_targets(moved, parameters, 0.9)
    np.testing.assert_array_equal(tied.first["w"], tied.second["w"])
    assert np.all(moved.first["w"] != moved.second["w"])


@pytest.mark.parametrize("alternate", [False, True])
def test_targets_are_exponential_averages(alternate):
    targets = modules.init_targets({"w": jnp.ones(1)})
    step = jax.jit(lambda t: modules.update_targets(t, {"w": jnp.zeros(1)}, 0.9, alternate=alternate))
    for _ in range(7):
        targets = step(targets)
    first, second = (4, 3) if alternate else (7, 7)
    np.testing.assert_allclose((targets.first["w"][0], targets.second["w"][0]), (0.9**first, 0.9**second), rtol=1e-5)


def test_a_step_with_nnx_moves_the_online_network_and_one_target():
    encoder = modules.views.Projector(4, hidden=6, out=3, rngs=nnx.Rngs(0))
    predictor = modules.views.Projector(3, hidden=6, out=3, rngs=nnx.Rngs(1))
    predictor.eval()
    encoder.eval()
    graph, parameters, rest = nnx.split(encoder, nnx.Param, ...)
    targets = modules.init_targets(parameters)
    views = [jnp.asarray(np.random.default_rng(i).normal(size=(5, 4)), jnp.float32) for i in range(3)]

    def loss(parameters):
        online, first, second = (
            nnx.merge(graph, p, rest, copy=True) for p in (parameters, targets.first, targets.second)
        )
        predictions = tuple(predictor(online(v)) for v in views)
        losses = modules.tri_byol_losses(
            predictions, (first(views[0]), first(views[1])), (second(views[0]), second(views[2]))
        )
        return losses.mean()

    gradient = jax.grad(loss)(parameters)
    assert any(np.any(g != 0) for g in jax.tree.leaves(gradient))
    online = jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradient)
    targets = modules.update_targets(targets, online, 0.5)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), targets.second, parameters)
    assert all(jax.tree.leaves(same))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (targets.first, parameters))))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"targets has shape \[4, 3\]"):
        modules.byol_losses(jnp.ones((5, 3)), jnp.ones((4, 3)))
    with pytest.raises(TypeError, match="predictions has dtype int32"):
        modules.byol_losses(jnp.ones((5, 3), jnp.int32), jnp.ones((5, 3)))
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        modules.update_targets(modules.init_targets({}), {}, 1.5)
    with pytest.raises(ValueError, match="hidden is 0"):
        modules.views.Projector(4, hidden=0, rngs=nnx.Rngs(0))
