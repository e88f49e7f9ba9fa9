"""Find a mixture of domains by a proxy that is trained where it loses most to a reference model.

Method: DoReMi
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, normalize, sampling, value_and_grad
from tests.recipes import digits


def recipe(losses, params, reference, optimizer, data, key):
    sampler, mix = sampling.shuffled(len(data["y"]), 64), mixing.mix_by_doremi(0.1, smoothing=1e-3)
    uniform, natural = jnp.full(3, 1 / 3), jnp.bincount(data["d"], length=3) / len(data["d"])

    def step(carry, _):
        params, opt_state, mixture, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        weights = mixing.domain_to_example_weights(mixture, natural, batch["d"])
        fn = value_and_grad(losses, normalize())
        (_, aux), grads, _ = fn(params, batch, optax.EmptyState(), weights=weights)
        excess = mixing.excess_losses(aux.items, losses(reference, batch))
        means, counts = mixing.losses_by_domain(excess, batch["d"], 3)
        mixture, state = mix.update(uniform, state, domain_losses=means, domain_counts=counts)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, mixture, state, place), mixture

    start = params, optimizer.init(params), uniform, mix.init(uniform), sampler.init(key)
    return jax.lax.scan(step, start, length=150)


def test_what_the_reference_did_not_learn_either_gets_least():
    data = digits.domains()
    reference = digits.fit(digits.init(3), {k: data[k] for k in "xy"})
    (_, _, _, state, _), mixtures = digits.run(
        recipe, digits.losses, digits.init(), reference, digits.OPTIMIZER, data, digits.KEY(0)
    )
    np.testing.assert_allclose(state.mean_mixture, mixtures.mean(axis=0), rtol=1e-5)
    assert np.argmin(state.mean_mixture) == 2  # the domain of random labels, which the losses themselves would favor
