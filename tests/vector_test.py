import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax._loops import bind, if_needed
from minibatch_jax._vector import (
    column_min,
    first_maxima,
    first_min,
    first_minima,
    vector_min,
    weighted_sum,
)
from minibatch_jax.coupling._problem import statistic
from minibatch_jax.mining._columns import nearest

OFF_CPU = ("tpu", "cuda", "rocm")


@pytest.mark.parametrize("platform", OFF_CPU)
def test_off_the_cpu_a_minimum_is_one_operation(platform):
    x = jax.ShapeDtypeStruct((3, 200), jnp.float32)
    traced = jax.jit(jax.vmap(vector_min)).trace(x)
    assert "slice" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "slice" in traced.lower(lowering_platforms=("cpu",)).as_text()


GUARDED = {
    "first_maxima": (functools.partial(first_maxima, axis=1), "xi1>, tensor<96x64xi32>"),
    "first_minima": (functools.partial(first_minima, axis=1), "xi1>, tensor<96x64xi32>"),
    "largest": (functools.partial(statistic, relative_to="max"), "stablehlo.minimum"),
    "mean": (functools.partial(statistic, relative_to="mean"), "stablehlo.minimum"),
    "nearest": (lambda x: nearest(x, x > 0), "gather"),
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_helps_a_cpu_is_in_no_other_program(name):
    function, trace = GUARDED[name]
    traced = jax.jit(function).trace(jax.ShapeDtypeStruct((96, 64), jnp.float32))
    on_cpu, *others = (traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", *OFF_CPU))
    assert trace in on_cpu
    for text in others:
        assert trace not in text


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


def tied(shape):
    x = np.random.default_rng(0).integers(0, 9, shape).astype(np.float32)
    x[0], x[1, 2:] = np.inf, -np.inf
    return x


def both_forms(monkeypatch, function, *arrays):
    """Return the results of a function as a CPU and as all other platforms have them."""
    here = jax.jit(function)(*arrays)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **platforms: default(*args))
    return here, jax.jit(lambda *arrays: function(*arrays))(*arrays)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_extremes_along_an_axis_are_those_of_numpy_in_both_forms(monkeypatch, axis):
    x = tied((5, 7, 6))
    function = lambda x: (*first_minima(x, axis), *first_maxima(x, axis))  # noqa: E731
    expected = x.min(axis), x.argmin(axis), x.max(axis), x.argmax(axis)
    for found in both_forms(monkeypatch, function, x):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert found[1].dtype == found[3].dtype == jnp.int32


def test_the_nearest_column_and_statistics_are_those_of_numpy_in_both_forms(monkeypatch):
    x = np.abs(tied((64, 96)))
    mask = np.random.default_rng(1).random(x.shape) < 0.3
    mask[3] = False
    masked = np.where(mask, x, np.inf)
    expected = masked.min(1), masked.argmin(1), masked.min(1) < np.inf
    for found in both_forms(monkeypatch, nearest, x, mask):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for costs in (x, x[2:] - 4, x[2:]):
        finite = np.abs(costs[costs < np.inf])
        for name, wanted in (("mean", finite.mean()), ("max", finite.max())):
            for value in both_forms(monkeypatch, functools.partial(statistic, relative_to=name), costs):
                np.testing.assert_allclose(value, wanted, rtol=1e-6)
