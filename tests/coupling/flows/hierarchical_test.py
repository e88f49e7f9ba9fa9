import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from minibatch_jax.coupling import grouped_sources, hierarchical_path, velocity_pairs
from minibatch_jax.coupling.costs import squared_euclidean_cost


def test_groups_are_coupled_exactly_and_apart():
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 12, 3)).astype(np.float32)
    source = np.asarray(jax.jit(lambda a, b: grouped_sources(squared_euclidean_cost, a, b, 4))(x0, x1))
    for start in range(0, 12, 4):
        own = slice(start, start + 4)
        rows, columns = linear_sum_assignment(cdist(x0[own], x1[own], "sqeuclidean"))
        np.testing.assert_array_equal(source[own][columns], rows + start)


def test_the_path_has_the_equations_of_the_two_levels():
    x1 = jax.random.normal(jax.random.key(1), (16, 2, 2))
    path = jax.jit(lambda k, x: hierarchical_path(k, x, data_group=8, velocity_group=4))(jax.random.key(0), x1)
    t, tau = path.t[:, None, None], path.tau[:, None, None]
    v1 = x1 - path.x0
    np.testing.assert_allclose(path.xt, (1 - t) * path.x0 + t * x1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(path.vt + (1 - tau) * path.at, v1, rtol=1e-4, atol=1e-5)
    plain = hierarchical_path(0, x1)
    np.testing.assert_allclose(np.sort(path.x0.reshape(16, -1), 0), np.sort(plain.x0.reshape(16, -1), 0))
    v0 = v1 - path.at
    np.testing.assert_allclose(
        np.sort(v0.reshape(16, -1), 0), np.sort((x1 - plain.x0 - plain.at).reshape(16, -1), 0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_larger_data_groups_narrow_the_velocities_and_a_free_velocity_coupling_biases_the_noise():
    x1 = jnp.sign(jax.random.normal(jax.random.key(2), (256, 1))) * 3
    spread = [float(jnp.mean((x1 - hierarchical_path(0, x1, data_group=group).x0) ** 2)) for group in (1, 4, 64)]
    assert spread[0] > spread[1] > spread[2]

    def correlation(weight):
        path = hierarchical_path(0, x1, velocity_group=256, place_weight=weight)
        v1 = x1 - path.x0
        return np.corrcoef(np.ravel(v1 - path.at), np.ravel(path.xt))[0, 1]

    plain = hierarchical_path(0, x1)
    free = abs(correlation(0.0))
    held = abs(correlation(1e4))
    chance = abs(np.corrcoef(np.ravel(x1 - plain.x0 - plain.at), np.ravel(plain.xt))[0, 1])
    assert free > chance + 0.25 and held < chance + 0.1


def test_velocities_of_each_item_are_paired_for_themselves():
    rng = np.random.default_rng(0)
    v0, v1 = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    paired = np.asarray(jax.jit(velocity_pairs)(v0, v1))
    for a, b, p in zip(v0, v1, paired):
        rows, columns = linear_sum_assignment(cdist(a, b, "sqeuclidean"))
        np.testing.assert_array_equal(p[columns], a[rows])


def test_bad_input_raises():
    x = jnp.ones((6, 2))
    with pytest.raises(ValueError, match="wanted the same multiple of group 4"):
        hierarchical_path(0, x, data_group=4)
    with pytest.raises(ValueError, match="group is 0"):
        grouped_sources(squared_euclidean_cost, x, x, 0)
    with pytest.raises(ValueError, match="place_weight is -1"):
        hierarchical_path(0, x, place_weight=-1.0)
    with pytest.raises(ValueError, match="v1 has shape"):
        velocity_pairs(jnp.ones((2, 3, 1)), jnp.ones((2, 4, 1)))
