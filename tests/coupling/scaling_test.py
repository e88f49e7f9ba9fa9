import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.coupling._scaling import rescale


def kernel(size=12, sharpness=1.0):
    return np.exp(-sharpness * np.random.default_rng(0).uniform(0, 5, size=(size, size)))


@pytest.mark.parametrize(("relaxation", "sharpness"), [(1.0, 1), (1.7, 1), (1.7, 14)])
def test_one_iteration_in_the_log_domain(relaxation, sharpness):
    k, rng = kernel(sharpness=sharpness), np.random.default_rng(1)
    u, v, a, b = np.exp(rng.normal(size=(4, 12)))

    def beyond(old, mass, total):
        return np.clip((1 - relaxation) * np.log(old) + relaxation * (np.log(mass) - np.log(total)), -40, 40)

    log_u = beyond(u, a, k @ v)
    log_v = beyond(v, b, np.exp(log_u) @ k)
    found = rescale(*(jnp.asarray(x, jnp.float32) for x in (k, u, v, a, b)), relaxation)
    np.testing.assert_allclose(jnp.log(found[0]), log_u, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(jnp.log(found[1]), log_v, rtol=1e-3, atol=1e-4)


def test_over_relaxed_factors_stay_finite_where_the_kernel_is_zero():
    k, ones = jnp.eye(3).at[1, 1].set(0.0), jnp.ones(3)
    u, v = ones, ones
    for _ in range(50):
        u, v = rescale(k, u, v, ones, ones, 1.7)
    assert np.all(np.isfinite(u)) and np.all(np.isfinite(v))


def test_over_relaxation_converges_faster():
    k, mass = jnp.asarray(kernel(sharpness=4.0), jnp.float32), jnp.ones(12) / 12
    errors = {}
    for relaxation in (1.0, 1.7):
        u, v = jnp.ones(12), jnp.ones(12)
        for _ in range(40):
            u, v = rescale(k, u, v, mass, mass, relaxation)
        errors[relaxation] = float(jnp.sum(jnp.abs(u * (k @ v) - mass)))
    assert errors[1.7] < errors[1.0]
