import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from minibatch_jax.coupling import (
    grouped_sources,
    hierarchical_path,
    hierarchical_trajectories,
    hierarchical_velocities,
    velocity_pairs,
)
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


MEAN, SCALE = 2.0, 0.5


def acceleration_to_a_normal(x, t, v, tau):
    """The exact model of N(0, 1) to N(MEAN, SCALE**2): both conditional expectations are those of normals."""
    t, tau = t[:, None], tau[:, None]
    covariance, variance = t * SCALE**2 - (1 - t), (1 - t) ** 2 + t**2 * SCALE**2
    mean = MEAN + covariance / variance * (x - t * MEAN)
    square = 1 + SCALE**2 - covariance**2 / variance
    slope = (tau * square - (1 - tau)) / ((1 - tau) ** 2 + tau**2 * square)
    return mean + slope * (v - tau * mean)


@pytest.mark.parametrize(("outer_steps", "inner_steps"), [(1, 200), (40, 40)])
def test_the_exact_model_of_two_normals_gives_the_second_one(outer_steps, inner_steps):
    x0 = jax.random.normal(jax.random.key(0), (4000, 1))
    sample = jax.jit(
        lambda key: hierarchical_trajectories(
            key, acceleration_to_a_normal, x0, outer_steps=outer_steps, inner_steps=inner_steps
        )
    )
    places = np.asarray(sample(jax.random.key(1)))
    assert places.shape == (outer_steps + 1, 4000, 1)
    np.testing.assert_array_equal(places[0], x0)
    last = places[-1, :, 0]
    assert last.mean() == pytest.approx(MEAN, abs=0.03) and last.std() == pytest.approx(SCALE, abs=0.04)
    assert np.mean((last - last.mean()) ** 3) / last.std() ** 3 == pytest.approx(0, abs=0.15)
    # a single step draws anew, whatever the noise; many steps follow the mean, which keeps the order
    correlation = np.corrcoef(last, np.asarray(x0)[:, 0])[0, 1]
    assert abs(correlation) < 0.05 if outer_steps == 1 else correlation > 0.5


def test_velocities_have_the_law_of_their_place_and_time():
    """At half the way, of 4000 draws at each of two places; the law is that of Bayes."""
    places, half = jnp.repeat(jnp.array([[-0.5], [2.0]]), 4000, axis=0), jnp.full(8000, 0.5)
    draw = jax.jit(lambda key: hierarchical_velocities(key, acceleration_to_a_normal, places, half, num_steps=200))
    found = np.asarray(draw(jax.random.key(3))).reshape(2, 4000)
    covariance, variance = 0.5 * SCALE**2 - 0.5, 0.25 + 0.25 * SCALE**2
    means = MEAN + covariance / variance * (np.array([-0.5, 2.0]) - 0.5 * MEAN)
    np.testing.assert_allclose(found.mean(axis=1), means, atol=0.04)
    np.testing.assert_allclose(found.std(axis=1), (1 + SCALE**2 - covariance**2 / variance) ** 0.5, rtol=0.04)


def test_the_inner_level_arrives_at_its_velocity_whatever_its_noise():
    """The acceleration towards a point u is (u - v) / (1 - tau); for u = x the places grow by half, twice."""
    x0 = jax.random.normal(jax.random.key(1), (5, 2))
    for inner_steps in (2, 5):
        places = hierarchical_trajectories(
            2, lambda x, t, v, tau: (x - v) / (1 - tau)[:, None], x0, outer_steps=2, inner_steps=inner_steps
        )
        np.testing.assert_allclose(places, x0[None] * jnp.array([1, 1.5, 2.25])[:, None, None], rtol=1e-5)


def test_bad_input_raises():
    x = jnp.ones((6, 2))
    with pytest.raises(ValueError, match=r"t has shape \[\], wanted \[6\]"):
        hierarchical_velocities(0, lambda x, t, v, tau: v, x, jnp.zeros(()), num_steps=1)
    with pytest.raises(ValueError, match="inner_steps is 0, wanted at least 1"):
        hierarchical_trajectories(0, lambda x, t, v, tau: v, x, outer_steps=1, inner_steps=0)
    with pytest.raises(TypeError, match="x0 has dtype int32"):
        hierarchical_trajectories(0, lambda x, t, v, tau: v, x.astype(int), outer_steps=1, inner_steps=1)
    with pytest.raises(ValueError, match="wanted the same multiple of group 4"):
        hierarchical_path(0, x, data_group=4)
    with pytest.raises(ValueError, match="group is 0"):
        grouped_sources(squared_euclidean_cost, x, x, 0)
    with pytest.raises(ValueError, match="place_weight is -1"):
        hierarchical_path(0, x, place_weight=-1.0)
    with pytest.raises(ValueError, match="v1 has shape"):
        velocity_pairs(jnp.ones((2, 3, 1)), jnp.ones((2, 4, 1)))
