"""Weigh the rows of a batch that share n-grams with the test set 0, so that the test stays one.

Method: n-gram overlap with a test set
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import texts


@jax.jit
def recipe(batch, test_set):
    tx = selection.keep_without_overlap(selection.ngram_set(test_set, ngram=13), max_fraction=0.0)
    weights = jnp.ones(len(batch))
    return tx.update(weights, tx.init(weights), tokens=batch)[0]


def test_copies_of_test_rows_with_a_typo_get_no_weight():
    tokens, copied = texts.with_copies(typos=1)
    batch, test_set = tokens[texts.COUNT :], tokens[: texts.COUNT // 2]
    weights = np.asarray(recipe(batch, test_set))
    np.testing.assert_array_equal(weights, copied >= texts.COUNT // 2)
