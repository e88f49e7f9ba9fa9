"""Let the compiler say how large a micro-batch may be, and accumulate over so many.

Method: micro-batch planner
"""

import functools

import jax
import jax.numpy as jnp

from minibatch_jax import accumulate, schedules
from tests.recipes import digits


def recipe(losses, params, batch, memory_bytes):
    rows = len(batch["y"])

    @functools.cache
    def compile_step(size):
        step = accumulate(losses, jnp.full(rows, 1 / rows), rows // size)
        return jax.jit(step).lower(params, batch).compile()

    found = schedules.largest_micro_batch(compile_step, rows, memory_bytes)
    return found, compile_step(found.size)(params, batch)


def test_less_memory_gives_smaller_micro_batches_and_the_same_gradient():
    batch = digits.first(digits.train(), 1522)  # 2 x 761
    whole, (value, grads) = recipe(digits.losses, digits.init(), batch, 1e9)
    cut, (other_value, other_grads) = recipe(digits.losses, digits.init(), batch, 0.8 * whole.memory_bytes)
    assert whole.size == 1522 and cut.size < 1522
    assert cut.memory_bytes <= 0.8 * whole.memory_bytes
    assert jnp.allclose(value, other_value, rtol=1e-5)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-6), grads, other_grads)))
