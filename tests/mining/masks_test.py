"""The masks of pairs equal loops over the labels."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch_jax import mining


def labels(size):
    return st.lists(st.integers(0, 3), min_size=size, max_size=size)


@given(labels(7), labels(5))
@settings(max_examples=25, deadline=None)
def test_masks_equal_loops(labels, others):
    same = [[i != j and a == b for j, b in enumerate(labels)] for i, a in enumerate(labels)]
    y, r = jnp.asarray(labels), jnp.asarray(others)
    np.testing.assert_array_equal(mining.positive_mask(y), same)
    np.testing.assert_array_equal(mining.negative_mask(y), [[a != b for b in labels] for a in labels])
    np.testing.assert_array_equal(mining.positive_mask(y, r), [[a == b for b in others] for a in labels])
    np.testing.assert_array_equal(mining.negative_mask(y, r), [[a != b for b in others] for a in labels])
    np.testing.assert_array_equal(mining.positive_mask(7 - 3 * y), same)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"labels has shape \[2, 1\]"):
        mining.positive_mask(jnp.ones((2, 1), jnp.int32))
    with pytest.raises(TypeError, match="reference_labels has dtype float32"):
        mining.negative_mask(jnp.ones(2, jnp.int32), jnp.ones(2))
