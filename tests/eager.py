"""Calls outside of `jit`: the second one compiles nothing and keeps nothing.

The calls are the examples of the docstrings, run twice in one namespace, so that a public function is covered as soon
as it has an example. What an example defines is made once, as a user's functions are: JAX finds the programs of a
function again by the function object.
"""

import ast
import contextlib
import doctest
import gc
import inspect
import io
import sys

import jax
import pytest

from tests.docstrings_test import DOCUMENTED, FUNCTIONS

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
)


def example_of(function):
    return doctest.script_from_examples(function.__doc__ or "")


def public_functions():
    """The functions of the indexes, and those of public modules that have an example."""
    yield from FUNCTIONS.items()
    for path, module in DOCUMENTED.items():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            is_public = not name.startswith("_") and "._" not in path and function.__module__ == path
            if is_public and name in example_of(function):
                yield f"{path}.{name}", function


PUBLIC = dict(public_functions())
NOUNS = ("selection", "coupling", "mining")
NOT_CALLED = {
    "minibatch_jax._extras.require": "it only imports",
    "minibatch_jax.devices.across": "its example is about `jax.shard_map`, which compiles at every call without `jit`",
    "minibatch_jax.devices.replicate": "it is about meshes",
    "minibatch_jax.interop.grain.sampled_dataset": "it compiles the functions of each new sampler once",
    "minibatch_jax.sampling.coresets.crest": "its branches hold the model of the caller: it is made for `jit`",
    "minibatch_jax.sampling.crest": "its branches hold the model of the caller: it is made for `jit`",
    "minibatch_jax.schedules.micro_batch_planner.largest_micro_batch": "it compiles to ask for the memory",
    "minibatch_jax.testing.check_sampler": "it compiles to compare",
    "minibatch_jax.testing.check_transformation": "it compiles to compare",
    "minibatch_jax.testing.samplers.check_sampler": "it compiles to compare",
    "minibatch_jax.testing.transformations.check_transformation": "it compiles to compare",
    "minibatch_jax.testing.transformations.run": "it compiles to compare",
}


def each_function(noun):
    """Give a test the public functions of a noun, or with None those of no noun in `NOUNS`."""
    names = [name for name in sorted(PUBLIC.keys() - NOT_CALLED) if _noun(name) == noun]
    return pytest.mark.parametrize("function", [PUBLIC[name] for name in names], ids=names)


def _noun(name):
    noun = name.split(".")[1]
    return noun if noun in NOUNS else None


class _Once(ast.NodeTransformer):
    """Define functions at the first run only."""

    def visit_Lambda(self, node):
        name = f"_lambda_{node.lineno}_{node.col_offset}"
        return ast.parse(f"{name} if '{name}' in globals() else ({name} := {ast.unparse(node)})", mode="eval").body

    def visit_FunctionDef(self, node):
        return ast.If(ast.parse(f"'{node.name}' not in globals()", mode="eval").body, [node], [])


def call_of(function):
    """Return a call that runs the example of a function."""
    assert function.__name__ in example_of(function)
    tree = _Once().visit(ast.parse(example_of(function)))
    code = compile(ast.fix_missing_locations(tree), function.__name__, "exec")
    names = {"jax": jax, "jnp": jax.numpy, **vars(sys.modules[function.__module__])}

    def call():
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)

    return call


def check_second_call(call):
    """Call twice: the second call compiles nothing, and keeps no array beside those that replace the first ones."""
    call()
    before = _live_bytes()
    compiled.clear()
    call()
    assert len(compiled) == 0, f"the second call compiles {len(compiled)} programs"
    if _live_bytes() > before:
        gc.collect()
    assert _live_bytes() <= before


def _live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())
