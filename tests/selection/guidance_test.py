import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import scores, selection
from minibatch_jax.selection import guidance
from tests.case import Case
from tests.selection import draws

CASES = {
    "reweigh_by_guidance": Case(
        lambda: selection.reweigh_by_guidance(3, key=0), draws.guided, lowers_mass=False, tolerance=1e-5
    ),
}


def constraints(theta, batch):
    states, actions = batch
    return jnp.sum((states @ theta - actions) ** 2, axis=1)


def test_the_network_steps_down_the_guiding_loss_after_a_virtual_step():
    """Against central differences in every parameter of the network, of the loss on guiding rows after a step."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    theta, batch, guide = draw(3, 2), (draw(6, 3), draw(6, 2)), (draw(4, 3), draw(4, 2))
    features, weights = draw(6, 2), jnp.asarray(rng.uniform(0.5, 1.5, 6), jnp.float32)
    guiding = lambda theta: jnp.mean(constraints(theta, guide))  # noqa: E731
    tx = selection.reweigh_by_guidance(2, 0, optimizer=optax.sgd(1.0), hidden=3)
    state = tx.init(weights)
    aligned = scores.alignment(constraints, theta, batch, jax.grad(guiding)(theta))
    _, after = tx.update(weights, state, features=features, alignments=aligned)

    def after_a_step(params, step):
        mass = weights * guidance._outputs(params, features)
        grads = jax.grad(lambda t: jnp.sum(mass * constraints(t, batch)))(theta)
        return guiding(theta - step * grads)

    flat, unravel = jax.flatten_util.ravel_pytree(state.params)
    slopes = jax.grad(lambda p: jax.jvp(lambda s: after_a_step(unravel(p), s), (0.0,), (1.0,))[1])(flat)
    moved = jax.flatten_util.ravel_pytree(after.params)[0] - flat
    cosine = -moved @ slopes / jnp.linalg.norm(moved) / jnp.linalg.norm(slopes)
    assert cosine > 1 - 1e-5


def test_rows_that_teach_what_is_wrong_lose_weight_and_rows_without_features_have_none():
    rng = np.random.default_rng(1)
    good = rng.random(32) < 0.5
    features = np.where(good, 1.0, -1.0)[:, None] + 0.1 * rng.normal(size=(32, 1))
    alignments = np.where(good, 1.0, -1.0) + rng.normal(size=32)
    features[3], features[6], alignments[4] = np.nan, 3e38, np.inf
    tx = selection.reweigh_by_guidance(1, 0)
    weights = jnp.full(32, 1 / 32).at[5].set(0.0)
    update = jax.jit(
        lambda s: tx.update(weights, s, features=jnp.asarray(features), alignments=jnp.asarray(alignments))
    )
    state = tx.init(weights)
    for _ in range(50):
        found, state = update(state)
    counted = ~np.isin(np.arange(32), [3, 5, 6])
    assert not np.any(found[~counted]) and found[4] > 0
    assert np.min(found[good & counted]) > 2 * np.max(found[~good & counted])
    np.testing.assert_allclose(np.sum(found), 29 / 32, rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_features is 0"):
        selection.reweigh_by_guidance(0, 0)
    with pytest.raises(ValueError, match="floor is 2"):
        selection.reweigh_by_guidance(1, 0, floor=2)
    tx, features = selection.reweigh_by_guidance(3, 0), jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"features has shape \[4, 2\], wanted \[4, 3\]"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=jnp.ones((4, 2)), alignments=jnp.ones(4))
    with pytest.raises(ValueError, match=r"alignments has shape \[4, 1\], wanted \[4\]"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, alignments=jnp.ones((4, 1)))
