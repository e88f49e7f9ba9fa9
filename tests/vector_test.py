import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax._vector import first_min, vector_min


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
def test_off_the_cpu_a_minimum_is_one_operation(platform):
    x = jax.ShapeDtypeStruct((3, 200), jnp.float32)
    traced = jax.jit(jax.vmap(vector_min)).trace(x)
    assert "slice" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "slice" in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_minima_and_their_gradients_are_those_of_numpy():
    x = np.random.default_rng(0).integers(0, 30, (3, 201)).astype(np.float32)
    low, index = jax.jit(jax.vmap(first_min))(x)
    np.testing.assert_array_equal(low, x.min(1))
    np.testing.assert_array_equal(index, x.argmin(1))
    x = np.random.default_rng(0).permutation(201).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(jax.grad(vector_min))(x), x == 0)
