"""Continue a seed model on parts of the data, and find the mixture of the models that suits held-out data.

Method: Merged models as proxies for unions of data
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing
from tests.recipes import digits


def recipe(losses, seed_model, optimizer, parts, held_out, key):
    def step(carry, key, part):
        batch = jax.tree.map(lambda a: jax.random.choice(key, a, (64,)), part)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(carry[0])
        updates, opt_state = optimizer.update(grads, carry[1])
        return (optax.apply_updates(carry[0], updates), opt_state), None

    def continued(part):
        start, keys = (seed_model, optimizer.init(seed_model)), jax.random.split(key, 50)
        return jax.lax.scan(lambda carry, key: step(carry, key, part), start, keys)[0][0]

    models = jax.vmap(continued)(parts)
    loss_of = lambda w: jnp.mean(losses(mixing.merge_parameters(w, models), held_out))  # noqa: E731
    proxy = jax.value_and_grad(loss_of)

    def better(weights, _):
        loss, slope = proxy(weights)
        return weights * jnp.exp(-slope / 10) / jnp.sum(weights * jnp.exp(-slope / 10)), loss

    return jax.lax.scan(better, jnp.full(3, 1 / 3), length=60)


def test_the_mixture_suits_the_held_out_classes():
    data = digits.train()
    seed_model = digits.fit(digits.init(), jax.tree.map(lambda a: a[:128], data))
    rows = [np.flatnonzero(np.isin(data["y"], c))[:384] for c in (range(4), range(3, 7), range(6, 10))]
    parts = jax.tree.map(lambda a: jnp.stack([a[r] for r in rows]), data)
    wanted = np.flatnonzero(np.isin(digits.held_out()["y"], range(6)))[:128]
    held_out = jax.tree.map(lambda a: a[wanted], digits.held_out())
    weights, losses = digits.run(recipe, digits.losses, seed_model, digits.OPTIMIZER, parts, held_out, digits.KEY(0))
    assert weights[0] > 0.4 > weights[1] > weights[2] > 0.1
    assert losses[-1] < 0.75 * losses[0] and np.all(np.diff(losses) < 1e-4)
