"""Labels, domains, concepts and example numbers mean the same in every integer dtype, also beyond 127 entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.signals import SIGNALS
from minibatch_jax.testing import draw, run
from tests.conformance_test import CASES

NARROW = ("int8", "uint8", "int16")
MANY = 300
NUMBERS = np.array([0, 3, 100, 120, 126, 127, 3, 100], np.int32)
FEATURES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)

MANY_ENTRIES = {
    "largest_features_by_domain": lambda x: selection.colm.largest_features_by_domain(FEATURES, x, MANY, 2),
    "concept_balanced_indices": lambda x: selection.concept_balanced_indices(x[:, None], 4, MANY),
    "gradient_norm_bound": lambda x: selection.importance_sampling.gradient_norm_bound(jnp.zeros((8, MANY)), x),
    "keep_by_colm": lambda x: _first_update(selection.keep_by_colm(4, MANY), features=FEATURES, domains=x),
    "keep_by_concept_balance": lambda x: _first_update(selection.keep_by_concept_balance(4, MANY), concepts=x[:, None]),
    "keep_medoids_by_class": lambda x: _first_update(
        selection.keep_class_medoids(MANY, MANY), features=FEATURES, labels=x
    ),
    "keep_unlearned": lambda x: _first_update(
        selection.keep_unlearned(MANY), losses=jnp.arange(8.0) / 20, example_ids=x
    ),
}


def _first_update(tx, **signals):
    return tx.update(jnp.ones(8), tx.init(jnp.ones(8)), **signals)


def _is_integer(name):
    return name in SIGNALS and SIGNALS[name].dtype == jnp.integer


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", MANY_ENTRIES)
def test_a_narrow_number_of_many_entries_is_that_of_int32(name, dtype):
    expected, actual = (MANY_ENTRIES[name](jnp.asarray(NUMBERS, kind)) for kind in ("int32", dtype))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if any(map(_is_integer, draw(case)[1]))])
def test_every_transformation_takes_narrow_numbers(name):
    weights, signals = draw(CASES[name])
    narrow = {n: x.astype(jnp.int8) if _is_integer(n) else x for n, x in signals.items()}
    assert all(np.array_equal(narrow[n], signals[n], equal_nan=x.dtype.kind == "f") for n, x in signals.items())
    actual, expected = run(CASES[name], weights, narrow), run(CASES[name], weights, signals)
    np.testing.assert_array_equal(actual[0], expected[0])
