"""Outside of `jit` a second call compiles and keeps nothing: transformations, and functions that are of no noun below.

Selections, couplings and miners have a file each.
"""

import gc
import weakref

import jax
import jax.numpy as jnp
import pytest

from minibatch_jax import value_and_grad
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax.scores import gradient_norms
from minibatch_jax.selection import keep_topk
from minibatch_jax.testing import draw
from tests.conformance_test import CASES
from tests.eager import call_of, check_second_call, compiled, each_function


@each_function(None)
def test_the_second_call_of_a_function_compiles_nothing(function):
    check_second_call(call_of(function))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_second_update_of_a_transformation_compiles_nothing(case):
    weights, signals = draw(case)

    def call():
        tx = case.make()
        state = tx.init(weights)
        for _ in range(2):
            _, state = tx.update(weights, state, **signals)

    check_second_call(call)


def squares(w, x):
    return (w - x) ** 2


@pytest.mark.parametrize("options", [{"micro_batches": 2}, {"micro_batches": 2, "gather": 4}, {"score_fn": squares}])
def test_the_second_step_in_blocks_compiles_nothing(options):
    tx = keep_topk(4)
    step = value_and_grad(squares, tx, **options)
    check_second_call(lambda: step(1.0, jnp.arange(8.0), tx.init(jnp.ones(8))))


def all_squares(w, embeddings, x):
    return (embeddings - w) ** 2


def test_the_second_step_that_embeds_in_blocks_compiles_nothing():
    step = value_and_grad(all_squares, keep_topk(4), encode=jnp.multiply, block_size=2, gather=4)
    check_second_call(lambda: step(1.0, jnp.arange(8.0), keep_topk(4).init(jnp.ones(8))))


def weighted(loss, factor, x):
    return factor * loss(x)


def test_programs_live_as_long_as_the_function_of_the_user():
    def sine(x):
        return jnp.sin(x)

    alive = weakref.ref(sine)
    for _ in range(2):
        compiled.clear()
        map_rows(bind(given(weighted, sine), jnp.float32(2)), jnp.arange(3.0))
    assert not compiled
    del sine
    gc.collect()
    assert alive() is None


def test_loops_take_functions_without_a_hash():
    class Loss:
        __hash__ = None

        def __call__(self, w, x):
            return (w - x) ** 2

    assert gradient_norms(Loss(), jnp.float32(1), jnp.array([1.0, 3.0])).tolist() == [0.0, 4.0]


def total(rows):
    return map_rows(bind(given(weighted, jnp.sin), jnp.ones(3)), rows, block_size=2).sum()


def test_a_loop_in_blocks_maps_the_rows_that_are_left_and_has_a_gradient():
    rows = jnp.arange(15.0).reshape(5, 3)
    assert jnp.allclose(total(rows), jnp.sin(rows).sum(), rtol=1e-5)
    assert jnp.allclose(jax.jit(jax.grad(total))(rows), jnp.cos(rows), rtol=1e-5)
