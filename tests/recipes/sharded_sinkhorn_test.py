"""Train a flow on a large batch, whose entropic plan eight devices solve without storing it.

Method: row-sharded Sinkhorn
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, noise, images, key):
    def partners(x0, x1, key):
        options = {"epsilon": 2.0, "block_size": 32, "axis_name": "rows"}
        found = coupling.sharded_sinkhorn(x0, x1, max_iterations=40, **options)
        return coupling.sharded_targets(key, x0, x1, found, **options), found.error

    auto = (jax.sharding.AxisType.Auto,)
    mesh, every, rows = jax.make_mesh((8,), ("rows",), axis_types=auto), jax.P(), jax.P("rows")
    specs = {"in_specs": (rows, every, every), "out_specs": (rows, every)}
    target, error = jax.jit(jax.shard_map(partners, mesh=mesh, **specs))(noise, images, key)

    def loss(params, path):
        return jnp.mean((velocity(params, path.xt, path.t) - path.ut) ** 2)

    def step(carry, key):
        params, opt_state = carry
        batch = jax.random.choice(key, len(noise), (64,))
        path = coupling.conditional_path(key, noise[batch], images[target[batch]])
        updates, opt_state = optimizer.update(jax.grad(loss)(params, path), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jax.random.split(key, 150))[0][0], target, error


def test_pairs_are_closer_than_random_ones_and_the_flow_generates_digits():
    images = digits.train()["x"][:512]
    noise = jax.random.normal(jax.random.key(3), (512, 64))
    params, target, error = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, noise, images, digits.KEY(0)
    )
    assert error < 0.05
    assert (
        np.mean(np.sum((np.asarray(noise) - np.asarray(images)[np.asarray(target)]) ** 2, axis=1))
        < 0.95 * digits.random_cost()
    )
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.5
