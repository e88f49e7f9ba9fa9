"""Mix domains by the law of their own proportion, or, with nothing trained, by their conditional entropy.

Method: BiMix
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import mixing
from tests.recipes import digits, small_runs


def recipe(train, mixtures, pair_counts, targets):
    law = mixing.fit_bimix(mixtures, train(mixtures), key=0, num_starts=4)
    untrained = mixing.entropy_mixture(mixing.conditional_entropy(pair_counts, corrected=True))
    return mixing.bimix_mixture(law, targets), untrained


def test_both_give_more_to_the_domain_that_is_hardest_to_predict():
    mixtures = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(3), 24), jnp.float32)
    counts = jnp.asarray(4000 * small_runs.CHAINS, jnp.float32)
    fitted, untrained = digits.run(recipe, small_runs.losses, mixtures, counts, jnp.ones(3))
    for mixture in (fitted, untrained):
        assert abs(float(mixture.sum()) - 1) < 1e-5 and int(jnp.argmax(mixture)) == 2
    grid = jnp.asarray(small_runs.grid(20), jnp.float32)
    sums = np.asarray(small_runs.losses(grid).sum(axis=1))
    assert float(small_runs.losses(fitted[None]).sum()) < np.quantile(sums, 0.35)  # the law ignores what chains share
