"""Find a mixture of domains by how far their gradients point along the gradient of a target.

Method: DoGE
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import mixing, sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, target, key):
    sampler, mix = sampling.shuffled(len(data["y"]), 64), mixing.mix_by_doge(0.005)
    uniform = jnp.full(3, 1 / 3)

    def domain_losses(params, batch):
        return mixing.losses_by_domain(losses(params, batch), batch["d"], 3)[0]

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        direction = jax.grad(lambda p: jnp.mean(losses(p, target)))(params)
        found = mixing.domain_alignments(domain_losses, params, batch, direction)
        mixture, state = mix.update(uniform, state, domain_alignments=found)
        grads = jax.grad(lambda p: jnp.sum(mixture * domain_losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state, place), None

    start = params, optimizer.init(params), mix.init(uniform), sampler.init(key)
    return jax.lax.scan(step, start, length=150)[0][2].mean_mixture


def test_the_domain_of_the_target_gets_most_and_random_labels_least():
    held_out = digits.held_out()
    below = held_out["y"] < 5
    target = {k: v[below] for k, v in held_out.items()}
    mixture = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.domains(), target, digits.KEY(0)
    )
    assert mixture[0] > 0.45 and mixture[2] < mixture[0]
