"""Fits multiply matrices in full precision, because accelerators by default round the factors to some ten bits."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from minibatch_jax.mixing import (
    fit_gaussian_process,
    fit_mixing_law,
    fit_regression,
    predict_losses,
    predict_regression,
)
from minibatch_jax.mixing.mixing_laws import MixingLaw
from minibatch_jax.mixing.regmix import Regression

ONE, MIXTURES, LOSSES = jnp.ones(()), jnp.full((9, 3), 1 / 3), jnp.ones(9)
FITS = {
    "mixing law": functools.partial(fit_mixing_law, key=0, num_starts=2),
    "regression": functools.partial(fit_regression, features="quadratic"),
    "process": functools.partial(fit_gaussian_process, 0, num_starts=1),
    "losses": lambda mixtures, _: predict_losses(
        MixingLaw(ONE, ONE[None], ONE * MIXTURES[:1], ONE, ONE, ONE), mixtures
    ),
    "predictions": lambda mixtures, _: predict_regression(Regression(ONE, jnp.ones(3), ONE), mixtures),
}


def products(jaxpr):
    """All matrix products of a program, those of its loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for part in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr))):
            if isinstance(part, (core.Jaxpr, core.ClosedJaxpr)):
                yield from products(getattr(part, "jaxpr", part))


@pytest.mark.parametrize("name", FITS)
def test_every_product_is_in_full_precision(name):
    found = list(products(jax.make_jaxpr(FITS[name])(MIXTURES, LOSSES).jaxpr))
    highest = jax.lax.Precision.HIGHEST
    assert found and all(equation.params["precision"] == (highest, highest) for equation in found)
