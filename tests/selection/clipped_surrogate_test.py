"""Against `jax.grad` of PPO's loss for the log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import selection, value_and_grad
from minibatch_jax.selection import clipped_ratios, reweigh_by_clipped_surrogate
from tests.case import ROWS, Case


def draw(rng):
    return {
        "log_ratios": rng.normal(0, 0.4, ROWS).astype(np.float32),
        "advantages": rng.normal(size=ROWS).astype(np.float32),
    }


CASES = {
    "reweigh_by_clipped_surrogate": Case(
        lambda: selection.reweigh_by_clipped_surrogate(0.2), draw, lowers_mass=None, tolerance=1e-6
    ),
}

ROWS_OF_A_BATCH = 40
RNG = np.random.default_rng(0)
OLD = jnp.asarray(RNG.normal(-1, 1, ROWS_OF_A_BATCH), jnp.float32)
NEW = OLD + jnp.asarray(RNG.normal(0, 0.3, ROWS_OF_A_BATCH), jnp.float32)
A = jnp.asarray(RNG.normal(size=ROWS_OF_A_BATCH), jnp.float32)


def ppo_loss(new, old, advantages, clip):
    ratios = jnp.exp(new - old)
    clipped = jnp.clip(ratios, 1 - clip, 1 + clip)
    return jnp.mean(jnp.maximum(-advantages * ratios, -advantages * clipped))


def test_signed_weights_are_the_gradient_of_the_surrogate():
    expected = jax.jit(jax.grad(ppo_loss), static_argnums=3)(NEW, OLD, A, 0.2)
    ratios = clipped_ratios(NEW - OLD, A, 0.2)
    assert 5 < np.sum(np.asarray(ratios) == 0) < 30
    np.testing.assert_allclose(-A * ratios / ROWS_OF_A_BATCH, expected, rtol=1e-5, atol=1e-8)


def test_the_boundary_gives_the_gradient_of_ppo_for_parameters_and_other_items_keep_their_weights():
    features = jnp.asarray(RNG.normal(size=(ROWS_OF_A_BATCH, 3)), jnp.float32)
    masks = {"policy": True, "value": False}
    tx = optax.masked(reweigh_by_clipped_surrogate(0.2), masks, mask_compatible_extra_args=True)

    def items(w, x):
        new = OLD + x @ w
        return {"policy": -A * new, "value": (x @ w - A) ** 2}, {"log_ratios": new - OLD}

    def loss(w):
        moved = features @ w
        return ppo_loss(OLD + moved, OLD, A, 0.2) + jnp.mean((moved - A) ** 2)

    w = jnp.array([0.3, -0.2, 0.1])
    fn = value_and_grad(items, tx, has_aux=True)
    state = tx.init({name: jnp.zeros(ROWS_OF_A_BATCH) for name in masks})
    gradient = jax.jit(lambda w: fn(w, features, state, advantages=A)[1])(w)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(loss))(w), rtol=1e-5)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_edges_of_the_clip_range(advantage):
    ratios = np.array([0.5, np.nextafter(0.75, 0), 0.75, 1.0, 1.25, np.nextafter(1.25, 2), 2.0])
    found = clipped_ratios(jnp.asarray(np.log(ratios), jnp.float32), jnp.full(7, advantage), 0.25)
    outside = np.array([ratios > 1.251, ratios < 0.749])[int(advantage < 0)]
    inside = np.array([ratios < 1.249, ratios > 0.751])[int(advantage < 0)]
    np.testing.assert_array_equal(np.asarray(found)[outside], 0)
    np.testing.assert_allclose(np.asarray(found)[inside], ratios[inside], rtol=1e-6)
    exact = clipped_ratios(jnp.zeros(1), jnp.full(1, advantage), 1e-30)  # 1 + 1e-30 is 1 in float32: both edges
    np.testing.assert_array_equal(exact, 1)


def test_a_first_pass_over_a_rollout_is_the_policy_gradient_and_bad_rows_are_dropped():
    np.testing.assert_array_equal(clipped_ratios(jnp.zeros(5), A[:5]), 1)
    found = clipped_ratios(jnp.array([0.0, jnp.nan, 200.0, 0.0]), jnp.array([1.0, 1.0, -1.0, jnp.nan]))
    np.testing.assert_array_equal(found, [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reweigh_by_clipped_surrogate(0.0), ValueError, r"clip is 0.0, wanted a number in \(0, inf\)"),
        (lambda: clipped_ratios(NEW, A[:3]), ValueError, r"advantages has shape \[3\], wanted \[40\]"),
        (lambda: clipped_ratios(jnp.arange(3), A[:3]), TypeError, "log_ratios has dtype int32"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
