import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.boundaries import subnet_aggregate, subnet_mask

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "b": RNG.normal(size=5).astype(np.float32)}


def drawn(passes, scale=1.0):
    return jax.tree.map(lambda p: scale * RNG.normal(size=(passes, *p.shape)).astype(np.float32), PARAMS)


mask_of = jax.jit(subnet_mask, static_argnums=2)


@pytest.mark.parametrize("scale", [1.0, 1e-25])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_highest_scores_of_each_array_are_chosen(fraction, scale):
    gradients = drawn(3, scale)
    found = mask_of(gradients, PARAMS, fraction)
    for name, param in PARAMS.items():
        rows = gradients[name].astype(np.float64)
        mean = rows.mean(0)
        score = mean**2 / np.sqrt(((rows - mean) ** 2).sum(0)) / np.abs(param)
        wanted = int(np.ceil(fraction * param.size))
        np.testing.assert_array_equal(found[name], score >= np.sort(score, axis=None)[-wanted])
        assert np.sum(found[name]) == wanted


def test_two_passes_have_a_closed_form():
    first, second = drawn(1)["b"][0], drawn(1)["b"][0]
    score = (
        np.abs(first + second) / (np.sqrt(2) * np.abs(first - second)) * np.abs(first + second) / np.abs(PARAMS["b"])
    )
    found = mask_of(jnp.stack([first, second]), PARAMS["b"], 0.4)
    assert set(np.flatnonzero(found)) == set(np.argsort(-score)[:2])


def test_zeros_and_exact_agreement_score_highest_and_what_is_not_finite_never():
    gradients = np.array([[1.0, 1.0, 1.0, np.nan], [1.0, 0.9, 0.9, 1.0]], np.float32)
    params = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
    np.testing.assert_array_equal(mask_of(gradients, params, 0.5), [True, True, False, False])
    np.testing.assert_array_equal(mask_of(gradients, params, 1.0), [True, True, True, False])
    agree = jnp.array([[1e-36, 1.0, 2.0, 1.0], [1e-36, 1.1, 2.2, 0.9], [1e-36, 1.0, 2.0, 1.1]])
    np.testing.assert_array_equal(mask_of(agree, jnp.array([100.0, 1, 1, 1]), 0.2), [True, False, False, False])
    apart = jnp.array([[1e-20, 1.0, 1.0, 1.0], [-0.9e-20, -0.9, 0.9, 0.9]])  # the first is 1e-20 of the second
    np.testing.assert_array_equal(mask_of(apart, jnp.ones(4), 0.75), [False, True, True, True])


def test_the_number_is_not_raised_by_rounding():
    assert np.sum(mask_of(RNG.normal(size=(2, 100)), jnp.ones(100), 0.07)) == 7


def test_the_aggregate_is_the_mean_on_the_subnet_and_zero_elsewhere():
    gradients = drawn(2)
    tx = optax.chain(subnet_aggregate(2, 0.5), optax.sgd(1.0))
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
    mask = mask_of(gradients, PARAMS, 0.5)
    for name in PARAMS:
        np.testing.assert_allclose(updates[name], np.where(mask[name], -gradients[name].mean(0), 0), rtol=1e-6)
    whole = optax.chain(subnet_aggregate(2, 1.0), optax.sgd(1.0))
    for name, update in whole.update(gradients, whole.init(PARAMS), PARAMS)[0].items():
        np.testing.assert_allclose(update, -gradients[name].mean(0), rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="gradients has 1 row, wanted two or more"):
        subnet_mask(jnp.ones((1, 3)), jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match="gradients has the structure"):
        subnet_mask({"a": jnp.ones((2, 3))}, jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match=r"gradients has shape \[\], wanted \[any size > 0\]"):
        subnet_mask(jnp.ones(()), jnp.ones(()), 0.5)
    with pytest.raises(ValueError, match="gradients has shape"):
        subnet_mask(jnp.ones((2, 4)), jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match="fraction is 0"):
        subnet_aggregate(2, 0.0)
    with pytest.raises(TypeError, match="fraction is an array, wanted a Python number"):
        subnet_mask(jnp.ones((2, 3)), jnp.ones(3), jnp.array(0.5))
    with pytest.raises(ValueError, match="num_passes is 1"):
        subnet_aggregate(1, 0.5)
    tx = subnet_aggregate(2, 0.5)
    with pytest.raises(ValueError, match="params is None"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.ones(3)))
    with pytest.raises(ValueError, match="3 rows|updates"):
        tx.update(jnp.ones((3, 3)), tx.init(jnp.ones(3)), jnp.ones(3))
