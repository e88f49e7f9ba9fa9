import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax._loops import bind, if_needed
from minibatch_jax._vector import column_min, first_min, vector_min, weighted_sum


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


@pytest.mark.parametrize("size", [3, 17, 63, 64, 201, 1000])
def test_weighted_sums_and_column_minima_are_those_of_numpy(size):
    x = np.random.default_rng(size).integers(-9, 9, (3, size, 5)).astype(np.float32)
    sums = jax.jit(jax.vmap(weighted_sum))(x[..., 0], x[..., 1])
    np.testing.assert_array_equal(sums, np.sum(x[..., 0] * x[..., 1], axis=1))
    np.testing.assert_array_equal(jax.jit(jax.vmap(column_min))(x), x.min(1))


def test_a_step_runs_only_if_one_of_the_problems_needs_it():
    ran = []

    def step(add, state):
        jax.debug.callback(lambda: ran.append(1))
        return state + add

    run = jax.jit(jax.vmap(lambda needed, x: if_needed(needed, bind(step, jnp.float32(2)), x)))
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(run(jnp.zeros(3, bool), x), x)
    jax.effects_barrier()
    assert not ran
    np.testing.assert_array_equal(run(jnp.array([True, False, True]), x), [2, 1, 4])
    jax.effects_barrier()
    assert ran
