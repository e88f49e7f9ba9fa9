import jax.numpy as jnp
import numpy as np

from minibatch_jax.coupling._sinkhorn_loop import over_relaxed, rescale


def kernel(size=12, sharpness=1.0):
    return jnp.exp(-sharpness * jnp.asarray(np.random.default_rng(0).uniform(0, 5, size=(size, size)), jnp.float32))


def test_over_relaxed_factors_stay_finite_where_the_kernel_is_zero():
    k = jnp.eye(3).at[1, 1].set(0.0)
    u, v = over_relaxed(k, jnp.zeros(3), jnp.zeros(3), 50)
    assert np.all(np.isfinite(u)) and np.all(np.isfinite(v))


def test_over_relaxation_converges_faster_than_plain_iterations():
    k, ones = kernel(sharpness=4.0), jnp.ones(12)
    u = v = ones
    for _ in range(40):
        u, v = rescale(k, v, ones, ones)
    log_u, log_v = over_relaxed(k, 0 * ones, 0 * ones, 40)
    plain, relaxed = u * (k @ v), jnp.exp(log_u) * (k @ jnp.exp(log_v))
    assert float(jnp.sum(jnp.abs(relaxed - 1))) < float(jnp.sum(jnp.abs(plain - 1)))
