"""Train an autoencoder for each half of the images, with codes that agree: by correlation or by distance.

Method: CorrAE, DistAE
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import modules
from tests.recipes import digits

TERMS = {
    "CorrAE": lambda *codes: -modules.matched_correlation(*codes),
    "DistAE": lambda *codes: jnp.mean(modules.relative_distances(*codes)),
    "nothing": lambda *codes: 0.0,
}


def recipe(term, network, params, optimizer, views, key):
    def objective(params, batch):
        codes = [network(p, view) for p, view in zip(params["encoders"], batch, strict=True)]
        back = [network(p, code) for p, code in zip(params["decoders"], codes, strict=True)]
        errors = [jnp.mean((b - view) ** 2) for b, view in zip(back, batch, strict=True)]
        return term(*codes) + 10 * sum(errors)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(views[0]), (64,))
        grads = jax.grad(objective)(params, [view[rows] for view in views])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jax.random.split(key, 100))[0][0]


@pytest.mark.parametrize(("name", "gain"), [("CorrAE", 0.5), ("DistAE", 0.2)])
def test_codes_of_unseen_halves_agree(name, gain):
    assert agreement(name) > agreement("nothing") + gain


def agreement(name):
    """Return the mean correlation of feature i of both codes of the test images."""
    halves = [[data["x"][:, :32], data["x"][:, 32:]] for data in (digits.train(), digits.held_out())]
    encoders = [digits.init_mlp(jax.random.key(seed), 32, 64, 8) for seed in (0, 1)]
    decoders = [digits.init_mlp(jax.random.key(seed), 8, 64, 32) for seed in (2, 3)]
    params = {"encoders": encoders, "decoders": decoders}
    params = digits.run(recipe, TERMS[name], digits.mlp, params, digits.OPTIMIZER, halves[0], digits.KEY(0))
    codes = [digits.mlp(p, half) for p, half in zip(params["encoders"], halves[1], strict=True)]
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*(np.asarray(c).T for c in codes), strict=True)])
