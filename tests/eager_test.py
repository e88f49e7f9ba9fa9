"""Outside of `jit` a second call compiles nothing and keeps nothing.

The calls are the examples of the docstrings, all run again in one namespace, so that a new public function is covered
as soon as it has an example. Functions and lambdas of an example are made once, as a user's are: JAX finds the
programs of a function again by the function object.
"""

import ast
import contextlib
import doctest
import gc
import io
import sys

import jax
import pytest

from minibatch_jax.testing import draw
from tests.conformance_test import CASES
from tests.docstrings_test import FUNCTIONS

NOT_CALLED = {
    "minibatch_jax._extras.require": "it only imports",
    "minibatch_jax.devices.across": "its example is about `jax.shard_map`, which compiles at every call without `jit`",
    "minibatch_jax.devices.replicate": "it is about meshes",
}
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
)


class Once(ast.NodeTransformer):
    """Make what an example defines at the first run only."""

    def visit_Lambda(self, node):
        name = f"_lambda_{node.lineno}_{node.col_offset}"
        return ast.parse(f"{name} if '{name}' in globals() else ({name} := {ast.unparse(node)})", mode="eval").body

    def visit_FunctionDef(self, node):
        return ast.If(ast.parse(f"'{node.name}' not in globals()", mode="eval").body, [node], [])


def calls(function):
    """Return a function that runs the examples of a docstring."""
    text = doctest.script_from_examples(function.__doc__ or "")
    code = compile(ast.fix_missing_locations(Once().visit(ast.parse(text))), function.__name__, "exec")
    names = {"jax": jax, "jnp": jax.numpy, **vars(sys.modules[function.__module__])}

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)

    return run


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def check_again(run):
    """Run once, and three times more: these compile nothing, and the last keeps no array beside those it replaces."""
    run()
    compiled.clear()
    run()
    assert len(compiled) == 0, f"the second call compiles {len(compiled)} programs"
    run()
    before = live_bytes()
    run()
    if live_bytes() > before:
        gc.collect()
    assert live_bytes() <= before


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - NOT_CALLED.keys()))
def test_the_second_call_of_a_function_compiles_nothing(name):
    assert FUNCTIONS[name].__name__ in doctest.script_from_examples(FUNCTIONS[name].__doc__ or "")
    check_again(calls(FUNCTIONS[name]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_second_update_of_a_transformation_compiles_nothing(case):
    weights, signals = draw(case)

    def run():
        tx = case.make()
        state = tx.init(weights)
        for _ in range(2):
            _, state = tx.update(weights, state, **signals)

    check_again(run)
