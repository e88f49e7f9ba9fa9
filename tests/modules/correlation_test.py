import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from scipy.linalg import sqrtm

from minibatch_jax import modules


def views(rows, d1, d2, seed=0, shared=2, noise=0.5):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, shared))
    return tuple(z @ rng.normal(size=(shared, d)) + noise * rng.normal(size=(rows, d)) for d in (d1, d2))


def correlations(x, y, ridge):
    x, y = x - x.mean(0), y - y.mean(0)
    s11, s22 = (v.T @ v / (len(v) - 1) for v in (x, y))
    s11, s22 = (s + ridge * np.trace(s) / len(s) * np.eye(len(s)) for s in (s11, s22))
    t = np.linalg.inv(sqrtm(s11).real) @ (x.T @ y / (len(x) - 1)) @ np.linalg.inv(sqrtm(s22).real)
    return np.linalg.svd(t, compute_uv=False)


@pytest.mark.parametrize("num_components", [None, 1, 2])
def test_value_equals_the_singular_values(num_components):
    x, y = views(50, 4, 3)
    expected = correlations(x, y, 0.01)[:num_components].sum()
    with jax.enable_x64(True):
        options = {"ridge": 0.01, "num_components": num_components}
        actual = jax.jit(lambda x, y: modules.canonical_correlation(x, y, **options))(x, y)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize("num_components", [None, 2])
def test_gradient_equals_finite_differences(num_components):
    with jax.enable_x64(True):
        x, y = (jnp.asarray(v) for v in views(12, 3, 4))
        step = jax.jit(lambda x, y: modules.canonical_correlation(x, y, num_components=num_components))
        check_grads(step, (x, y), order=1, modes=["rev"], eps=1e-6, atol=1e-6, rtol=1e-6)


def test_gradient_is_finite_where_correlations_coincide():
    x = jnp.asarray(np.kron(np.eye(3), [[1.0], [-1.0]]), jnp.float32)
    step = jax.jit(jax.value_and_grad(modules.canonical_correlation))
    value, gradient = step(x, x)
    np.testing.assert_allclose(value, 3, rtol=0.01)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(step(jnp.ones((6, 3)), x)[1]))


def test_invariant_to_invertible_maps_of_each_view():
    x, y = views(40, 3, 3)
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        moved = x @ rng.normal(size=(3, 3)) + 2, y @ rng.normal(size=(3, 3)) - 1
        value, again = (modules.canonical_correlation(*map(jnp.asarray, v), ridge=1e-12) for v in ((x, y), moved))
    np.testing.assert_allclose(value, again, rtol=1e-6)


def test_small_batches_overestimate():
    rng = np.random.default_rng(2)
    values = [
        modules.canonical_correlation(*(jnp.asarray(rng.normal(size=(rows, 10)), jnp.float32) for _ in range(2)))
        for rows in (20, 100, 1000)
    ]
    np.testing.assert_allclose(values, [6.68, 2.74, 0.83], rtol=0.25)  # the truth is 0


def test_shards_give_the_correlation_of_the_whole_batch():
    x, y = (jnp.asarray(v, jnp.float32) for v in views(32, 3, 2))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        lambda x, y: modules.canonical_correlation(x, y, axis_name="data"),
        mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P(),
    )  # fmt: skip
    value, gradient = jax.jit(jax.value_and_grad(sharded))(x, y)
    expected, gradient_expected = jax.jit(jax.value_and_grad(modules.canonical_correlation))(x, y)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-3, atol=1e-5)


def test_projections_are_uncorrelated_and_as_correlated_as_said():
    x, y = views(200, 4, 3)
    with jax.enable_x64(True):
        found = modules.linear_cca(jnp.asarray(x), jnp.asarray(y), ridge=1e-9, num_components=2)
    a, b = x @ np.asarray(found.first), y @ np.asarray(found.second)
    np.testing.assert_allclose(np.cov(a.T), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(np.cov(b.T), np.eye(2), atol=1e-6)
    cross = np.cov(a.T, b.T)[:2, 2:]
    np.testing.assert_allclose(cross, np.diag(found.correlations), atol=1e-6)
    from sklearn.cross_decomposition import CCA

    u, v = CCA(2, max_iter=5000).fit_transform(x, y)
    np.testing.assert_allclose(found.correlations, [np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(2)], rtol=1e-3)


def test_whitening_remembers_and_is_debiased():
    x, y = (jnp.asarray(v, jnp.float32) for v in views(64, 3, 3))
    state = modules.init_whitening(3, 3)
    for i in range(4):
        rows = slice(16 * i, 16 * i + 16)
        _, state = modules.orthogonal_iteration_loss(state, x[rows], y[rows], decay=0.5)
    share = np.repeat(0.5 ** np.arange(4, 0, -1), 16) / 16
    share /= share.sum()
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(state.first_mean / state.mass, share @ x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.second_moment / state.mass, (y.T * share) @ y, rtol=1e-4, atol=1e-6)


def test_orthogonal_iterations_in_small_batches_find_the_correlated_directions():
    x, y = (jnp.asarray(v, jnp.float32) for v in views(2000, 6, 6, seed=3, shared=1, noise=1.0))
    x, y = x - x.mean(0, keepdims=True), y - y.mean(0, keepdims=True)
    best = float(modules.linear_cca(x, y).correlations[0])

    def loss(maps, state, rows):
        return modules.orthogonal_iteration_loss(state, x[rows] @ maps[0], y[rows] @ maps[1], decay=0.99)

    def step(carry, rows):
        maps, state = carry
        gradient, state = jax.grad(loss, has_aux=True)(maps, state, rows)
        return (jax.tree.map(lambda m, g: m - 0.05 * g, maps, gradient), state), None

    rng = np.random.default_rng(4)
    rows = jnp.asarray(rng.integers(0, 2000, (1500, 10)))
    maps = tuple(jnp.asarray(0.3 * rng.normal(size=(6, 1)), jnp.float32) for _ in range(2))
    (maps, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, rows))((maps, modules.init_whitening(1, 1)))
    assert abs(np.corrcoef((x @ maps[0])[:, 0], (y @ maps[1])[:, 0])[0, 1]) > 0.97 * best


def test_bad_input_is_named():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"second has shape \[3, 2\]"):
        modules.canonical_correlation(x, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="ridge is 0"):
        modules.linear_cca(x, x, ridge=0)
    with pytest.raises(ValueError, match=r"num_components is 3, wanted at most 2"):
        modules.canonical_correlation(x, x, num_components=3)
    with pytest.raises(TypeError, match="first has dtype int32"):
        modules.canonical_correlation(x.astype(jnp.int32), x)
    for decay in (2, 1.0):
        with pytest.raises(ValueError, match=rf"decay is {decay}, wanted a number in \[0, 1\)"):
            modules.orthogonal_iteration_loss(modules.init_whitening(2, 2), x, x, decay=decay)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e6])
def test_correlations_do_not_depend_on_the_scale_of_a_view(scale):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(200, 20)) * scale, jnp.float32)
    np.testing.assert_allclose(modules.canonical_correlation(z, z), 20, rtol=2e-3)
    np.testing.assert_allclose(modules.correlation.linear_cca(z, z / scale).correlations, 1, rtol=5e-3)
