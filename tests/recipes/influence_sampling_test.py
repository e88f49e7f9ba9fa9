"""Label and fit the examples that would move a linear model most, chosen with a weaker one.

Method: influence sampling
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import value_and_grad, weights_of
from minibatch_jax.selection import keep_by_influence
from tests.recipes import digits


def recipe(losses, params, optimizer, data, teacher_logits, key):
    features = jnp.pad(data["x"], ((0, 0), (0, 1)), constant_values=1.0)
    selection, ones = keep_by_influence(0.1, key, ridge=1e-2), jnp.ones(len(data["y"]))
    weights = weights_of(selection, ones, teacher_logits=teacher_logits, features=features)
    fn = value_and_grad(losses, optax.identity())  # only rows of weight above 0 need a label

    def step(carry, _):
        params, opt_state = carry
        _, grads, _ = fn(params, data, optax.EmptyState(), weights=weights / len(weights))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=100)
    return params, weights


def test_the_kept_tenth_stands_for_all_rows():
    teacher = digits.fit(digits.init_mlp(jax.random.key(3), 64, 10), digits.first(digits.held_out(), 128), 75)
    logits = digits.logits(teacher, digits.train()["x"])
    start = digits.init_mlp(jax.random.key(4), 64, 10)
    params, weights = digits.run(recipe, digits.losses, start, optax.adam(3e-2), digits.train(), logits, digits.KEY(0))
    assert 120 < np.sum(weights > 0) < 190  # of 1536
    assert abs(np.sum(weights) / 1536 - 1) < 0.15  # divided by their probabilities
    assert digits.accuracy(params) > 0.88
