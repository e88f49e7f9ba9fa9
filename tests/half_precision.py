"""What half precision asks of functions: the results that the same numbers have in float32."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

import minibatch_jax
from minibatch_jax import testing as laws

DTYPES = (jnp.float16, jnp.bfloat16)


def public_functions(noun):
    """Names of the public functions of all modules of a noun that are no factories of transformations."""
    package = importlib.import_module(f"{minibatch_jax.__name__}.{noun}")
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "._" not in found.name:
            for name, function in inspect.getmembers(importlib.import_module(found.name), inspect.isfunction):
                made = inspect.signature(function).return_annotation
                own = function.__module__ == found.name and name[0] != "_"
                if own and made is not optax.GradientTransformationExtraArgs:
                    yield name


def grid(seed, *shape, low=0.0, high=2.0):
    """Multiples of 1/64, which are exact in every dtype up to 4."""
    return np.random.default_rng(seed).integers(round(low * 64), round(high * 64), shape) / 64


def check_like_float32(function, dtype, keeps_dtype=False):
    """Raise unless `function(cast)` is the same, with arrays cast to half precision, as in float32.

    Floating results must be in float32, or rounded to the dtype if `keeps_dtype`.
    """
    half = jax.tree.leaves(function(lambda x: jnp.asarray(x, dtype)))
    single = jax.tree.leaves(function(lambda x: jnp.asarray(x, dtype).astype(jnp.float32)))
    assert len(half) == len(single)
    for actual, expected in zip(half, single):
        if jnp.issubdtype(actual.dtype, jnp.floating):
            assert actual.dtype == jnp.float32 or (keeps_dtype and actual.dtype == dtype), actual.dtype
        actual, expected = (np.asarray(x.astype(actual.dtype).astype(jnp.float32)) for x in (actual, expected))
        np.testing.assert_array_equal(actual, expected)


def check_transformation(case, dtype):
    """Raise unless weights and signals in half precision give what their numbers give in float32."""
    weights, signals = laws.draw(case)
    weights = jnp.asarray(weights, dtype)
    signals = {k: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in signals.items()}
    wide = {k: v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in signals.items()}
    kept, state = laws.run(case, weights, signals)
    expected, expected_state = laws.run(case, weights.astype(jnp.float32), wide)
    assert kept.dtype == dtype and np.any(np.asarray(kept) != 0)
    np.testing.assert_array_equal(kept.astype(jnp.float32), expected.astype(dtype).astype(jnp.float32))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state)):
        assert one.dtype == other.dtype
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(one, other)
