import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_random": Case(lambda: selection.keep_random(5, key=0), draws.losses),
}


def test_every_subset_of_the_weighted_examples_is_as_likely():
    weights = jnp.array([0.1, 0.2, 0.0, 0.3, 0.4])
    tx = selection.keep_random(2, key=0)

    def step(state, _):
        kept, state = tx.update(weights, state)
        return state, kept

    kept = np.asarray(jax.lax.scan(step, tx.init(weights), length=6000)[1])
    np.testing.assert_array_equal(kept, np.where(kept != 0, weights, 0))
    subsets, counts = np.unique(kept != 0, axis=0, return_counts=True)
    assert len(subsets) == 6 and np.all(subsets.sum(1) == 2) and not subsets[:, 2].any()
    assert chisquare(counts).pvalue > 1e-3


def test_keeps_all_where_fewer_have_a_weight():
    weights = jnp.array([0.0, 0.5, 0.0, 0.25])
    tx = selection.keep_random(3, key=1)
    np.testing.assert_array_equal(tx.update(weights, tx.init(weights))[0], weights)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="k is 0, wanted at least 1"):
        selection.keep_random(0, key=0)
    with pytest.raises(TypeError, match="key has dtype float32"):
        selection.keep_random(1, key=jnp.zeros(2))
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        tx = selection.keep_random(4, key=0)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_seed_typed_key_and_legacy_key_draw_the_same():
    drawn = []
    for key in (3, jax.random.key(3), jax.random.PRNGKey(3)):
        tx = selection.keep_random(4, key=key)
        drawn.append(tx.update(jnp.ones(16), tx.init(jnp.ones(16)))[0].tolist())
    assert drawn[0] == drawn[1] == drawn[2] and sum(drawn[0]) == 4
