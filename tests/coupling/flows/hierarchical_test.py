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
    second_stage_path,
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


@pytest.mark.parametrize("groups", [(8,), (1, 4, 8)])
def test_the_path_has_the_equations_of_its_levels(groups):
    x1 = jax.random.normal(jax.random.key(1), (16, 2, 2))
    levels = len(groups)
    draw = lambda x: [hierarchical_path(0, x, groups=g) for g in (groups, (1,) * levels)]  # noqa: E731
    path, plain = jax.jit(draw)(x1)
    before = np.tri(levels, k=-1)
    times = np.asarray(path.times)[:, :, None, None]
    ends = np.asarray(x1)[:, None] - np.einsum("ij,bjcd->bicd", before, path.noise)
    np.testing.assert_allclose(path.states, (1 - times) * path.noise + times * ends, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path.target, x1 - path.noise.sum(axis=1), rtol=1e-4, atol=1e-5)
    sort = lambda noise: np.sort(np.asarray(noise).reshape(16, levels, -1), axis=0)  # noqa: E731
    np.testing.assert_array_equal(sort(path.noise), sort(plain.noise))
    np.testing.assert_array_equal(path.times, plain.times)


def test_noise_of_a_lower_level_is_paired_among_near_places_and_times():
    x1 = jax.random.normal(jax.random.key(1), (12, 2))
    draw = lambda x: [hierarchical_path(0, x, groups=(1, g), place_weight=3.0) for g in (6, 1)]  # noqa: E731
    path, plain = jax.jit(draw)(x1)
    drawn = np.asarray(plain.noise[:, 1])
    velocity = np.asarray(x1 - path.noise[:, 0])
    here = np.sqrt(3) * np.concatenate([path.states[:, 0], path.times[:, :1]], axis=1)
    for own in (slice(0, 6), slice(6, 12)):
        cost = cdist(drawn[own], velocity[own], "sqeuclidean") + cdist(here[own], here[own], "sqeuclidean")
        rows, columns = linear_sum_assignment(cost)
        np.testing.assert_array_equal(np.asarray(path.noise[own, 1])[columns], drawn[own][rows])


@pytest.mark.slow
def test_larger_data_groups_narrow_the_velocities_and_a_free_velocity_coupling_biases_the_noise():
    x1 = jnp.sign(jax.random.normal(jax.random.key(2), (256, 1))) * 3
    paths = [hierarchical_path(0, x1, groups=(group,)) for group in (1, 4, 64)]
    spread = [float(jnp.mean(path.target**2)) for path in paths]
    assert spread[0] > spread[1] > spread[2]

    def correlation(group, weight):
        path = hierarchical_path(0, x1, groups=(1, group), place_weight=weight)
        return abs(np.corrcoef(np.ravel(path.noise[:, 1]), np.ravel(path.states[:, 0]))[0, 1])

    free, held, chance = correlation(256, 0.0), correlation(256, 1e4), correlation(1, 0.0)
    assert free > chance + 0.25 and held < chance + 0.1


def test_velocities_of_each_item_are_paired_for_themselves():
    rng = np.random.default_rng(0)
    v0, v1 = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    paired = np.asarray(jax.jit(velocity_pairs)(v0, v1))
    for a, b, p in zip(v0, v1, paired):
        rows, columns = linear_sum_assignment(cdist(a, b, "sqeuclidean"))
        np.testing.assert_array_equal(p[columns], a[rows])


MEAN, SCALE = 2.0, 0.5


def exact_model(states, times):
    """The exact model of N(0, 1) noises to N(MEAN, SCALE**2): a conditional expectation of normals, by least squares.

    All is linear in the vector of the data and the noises, whose covariance is diagonal.
    """
    levels = states.shape[1]
    covariance = jnp.diag(jnp.array([SCALE**2] + [1.0] * levels))
    ends = jnp.concatenate([jnp.ones((levels, 1)), -jnp.asarray(np.tri(levels, k=-1), jnp.float32)], axis=1)
    noises = jnp.eye(levels + 1)[1:]
    target = jnp.concatenate([jnp.ones(1), -jnp.ones(levels)])

    def one(state, time):
        rows = (1 - time)[:, None] * noises + time[:, None] * ends
        weights = jnp.linalg.solve(rows @ covariance @ rows.T, rows @ covariance @ target)
        return MEAN + (state[:, 0] - MEAN * time) @ weights

    return jax.vmap(one)(states, times)[:, None]


def test_the_model_of_a_path_is_its_conditional_expectation():
    """What the least-squares fit of the target by functions of the states at fixed times finds."""
    x1 = MEAN + SCALE * jax.random.normal(jax.random.key(0), (40_000, 1))
    path = jax.jit(lambda x: hierarchical_path(1, x, groups=(1, 1, 1)))(x1)
    error = lambda guess: float(jnp.mean((guess - path.target) ** 2))  # noqa: E731
    found = jax.jit(exact_model)(path.states, path.times)
    assert error(found) < min(error(found + 0.1), error(0.95 * found), error(found + 0.1 * path.states[:, 2])) - 0.003


@pytest.mark.parametrize("steps", [(200,), (1, 200), (20, 20), (1, 1, 100), (6, 8, 12)])
def test_the_exact_model_of_normals_gives_the_data(steps):
    x0 = jax.random.normal(jax.random.key(0), (3000, 1))
    sample = jax.jit(lambda key: hierarchical_trajectories(key, exact_model, x0, steps=steps))
    places = np.asarray(sample(jax.random.key(1)))
    assert places.shape == (steps[0] + 1, 3000, 1)
    np.testing.assert_array_equal(places[0], x0)
    last = places[-1, :, 0]
    assert last.mean() == pytest.approx(MEAN, abs=0.04) and last.std() == pytest.approx(SCALE, rel=0.15)
    assert np.mean((last - last.mean()) ** 3) / last.std() ** 3 == pytest.approx(0, abs=0.2)
    # a single step draws anew, whatever the noise; many steps follow the mean, which keeps the order
    correlation = np.corrcoef(last, np.asarray(x0)[:, 0])[0, 1]
    assert abs(correlation) < 0.05 if steps[0] == 1 else correlation > 0.4


@pytest.mark.parametrize("steps", [(100,), (1, 60)])
def test_velocities_have_the_law_of_their_place_and_time(steps):
    """At half the way, of 4000 draws at each of two places; the law is that of Bayes."""
    places, half = jnp.repeat(jnp.array([[-0.5], [2.0]]), 4000, axis=0)[:, None], jnp.full((8000, 1), 0.5)
    draw = jax.jit(lambda key: hierarchical_velocities(key, exact_model, places, half, steps=steps))
    found = np.asarray(draw(jax.random.key(3))).reshape(2, 4000)
    covariance, variance = 0.5 * SCALE**2 - 0.5, 0.25 + 0.25 * SCALE**2
    means = MEAN + covariance / variance * (np.array([-0.5, 2.0]) - 0.5 * MEAN)
    np.testing.assert_allclose(found.mean(axis=1), means, atol=0.05)
    np.testing.assert_allclose(found.std(axis=1), (1 + SCALE**2 - covariance**2 / variance) ** 0.5, rtol=0.06)


def arrives_at(end):
    """A model whose last level arrives at `end` of the states and times above, whatever its noise."""
    return lambda s, t: (end(s[:, :-1], t[:, :-1]) - s[:, -1]) / (1 - t[:, -1:])


def euler(slope, x, steps):
    """The places of explicit Euler steps, in plain NumPy."""
    places = [np.asarray(x)]
    for k in range(steps):
        places.append(places[-1] + slope(places[-1], k / steps) / steps)
    return np.stack(places)


def test_levels_are_differential_equations_of_differential_equations():
    """Every level arrives at a function of place and time, whatever its noise, so that places follow NumPy's Euler."""
    x0 = jax.random.normal(jax.random.key(1), (5, 2))
    wanted = euler(lambda x, t: x - 3 * t, x0, 4)
    slope = lambda s, t: s[:, 0] - 3 * t[:, :1]  # noqa: E731
    for model, steps in (
        (slope, (4,)),
        (arrives_at(slope), (4, 3)),
        (arrives_at(arrives_at(arrives_at(slope))), (4, 2, 1, 5)),
    ):
        places = jax.jit(lambda x, m=model, n=steps: hierarchical_trajectories(2, m, x, steps=n))(x0)
        np.testing.assert_allclose(places, wanted, rtol=1e-4, atol=1e-5)


def test_the_second_stage_pairs_what_the_model_draws_at_each_place():
    model = arrives_at(lambda s, t: s[:, 0] * t[:, :1] + jnp.sign(t[:, :1] - 0.5) * jnp.arange(24.0)[:, None])

    def draw(x1):
        first = hierarchical_path(1, x1, groups=(6, 1))
        return first, second_stage_path(2, model, first, draws=4, num_steps=3)

    first, path = jax.jit(draw)(jax.random.normal(jax.random.key(0), (6, 2)))
    for k in range(4):
        np.testing.assert_array_equal(path.states[k::4, 0], first.states[:, 0])
        np.testing.assert_array_equal(path.noise[k::4, 0], first.noise[:, 0])
    here = np.repeat(first.states[:, 0] * first.times[:, :1], 4, axis=0)
    velocity = here + np.sign(path.times[:, :1] - 0.5) * np.arange(24)[:, None]
    np.testing.assert_allclose(path.target + path.noise[:, 1], velocity, rtol=1e-4, atol=1e-5)
    tau = path.times[:, 1:]
    wanted = (1 - tau) * path.noise[:, 1] + tau * velocity
    np.testing.assert_allclose(path.states[:, 1], wanted, rtol=1e-4, atol=1e-5)
    for noise, ends in zip(np.asarray(path.noise[:, 1]).reshape(6, 4, 2), velocity.reshape(6, 4, 2)):
        cost = cdist(noise, ends, "sqeuclidean")
        assert np.trace(cost) == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-5)


def test_bad_input_raises():
    x, nothing = jnp.ones((6, 2)), lambda s, t: s[:, -1]
    with pytest.raises(ValueError, match=r"times has shape \[6\], wanted \[6, 1\]"):
        hierarchical_velocities(0, nothing, x[:, None], jnp.zeros(6), steps=(1,))
    with pytest.raises(ValueError, match=r"steps\[1\] is 0, wanted at least 1"):
        hierarchical_trajectories(0, nothing, x, steps=(1, 0))
    with pytest.raises(TypeError, match="x0 has dtype int32"):
        hierarchical_trajectories(0, nothing, x.astype(int), steps=(1,))
    with pytest.raises(ValueError, match="wanted the same multiple of group 4"):
        hierarchical_path(0, x, groups=(4, 1))
    with pytest.raises(ValueError, match=r"groups is \(\), wanted at least one level"):
        hierarchical_path(0, x, groups=())
    with pytest.raises(TypeError, match="groups is 2, wanted a tuple"):
        hierarchical_path(0, x, groups=2)
    with pytest.raises(ValueError, match="group is 0"):
        grouped_sources(squared_euclidean_cost, x, x, 0)
    with pytest.raises(ValueError, match="place_weight is -1"):
        hierarchical_path(0, x, groups=(1, 1), place_weight=-1.0)
    with pytest.raises(ValueError, match="path has 1 level, wanted at least 2"):
        second_stage_path(0, nothing, hierarchical_path(0, x, groups=(1,)), draws=2, num_steps=1)
    with pytest.raises(ValueError, match="v1 has shape"):
        velocity_pairs(jnp.ones((2, 3, 1)), jnp.ones((2, 4, 1)))
