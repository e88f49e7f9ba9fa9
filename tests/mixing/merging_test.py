"""Averages of parameters against least squares with a closed form, finite differences, and averages by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import merge_parameters

RNG = np.random.default_rng(0)
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(3, 4, 2)), jnp.float32),
    "half": jnp.asarray(RNG.normal(size=(3, 5)), jnp.bfloat16),
    "count": jnp.array([7, 8, 9]),
}
WEIGHTS = jnp.asarray(RNG.uniform(0.1, 1.0, (4, 3)), jnp.float32)


def test_the_average_equals_the_solution_on_the_union_of_units_with_one_hessian():
    """Least squares on units with the same inputs; a Newton step from the seed model solves each unit."""
    inputs, seed_model = RNG.normal(size=(10, 3)), RNG.normal(size=3)
    targets = RNG.normal(size=(4, 10))
    hessian = inputs.T @ inputs
    units = [seed_model - np.linalg.solve(hessian, inputs.T @ (inputs @ seed_model - y)) for y in targets]
    members = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    merged = merge_parameters(jnp.asarray(members), jnp.asarray(np.stack(units), jnp.float32))
    for found, chosen in zip(merged, members.astype(bool)):
        union = np.linalg.lstsq(np.tile(inputs, (chosen.sum(), 1)), targets[chosen].ravel(), rcond=None)[0]
        np.testing.assert_allclose(found, union, rtol=1e-4, atol=1e-5)


def test_one_model_is_that_model_bit_for_bit_and_equal_models_stay():
    for i, one in enumerate(jnp.eye(3)):
        jax.tree.map(np.testing.assert_array_equal, merge_parameters(5 * one, PARAMS), {
            "kernel": PARAMS["kernel"][i], "half": PARAMS["half"][i], "count": PARAMS["count"][0]
        })  # fmt: skip
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), PARAMS)
    merged = merge_parameters(WEIGHTS, same)
    np.testing.assert_allclose(merged["kernel"], jnp.broadcast_to(same["kernel"][:1], (4, 4, 2)), rtol=1e-6)
    assert merged["count"].tolist() == [7] * 4 and merged["half"].dtype == jnp.bfloat16


def test_halves_are_summed_in_float32():
    halves = jnp.concatenate([jnp.full((1, 2), 256.0), jnp.ones((255, 2))]).astype(jnp.bfloat16)
    assert merge_parameters(jnp.ones(256), halves).tolist() == [2.0, 2.0]  # 511 / 256 in float32, 256 + 1 is 256 else


def test_averages_of_averages_are_averages_with_the_product_of_the_weights():
    outer = jnp.asarray(RNG.uniform(0.1, 1.0, (2, 4)), jnp.float32)
    inner = WEIGHTS / WEIGHTS.sum(axis=1, keepdims=True)
    nested = merge_parameters(outer, merge_parameters(inner, PARAMS["kernel"]))
    np.testing.assert_allclose(merge_parameters(outer @ inner, PARAMS["kernel"]), nested, rtol=1e-5, atol=1e-6)


def loss_of_average(weights):
    return jnp.sum(jnp.tanh(merge_parameters(weights, PARAMS["kernel"])) ** 2)


def test_gradient_of_a_loss_in_the_weights_equals_finite_differences():
    weights = np.array([0.5, 0.3, 0.0])
    gradient, step = jax.grad(loss_of_average)(jnp.asarray(weights, jnp.float32)), 1e-5
    kernel = np.asarray(PARAMS["kernel"], np.float64)

    def loss(w):
        return np.sum(np.tanh(np.tensordot(w / w.sum(), kernel, 1)) ** 2)

    slopes = [(loss(weights + step * e) - loss(weights - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-5)


def test_a_model_without_weight_may_hold_nan_and_one_with_weight_shows_it():
    spoiled = PARAMS["kernel"].at[2].set(jnp.nan)
    members = jnp.array([[1.0, 3.0, 0.0], [1.0, 1.0, 1.0]])
    merged = merge_parameters(members, spoiled)
    np.testing.assert_allclose(merged[0], (PARAMS["kernel"][0] + 3 * PARAMS["kernel"][1]) / 4, rtol=1e-6)
    assert np.all(np.isnan(merged[1]))
    gradient = jax.grad(lambda w: jnp.sum(merge_parameters(w, spoiled) ** 2))(members[0])
    assert np.all(np.isfinite(gradient))


def test_bad_weights_count_as_0_inside_jit():
    merged = jax.jit(merge_parameters)(jnp.array([jnp.nan, 2.0, -1.0]), PARAMS["kernel"])
    np.testing.assert_array_equal(merged, PARAMS["kernel"][1])
    assert np.all(np.isnan(jax.jit(merge_parameters)(jnp.zeros(3), PARAMS["kernel"])))


@pytest.mark.parametrize(
    "weights,params,error,message",
    [
        (jnp.ones(2), PARAMS, ValueError, r"params\['count'\] has shape \[3\], wanted \[2\]"),
        (jnp.ones((1, 1, 3)), PARAMS, ValueError, r"weights has shape \[1, 1, 3\], wanted \[P\] or \[S, P\]"),
        (jnp.ones(3, int), PARAMS, TypeError, "weights has dtype int32, wanted a floating-point dtype"),
        (jnp.array([1.0, -1.0, 1.0]), PARAMS, ValueError, "negative or non-finite entry"),
        (jnp.zeros((2, 3)), PARAMS, ValueError, "weights has a row of zeros"),
    ],
)
def test_bad_input_is_named(weights, params, error, message):
    with pytest.raises(error, match=message):
        merge_parameters(weights, params)
