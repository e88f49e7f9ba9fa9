"""Train with LARS in the paper's form where the layers are stacked in one array, as a scan over layers wants them.

Method: LARS and trust ratios of stacked layers
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import schedules
from tests.recipes import digits


def forward(params, x):
    x = jax.nn.relu(x @ params["first"])
    x = jax.lax.scan(lambda x, kernel: (jax.nn.relu(x @ kernel), None), x, params["stack"])[0]
    return x @ params["last"]


def init():
    keys = jax.random.split(digits.KEY(0), 3)
    shapes = {"first": (64, 32), "stack": (2, 32, 32), "last": (32, 10)}
    params = {n: jax.random.normal(k, s) * (2 / s[-2]) ** 0.5 for (n, s), k in zip(shapes.items(), keys)}
    return params | {"stack": params["stack"] * jnp.array([1.0, 4.0])[:, None, None]}


def recipe(forward, params, data, key):
    axes = lambda path, leaf: 0 if path == "stack" else ()  # noqa: E731
    lars = schedules.scale_by_layer_trust_ratio(0.05, 1e-4, batch_axes=axes)
    rate = optax.cosine_decay_schedule(1.0, 150)
    momentum = schedules.momentum_correction(rate, 0.9)
    optimizer = optax.chain(lars, optax.scale_by_learning_rate(rate), momentum)

    def loss(params, rows):
        logits = forward(params, data["x"][rows])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data["y"][rows]))

    def step(carry, key):
        params, opt_state = carry
        grads = jax.grad(loss)(params, jax.random.choice(key, len(data["y"]), (256,)))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), updates

    keys = jax.random.split(key, 150)
    (params, _), updates = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, jax.tree.map(lambda u: u[0], updates)


def test_each_layer_of_the_stack_moves_in_proportion_to_its_own_weights():
    params, first = digits.run(recipe, forward, init(), digits.train(), digits.KEY(1))
    moved = jnp.linalg.norm(first["stack"], axis=(1, 2)) / jnp.linalg.norm(init()["stack"], axis=(1, 2))
    assert jnp.allclose(moved, 0.05, rtol=0.1)
    right = jnp.argmax(forward(params, digits.held_out()["x"]), axis=1) == digits.held_out()["y"]
    assert jnp.mean(right) > 0.93
