"""Every public factory keeps the law of `minibatch_jax.weights`, on one device and on eight."""

import importlib
import inspect
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import compose, coupling, mining, mixing, schedules, selection, weight_transformation
from minibatch_jax.testing import CHECKS, check_transformation
from minibatch_jax.testing import transformations as laws
from tests.case import ROWS, Case
from tests.case import losses as draw_losses
from tests.selection.draws import tracked

HERE = Path(__file__).parent


def cases_of_test_files():
    """A test file carries the case of its transformation, as a dict `CASES`: its name, or that and what is special."""
    for path in sorted(HERE.rglob("*_test.py")):
        if path.name != "conformance_test.py" and "\nCASES = {" in path.read_text():
            name = ".".join(path.relative_to(HERE.parent).with_suffix("").parts)
            yield from importlib.import_module(name).CASES.items()


CASES = dict(cases_of_test_files())


def public_factories():
    for module in (compose, selection, coupling, mining, mixing, schedules):
        for name, value in inspect.getmembers(module, inspect.isfunction):
            made = inspect.signature(value).return_annotation
            if (
                value.__module__.startswith(module.__name__)
                and not name.startswith("_")
                and made is optax.GradientTransformationExtraArgs
            ):
                yield name


def test_every_public_factory_has_a_case():
    assert set(public_factories()) == {name.split(", ")[0] for name in CASES}


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


def keep_all(weights, state, params=None, *, losses, **extra_args):
    return jnp.where(jnp.isfinite(losses), weights, 0), state


def test_a_transformation_that_never_drops_must_say_so():
    with pytest.raises(AssertionError, match="no weight changed in 4 batches: choose arguments that drop something"):
        check_transformation(lambda: lawful(keep_all), draw_losses)
    laws.check_mass(Case(lambda: lawful(keep_all), draw_losses, lowers_mass=False))


class Seen(NamedTuple):
    seen: jax.Array


def with_ids(keep):
    """Hand `keep` which examples were seen in an earlier batch: what it does wrong shows in a warm state only."""

    def init(weights):
        return Seen(jnp.zeros(40, bool))

    def update(weights, state, params=None, *, losses, example_ids, **extra_args):
        usable = (weights != 0) & jnp.isfinite(losses)
        kept = keep(weights, losses, usable, state.seen[example_ids])
        return kept, Seen(state.seen.at[jnp.where(usable, example_ids, 40)].set(True, mode="drop"))

    return weight_transformation(init, update)


def keep_below_a_threshold(weights, losses, usable, seen):
    return jnp.where(usable & (losses < 2), weights, 0)


def keep_more_if_padding_was_seen(weights, losses, usable, seen):
    bonus = jnp.max(jnp.where(seen & (weights == 0) & jnp.isfinite(losses), losses, 0))
    return jnp.where(usable & (losses < 2 + bonus), weights, 0)


def keep_nan_if_it_was_seen(weights, losses, usable, seen):
    return jnp.where((usable | seen) & ~(losses >= 2), weights, 0)


def triple_if_any_was_seen(weights, losses, usable, seen):
    return jnp.where(usable & (losses < 2), jnp.where(jnp.any(seen), 3 * weights, weights), 0)


@pytest.mark.parametrize(
    "keep,law",
    [
        (keep_more_if_padding_was_seen, "(?s)its signals change nothing.*from the state after two batches.*weights"),
        (keep_nan_if_it_was_seen, "(?s)is never kept.*from the state after two batches, with two signals nan"),
        (triple_if_any_was_seen, "(?s)the sum of the weights changes.*in batch 2 of 4, got the sum"),
    ],
)
def test_a_transformation_that_breaks_a_law_only_with_a_warm_state_is_told(keep, law):
    with pytest.raises(AssertionError, match=law):
        check_transformation(lambda: with_ids(keep), tracked)


def test_a_weight_that_is_not_finite_is_looked_for_with_a_warm_state_too():
    def update(weights, state, params=None, *, losses, **extra_args):
        clean = jnp.where(jnp.isfinite(weights) | (state == 2), weights, 0)
        return jnp.where(losses < 2, clean, 0), state + 1

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)
    with pytest.raises(AssertionError, match="(?s)counts as 0.*from the state after two batches, with two weights NaN"):
        laws.check_non_finite_weights(Case(lambda: tx, draw_losses))


def test_a_signal_with_another_number_of_rows_than_the_weights_is_named():
    with pytest.raises(ValueError, match=r"signal 'losses' has shape \[16\], wanted 8 rows, as many as the weights"):
        check_transformation(lambda: lawful(keep_below_two), draw_losses, weights=lambda rng: np.ones(8, np.float32))


def test_a_lawful_transformation_with_a_state_passes():
    check_transformation(lambda: with_ids(keep_below_a_threshold), tracked)


def test_a_state_that_differs_is_named_by_its_path_and_the_fill():
    class Mean(NamedTuple):
        average: jax.Array

    def update(weights, state, params=None, *, losses, **extra_args):
        return jnp.where(losses < 2, weights, 0), Mean(jnp.mean(losses))

    case = Case(lambda: weight_transformation(lambda weights: Mean(jnp.zeros((), jnp.float32)), update), draw_losses)
    with pytest.raises(AssertionError, match="with the signals of the padding nan, state.average is nan, wanted"):
        laws.check_padding(case, math.nan)


def rectangles(rng):
    """Distances of 16 anchors to 6 references."""
    return {
        "distances": rng.uniform(0, 2, (ROWS, 6)).astype(np.float32),
        "labels": rng.integers(0, 3, ROWS).astype(np.int32),
        "reference_labels": (np.arange(6) % 3).astype(np.int32),
    }


def test_a_miner_of_rectangular_pairs_passes_with_the_weights_that_it_starts_with():
    weights, _ = laws.draw(Case(mining.mine_hard, rectangles))
    np.testing.assert_array_equal(weights, np.ones((ROWS, 6)))
    check_transformation(mining.mine_hard, rectangles, tolerance=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_padding_leaks_neither_from_rows_nor_from_columns_of_rectangular_pairs(axis):
    def update(weights, state, params=None, *, distances, **extra_args):
        return jnp.where(distances < jnp.mean(distances, axis, keepdims=True), weights, 0), state

    case = Case(lambda: lawful(update), lambda rng: {"distances": rectangles(rng)["distances"]})
    with pytest.raises(AssertionError, match="its signals change nothing for the others"):
        laws.check_padding(case, 1e6)


@pytest.mark.parametrize("shape", [(16, 8), (16,)])
def test_a_cost_begins_with_a_uniform_plan_of_its_shape(shape):
    weights, _ = laws.draw(Case(coupling.couple_independent, lambda rng: {"cost": rng.random(shape)}))
    np.testing.assert_allclose(weights, np.full(shape, 1 / math.prod(shape)), rtol=1e-6)
