"""Train a flow on a large batch, whose entropic plan eight devices solve together without storing it.

Method: row-sharded Sinkhorn
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    options = {"epsilon": 4.0, "block_size": 16, "axis_name": "devices"}

    def loss(params, path):
        return jax.lax.pmean(jnp.mean((velocity(params, path.xt, path.t) - path.ut) ** 2), "devices")

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key, 4)
        own = jax.random.split(keys[0], 8)[jax.lax.axis_index("devices")]
        x0, x1 = jax.random.normal(own, (32, 64)), jax.random.choice(keys[1], images, (256,))
        found = coupling.sharded_sinkhorn(x0, x1, max_iterations=20, **options)
        x1 = x1[coupling.sharded_targets(keys[2], x0, x1, found, **options)]
        grads = jax.grad(loss)(params, path := coupling.conditional_path(own, x0, x1))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), (path.ut, found.error)

    def train(params, key):
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 60))

    mesh, every = jax.make_mesh((8,), ("devices",)), jax.P()
    out = (every, (jax.P(None, "devices"), every))
    return jax.jit(jax.shard_map(train, mesh=mesh, in_specs=every, out_specs=out))(params, key)


def test_pairs_are_closer_than_random_ones_and_the_flow_generates_digits():
    (params, _), (ut, error) = recipe(
        digits.velocity, digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    assert ut.shape == (60, 256, 64) and np.max(error) < 0.1
    assert np.mean(np.sum(ut**2, axis=-1)) < 0.9 * digits.random_cost()
    samples = digits.generate(jax.device_get(params), digits.noise())
    assert digits.energy_distance(samples) < 0.6
