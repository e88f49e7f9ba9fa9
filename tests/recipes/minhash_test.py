"""Leave out texts that are near-copies of earlier ones before training on the rest.

Method: near-duplicates by MinHash
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import texts


@functools.partial(jax.jit, static_argnames="threshold")
def recipe(tokens, threshold=0.6):
    signatures = selection.minhash_signatures(tokens, num_hashes=128, ngram=5)
    found = selection.near_duplicates(signatures, threshold)
    return found.keep, found.originals


def test_copies_with_a_typo_are_left_out():
    tokens, copies = texts.with_copies(typos=1)
    keep, originals = map(np.asarray, recipe(tokens))
    assert keep[: texts.COUNT].all() and keep[texts.COUNT :].mean() < 0.1
    np.testing.assert_array_equal(originals[texts.COUNT :][~keep[texts.COUNT :]], copies[~keep[texts.COUNT :]])
    assert bool(jnp.all(recipe(tokens[:1])[0]))
