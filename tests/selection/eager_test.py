import functools

import jax.numpy as jnp
import pytest

from minibatch_jax.selection import facility_location, facility_location_from_features, k_center, softmax_jest_indices
from minibatch_jax.selection.coresets import similarity_matrix
from tests.eager import call_of, check_second_call, each_function


@each_function("selection")
def test_the_second_call_of_a_function_compiles_nothing(function):
    check_second_call(call_of(function))


FEATURES = jnp.array([[0.0, 1.0], [0.5, 1.0], [2.0, 0.0], [3.0, 3.0]])
NEAREST = similarity_matrix(FEATURES)
CALLS = [
    functools.partial(facility_location, NEAREST, 2, method="naive"),
    functools.partial(facility_location, NEAREST, 2, method="stochastic", key=0),
    *(functools.partial(facility_location_from_features, FEATURES, 2, metric=m) for m in ("euclidean", "l1", "cosine")),
    functools.partial(facility_location_from_features, FEATURES, 2, method="stochastic", key=0),
    functools.partial(k_center, FEATURES, 2, chosen=jnp.array([True, False, False, False])),
    functools.partial(softmax_jest_indices, 0, NEAREST, NEAREST, 4, 2, include_self=False, first_chunk="uniform"),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_option_compiles_at_a_second_call(call):
    check_second_call(call)
