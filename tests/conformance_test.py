"""Every public factory keeps the law of `minibatch_jax.weights`, on one device and on eight."""

import importlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from minibatch_jax import compose, coupling, mining, selection, weight_transformation
from minibatch_jax.testing import CHECKS, check_transformation
from tests.case import losses as draw_losses

HERE = Path(__file__).parent


def cases_of_test_files():
    """A test file carries the case of its transformation, as a dict `CASES`."""
    for path in sorted(HERE.rglob("*_test.py")):
        if "\nCASES = {" in path.read_text():
            name = ".".join(path.relative_to(HERE.parent).with_suffix("").parts)
            yield from importlib.import_module(name).CASES.items()


CASES = dict(cases_of_test_files())


def public_factories():
    for module in (compose, selection, coupling, mining):
        for name, value in inspect.getmembers(module, inspect.isfunction):
            made = inspect.signature(value).return_annotation
            if (
                value.__module__.startswith(module.__name__)
                and not name.startswith("_")
                and made is optax.GradientTransformationExtraArgs
            ):
                yield name


def test_every_public_factory_has_a_case():
    assert set(public_factories()) == set(CASES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_transformation_keeps_every_law(check, case):
    check(case)


def keep_below_two(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(jnp.isfinite(losses) & (losses < 2), weights, 0), state


def keep_infinite(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(losses < 2, weights, 0), state


def keep_below_the_mean(weights, state, params=None, *, losses, **extra_args):
    """Padding leaks in: the mean is that of all losses."""
    return jnp.where(losses < jnp.mean(losses), weights, 0), state


def negate(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(losses < 2, weights, -weights), state


def double(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(losses < 2, 2 * weights, weights), state


def halve_precision(weights, state, params=None, *, losses, **extra_args):
    return keep_below_two(weights.astype(jnp.float16), state, losses=losses)


def branch(weights, state, params=None, *, losses, **extra_args):
    return (weights if losses[0] > 100 else jnp.where(losses < 2, weights, 0)), state


def weigh_by_losses(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(losses < 2, weights / (1 + losses), 0), state


def call_the_host(weights, state, params=None, *, losses, **extra_args):
    kept = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(weights.shape, weights.dtype), weights)
    return jnp.where(losses < 2, kept, 0), state


def lawful(update):
    """By the constructor, which enforces a part of the law."""
    return weight_transformation(lambda weights: optax.EmptyState(), update)


def raw(update):
    return optax.GradientTransformationExtraArgs(lambda weights: optax.EmptyState(), update)


@pytest.mark.parametrize(
    "constructor,update,law",
    [
        (lawful, keep_below_the_mean, "its signals change nothing for the others"),
        (lawful, keep_infinite, "a signal that is not finite is never kept"),
        (lawful, negate, "Weights are not negative"),
        (lawful, double, "the sum of the weights changes only as declared"),
        (lawful, halve_precision, "keep their shape and dtype"),
        (raw, halve_precision, "keep their shape and dtype"),
        (raw, weigh_by_losses, "constants for the backward pass"),
        (raw, branch, "keep their shape and dtype"),
        (lawful, call_the_host, "Under vmap|without callbacks to the host"),
    ],
)
def test_a_broken_transformation_is_told_which_law_it_breaks(constructor, update, law):
    with pytest.raises(AssertionError, match=law):
        check_transformation(lambda: constructor(update), draw_losses)


def test_a_lawful_transformation_passes():
    check_transformation(lambda: lawful(keep_below_two), draw_losses)
