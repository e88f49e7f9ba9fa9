import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

NOISE, D = 0.3, 4
fit = jax.jit(selection.list_regressions, static_argnames=("fraction", "num_starts", "max_iterations", "radius"))


def mixture(seed, share, n, sources=100):
    """Genuine sources, two impostor regressors and pure noise, in random order."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(3, D)) * 2
    kind = rng.permutation(np.where(np.arange(sources) < share * sources, 0, 1 + np.arange(sources) % 3))
    x = rng.normal(size=(sources, n, D))
    y = np.einsum("mnd,md->mn", x, np.concatenate([truth, np.zeros((1, D))])[kind])
    y += np.where(kind == 3, 3.0, NOISE)[:, None] * rng.normal(size=(sources, n))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), truth


def error(candidates, truth):
    distances = np.linalg.norm(np.asarray(candidates.parameters) - truth, axis=1)
    return distances[np.asarray(candidates.valid)].min()


def test_a_candidate_is_right_though_most_sources_are_not_and_least_squares_fails():
    for seed in range(3):
        x, y, truth = mixture(seed, share=0.3, n=8)
        found = fit(jax.random.key(seed), x, y, fraction=0.3, num_starts=30)
        pooled = np.linalg.lstsq(np.reshape(x, (-1, D)), np.reshape(y, -1))[0]
        assert error(found, truth[0]) < 0.1 < 1.0 < np.linalg.norm(pooled - truth[0])
        assert found.valid.sum() <= 30
        losses = np.asarray(found.losses)[np.asarray(found.valid)]
        assert np.all(np.diff(losses) >= 0)
        rng = np.random.default_rng(seed)
        x_new = rng.normal(size=(20, D))
        best = selection.list_decodable.best_of_list(
            found, *(jnp.asarray(a, jnp.float32) for a in (x_new, x_new @ truth[0]))
        )
        assert np.linalg.norm(best - truth[0]) < 0.1


def test_batches_are_what_makes_it_work():
    """With one sample from each source a share below one half is much harder: the point of the paper."""
    errors = {}
    for n in (1, 8):
        x, y, truth = mixture(0, share=0.2, n=n, sources=150)
        errors[n] = error(fit(jax.random.key(0), x, y, fraction=0.2, num_starts=30), truth[0])
    assert errors[8] < 0.15 < 2 * errors[1]


def test_without_impostors_it_is_least_squares():
    x, y, _ = mixture(1, share=1.0, n=6, sources=20)
    found = fit(jax.random.key(0), x, y, fraction=1.0, num_starts=5)
    pooled = np.linalg.lstsq(np.reshape(x, (-1, D)), np.reshape(y, -1))[0]
    assert found.valid.tolist() == [True] + [False] * 3
    np.testing.assert_allclose(found.parameters[0], pooled, rtol=1e-3, atol=1e-4)


def test_candidates_are_apart_and_do_not_depend_on_the_order_within_sources():
    x, y, _ = mixture(2, share=0.3, n=8)
    found, same = (
        fit(jax.random.key(0), x, y, fraction=0.3),
        fit(jax.random.key(0), x[:, ::-1], y[:, ::-1], fraction=0.3),
    )
    parameters = np.asarray(found.parameters)[np.asarray(found.valid)]
    gaps = np.linalg.norm(parameters[:, None] - parameters, axis=-1)[~np.eye(len(parameters), dtype=bool)]
    assert gaps.min() >= 0.1
    np.testing.assert_allclose(found.losses[0], same.losses[0], rtol=1e-3)


def test_gradients_are_those_of_the_huber_loss():
    x, y, truth = mixture(3, share=0.5, n=5, sources=6)
    w, clip = jnp.asarray(truth[1], jnp.float32), 0.7

    def huber(w, x, y):
        r = jnp.abs(x @ w - y)
        return jnp.mean(jnp.where(r < clip, r**2 / 2, clip * (r - clip / 2)))

    expected = jax.vmap(jax.grad(huber), (None, 0, 0))(w, x, y)
    np.testing.assert_allclose(selection.list_decodable.batch_gradients(x, y, w, clip), expected, rtol=1e-4, atol=1e-5)


def test_direction_is_the_top_eigenvector_and_the_filter_clears_what_lies_far_along_it():
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(30, D)), rng.uniform(0.5, 1, 30)
    vectors[:5] += 8 * np.array([1.0, 0, 1, 0])
    value, direction = selection.list_decodable.top_direction(
        jnp.asarray(vectors, jnp.float32), jnp.asarray(weights, jnp.float32)
    )
    values, directions = np.linalg.eigh(np.cov(vectors.T, aweights=weights, ddof=0))
    np.testing.assert_allclose(value, values[-1], rtol=1e-4)
    assert abs(directions[:, -1] @ direction) > 1 - 1e-4
    scores = (vectors @ np.asarray(direction) - np.median(vectors @ np.asarray(direction))) ** 2
    kept = selection.soft_filter(jnp.asarray(weights, jnp.float32), jnp.asarray(scores, jnp.float32))
    np.testing.assert_allclose(kept, weights * (1 - scores / scores.max()), rtol=1e-3, atol=1e-5)
    assert kept[:5].sum() < 0.5 * weights[:5].sum() and kept[5:].sum() > 0.9 * weights[5:].sum()
    scores = jnp.asarray(rng.random((400, 9)) * 7, jnp.float32)
    many = jax.jit(jax.vmap(selection.soft_filter))(jnp.full(scores.shape, 0.7), scores)  # jit divides in another way
    assert many.min() == 0 and np.all(
        np.take_along_axis(np.asarray(many), np.asarray(scores.argmax(1))[:, None], 1) == 0
    )
    spoilt = selection.soft_filter(jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, jnp.nan, 9.0]))
    assert spoilt.tolist() == [0, 0, 0]


def test_bad_input_is_named():
    x, y = jnp.ones((3, 2, 1)), jnp.ones((3, 2))
    with pytest.raises(ValueError, match="fraction is 0"):
        selection.list_regressions(0, x, y, 0.0)
    with pytest.raises(ValueError, match="targets has shape"):
        selection.list_regressions(0, x, y[:2], 0.5)
    with pytest.raises(TypeError, match="inputs has dtype int32"):
        selection.list_regressions(0, jnp.ones((3, 2, 1), int), y, 0.5)
    with pytest.raises(ValueError, match="radius is 0"):
        selection.list_regressions(0, x, y, 0.5, radius=0)
    with pytest.raises(ValueError, match="scores has shape"):
        selection.soft_filter(jnp.ones(3), jnp.ones(2))
