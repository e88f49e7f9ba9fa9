"""The offline functions of mixing in half precision compute in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mixing
from minibatch_jax.mixing.regmix import Regression
from tests.half_precision import DTYPES, check_like_float32, grid

COUNTS, PAIRS = grid(0, 3, 8), grid(1, 3, 4, 4)
RUNS, LOSSES = np.eye(3)[[0, 0, 1, 1, 2, 2, 0, 1]] / 2 + np.eye(3)[[0, 1, 1, 2, 2, 0, 2, 0]] / 2, grid(2, 8, 3, low=1)
LINE = Regression(jnp.ones(3), jnp.ones((3, 3)), jnp.zeros(3, jnp.int32))
COVARIANCES = PAIRS @ PAIRS.transpose(0, 2, 1)

FUNCTIONS = {
    "average_of_top": lambda c: mixing.average_of_top(lambda m: m[:, 0], 0, c(RUNS[1]), num_draws=64, num_averaged=8),
    "conditional_entropy": lambda c: mixing.conditional_entropy(c(PAIRS)),
    "entropy_mixture": lambda c: mixing.entropy_mixture(c(COUNTS[0])),
    "joint_entropy": lambda c: mixing.joint_entropy(c(PAIRS), corrected=True),
    "fit_regression": lambda c: mixing.fit_regression(c(RUNS), c(LOSSES)),
    "predict_regression": lambda c: mixing.predict_regression(LINE, c(RUNS)),
    "project_capped_simplex": lambda c: mixing.project_capped_simplex(c(LOSSES), c(np.full(3, 0.5))),
    "sample_mixtures": lambda c: mixing.sample_mixtures(0, c(RUNS[1]), 8),
    "shannon_entropy": lambda c: mixing.shannon_entropy(c(COUNTS)),
    "von_neumann_entropy": lambda c: mixing.von_neumann_entropy(c(COVARIANCES / 64)),
}
FITS = {
    "fit_mixing_law": lambda c: mixing.fit_mixing_law(c(RUNS), c(LOSSES), key=0),
    "fit_bimix": lambda c: mixing.fit_bimix(c(RUNS), c(LOSSES), c(LOSSES[:, 0]), key=0),
    "fit_size_law": lambda c: mixing.fit_size_law(c(LOSSES[:, 0]), c(LOSSES), key=0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_computes_in_float32(name):
    check_like_float32(FUNCTIONS[name], DTYPES[len(name) % 2])


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_in_float32(name):
    """What is computed after the cast of the inputs is the program of float32."""
    for dtype in DTYPES:
        made = jax.eval_shape(lambda fit=FITS[name], dtype=dtype: fit(lambda x: jnp.asarray(x, dtype)))
        assert {leaf.dtype for leaf in jax.tree.leaves(made)} <= {jnp.dtype(t) for t in ("float32", "int32", "bool")}


def test_the_table_holds_every_offline_function():
    offline = {"best_mixtures", "bimix", "entropies", "mixing_laws", "regmix", "size_laws"}
    named = {n for n, f in vars(mixing).items() if getattr(f, "__module__", "").rpartition(".")[2] in offline}
    in_half_only_by_their_law = {"best_mixture", "bimix_mixture", "predict_bimix", "predict_losses", "predict_at_size"}
    assert named == set(FUNCTIONS) | set(FITS) | in_half_only_by_their_law
