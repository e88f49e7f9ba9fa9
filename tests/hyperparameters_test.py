"""`optax.inject_hyperparams` on every float argument of every factory, with no other argument named by the caller."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import compose, coupling, mining, mixing, schedules, selection
from minibatch_jax.testing import draw
from tests.conformance_test import CASES

VALUES = {
    "alpha": 0.5,
    "epsilon": 0.5,
    "fraction": 0.5,
    "graph": np.eye(16, dtype=np.float32),
    "learning_rate": 0.1,
    "mean_labels": 1.5,
    "power": 2.0,
    "rho": 1.0,
    "step_size": 0.5,
    "temperature": 2.0,
    "test_ngrams": selection.ngram_set(np.array([[0, 1, 2]]), ngram=3),
    "threshold": 0.5,
}
SIZES = {
    "batch_size": 4,
    "bits": 4,
    "block_size": 8,
    "dimension": 3,
    "hidden": 4,
    "history": 64,
    "k": 4,
    "ngram": 3,
    "num_chunks": 2,
    "num_classes": 3,
    "num_concepts": 5,
    "num_domains": 3,
    "num_examples": 64,
    "num_features": 3,
    "num_hashes": 32,
    "num_rounds": 2,
    "num_steps": 3,
    "window": 3,
}
"""They give arrays their shapes, so no schedule can change them."""


def factories():
    for module in (compose, coupling, mining, mixing, schedules, selection):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name in CASES and inspect.signature(function).return_annotation is optax.GradientTransformationExtraArgs:
                yield name, function


def float_arguments():
    for name, factory in factories():
        for argument in inspect.signature(factory).parameters.values():
            kind = argument.annotation if isinstance(argument.annotation, str) else str(argument.annotation)
            if "float" in kind and "tuple" not in kind:
                yield pytest.param(factory, argument.name, id=f"{name}-{argument.name}")


def arguments_of(factory):
    parameters = inspect.signature(factory).parameters
    wanted = {**VALUES, **SIZES, "key": 0}
    return {p: wanted[p] for p, v in parameters.items() if (v.default is v.empty or p in SIZES) and p in wanted}


@pytest.mark.parametrize(("factory", "argument"), list(float_arguments()))
def test_a_schedule_of_a_float_gives_what_the_number_gives(factory, argument):
    arguments = arguments_of(factory)
    default = inspect.signature(factory).parameters[argument].default
    value = arguments.get(argument, default if isinstance(default, float) else 0.5)
    sizes = [name for name in arguments if name in SIZES and name != argument]
    scheduled = optax.inject_hyperparams(factory, static_args=sizes)(**{**arguments, argument: lambda step: value})
    fixed = factory(**{**arguments, argument: value})
    weights, signals = draw(CASES[factory.__name__])
    actual, expected = (
        jax.jit(lambda w, s, tx=tx: tx.update(w, tx.init(w), None, **s)[0])(weights, signals)
        for tx in (scheduled, fixed)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert np.any(expected != 0)


def test_a_size_that_a_schedule_cannot_change_says_what_to_do():
    tx = optax.inject_hyperparams(selection.keep_topk)(k=4)
    with pytest.raises(TypeError, match="wanted a static Python int; put it into static_args of optax.inject_hyper"):
        jax.jit(tx.init)(jnp.ones(8))
