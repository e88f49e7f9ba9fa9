"""The helpers of training against loops written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import State, descend, gradient_arm, minimize, weighted_gradient, without_losses
from minibatch_jax import mask_rows, value_and_grad

OPTIMIZER = optax.adamw(0.1, weight_decay=0.1)


def squared_error(params, row):
    return jnp.sum((params["w"] * row) ** 2)


def params():
    return {"w": jnp.array([1.0, -2.0])}


def test_an_update_is_that_of_the_optimizer():
    opt_state, grads = OPTIMIZER.init(params()), {"w": jnp.array([0.5, 1.0])}
    updates, expected_state = OPTIMIZER.update(grads, opt_state, params())
    found, found_state = descend(OPTIMIZER, grads, params(), opt_state)
    jax.tree.map(np.testing.assert_array_equal, found, optax.apply_updates(params(), updates))
    jax.tree.map(np.testing.assert_array_equal, found_state, expected_state)


def test_a_fit_takes_one_step_for_each_row():
    rows = jnp.arange(8.0).reshape(4, 2)
    found = jax.jit(lambda p, x: minimize(OPTIMIZER, jax.grad(squared_error), p, x))(params(), rows)
    moved, opt_state = params(), OPTIMIZER.init(params())
    for row in rows:
        moved, opt_state = descend(OPTIMIZER, jax.grad(squared_error)(moved, row), moved, opt_state)
    np.testing.assert_allclose(found["w"], moved["w"], rtol=1e-5)


def test_weights_known_before_make_a_weighted_sum():
    def losses(params, rows):
        return jnp.sum((params["w"][None] * rows) ** 2, axis=1)

    rows, weights = jnp.array([[1.0, 2.0], [3.0, 4.0], [jnp.nan, 0.0]]), jnp.array([0.25, 2.0, 0.0])
    value, grads = weighted_gradient(losses)(params(), rows, weights)
    expected = 2 * params()["w"] * (0.25 * rows[0] ** 2 + 2 * rows[1] ** 2)
    np.testing.assert_allclose(grads["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(value, jnp.sum(params()["w"] * expected) / 2, rtol=1e-6)


def test_no_loss_is_computed_where_a_selection_looks_at_none():
    seen = []

    def losses(params, batch):
        seen.append(batch["x"].shape[0])
        return params["w"][0] * batch["x"]

    selected = value_and_grad(losses, mask_rows(), gather=2, score_fn=without_losses)
    mask = jnp.arange(5) >= 3
    (value, aux), grads, _ = selected(params(), {"x": jnp.arange(5.0)}, optax.EmptyState(), mask=mask)
    assert set(seen) == {2} and sorted(aux.indices.tolist()) == [3, 4]
    assert abs(float(value) - 7 / 5) < 1e-6 and abs(float(grads["w"][0]) - 7 / 5) < 1e-6


def test_an_arm_starts_with_its_fields_and_keeps_the_others():
    def gradient(state, batch):
        value, grads = jax.value_and_grad(squared_error)(state.params, batch["x"])
        return grads, {"selection_state": state.selection_state + 1}, {"loss": value}

    arm = gradient_arm(
        OPTIMIZER, lambda key: {"params": params(), "selection_state": jnp.int32(5), "keys": key}, gradient, "holdout"
    )
    start = arm.init(jax.random.key(3))
    assert isinstance(start, State) and arm.split == "holdout" and start.keys == jax.random.key(3)
    state, metrics = arm.step(start._replace(step=7), {"x": jnp.ones(2)})
    assert (int(state.selection_state), state.step, float(metrics["loss"])) == (6, 7, 5.0)
    expected = descend(OPTIMIZER, {"w": jnp.array([2.0, -4.0])}, params(), start.opt_state)
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.opt_state), expected)
