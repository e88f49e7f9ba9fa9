"""The terms of CorrAE and DistAE against NumPy's correlations and distances of cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from minibatch_jax import modules


def codes(rows=24, width=3, seed=0):
    x, noise = np.random.default_rng(seed).normal(1, 2, (2, rows, width))
    return x, 0.6 * x[:, ::-1] + 0.5 * x + noise


def test_matched_correlation_is_the_sum_of_numpys():
    x, y = codes()
    expected = sum(np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3))
    with jax.enable_x64(True):
        found = modules.matched_correlation(jnp.asarray(x), jnp.asarray(y), ridge=1e-12)
        check_grads(modules.matched_correlation, (jnp.asarray(x), jnp.asarray(y)), 1, ["rev"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_features_may_repeat_each_other_here_but_not_in_cca():
    x = jnp.asarray(np.repeat(codes()[0][:, :1], 3, axis=1), jnp.float32)
    np.testing.assert_allclose(modules.matched_correlation(x, x, ridge=1e-6), 3, rtol=1e-5)
    np.testing.assert_allclose(modules.canonical_correlation(x, x, ridge=1e-3), 1, rtol=1e-2)


def test_constant_features_have_no_correlation_and_a_finite_gradient():
    value, gradient = jax.value_and_grad(modules.matched_correlation)(jnp.ones((4, 2)), jnp.ones((4, 2)))
    assert float(value) == 0 and np.all(np.isfinite(gradient))


def test_shards_give_the_correlation_of_the_whole_batch():
    x, y = (jnp.asarray(v, jnp.float32) for v in codes())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        lambda x, y: modules.matched_correlation(x, y, axis_name="data"),
        mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P(),
    )  # fmt: skip
    np.testing.assert_allclose(jax.jit(sharded)(x, y), modules.matched_correlation(x, y), rtol=1e-5)


def test_relative_distances_of_codes_of_one_length_are_one_less_the_cosine():
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in codes())
    found = modules.relative_distances(jnp.float32(7 * x), jnp.float32(7 * y))
    np.testing.assert_allclose(found, 1 - np.sum(x * y, axis=1), atol=1e-6)


def test_relative_distances_do_not_shrink_with_the_codes_and_are_safe_at_0():
    x, y = (jnp.asarray(v, jnp.float32).at[0].set(0) for v in codes())
    found = modules.relative_distances(x, y)
    np.testing.assert_allclose(modules.relative_distances(0.01 * x, 0.01 * y), found, rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(modules.relative_distances(x, y)))(x)
    assert float(found[0]) == 0 and not np.any(gradient[0]) and np.all(np.isfinite(gradient))
    along = np.sum(
        np.asarray(gradient) * x + np.asarray(jax.grad(lambda y: jnp.sum(modules.relative_distances(x, y)))(y)) * y, 1
    )
    np.testing.assert_allclose(along, 0, atol=1e-5)  # no gain from the scale of both


def test_bad_input_is_named():
    x = jnp.ones((4, 2))
    for function in (modules.matched_correlation, modules.relative_distances):
        with pytest.raises(ValueError, match=r"second has shape \[4, 3\], wanted \[4, 2\]"):
            function(x, jnp.ones((4, 3)))
        with pytest.raises(TypeError, match="first has dtype int32"):
            function(x.astype(jnp.int32), x)
    with pytest.raises(ValueError, match="ridge is 0"):
        modules.matched_correlation(x, x, ridge=0)


def test_half_precision_is_added_up_in_single():
    x, y = (jnp.asarray(400 * v, jnp.float16) for v in codes(rows=3000))
    single = [v.astype(jnp.float32) for v in (x, y)]
    for term in (modules.matched_correlation, modules.relative_distances):
        np.testing.assert_array_equal(term(x, y), term(*single))
        assert term(x, y).dtype == jnp.float32
