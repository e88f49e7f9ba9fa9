"""Draw each batch from the domains that teach what the model is still bad at, by a graph of which teaches what.

Method: Skill-It
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, normalize, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, graph, key):
    mix, uniform = mixing.mix_by_skills(graph, 0.5), jnp.full(3, 1 / 3)
    natural = jnp.bincount(data["d"], length=3) / len(data["d"])

    def step(carry, key):
        params, opt_state, mixture, state = carry
        chances = (mixture / natural)[data["d"]] / len(data["d"])
        rows = jax.random.choice(key, len(chances), (64,), p=chances)
        batch = jax.tree.map(lambda a: a[rows], data)
        select = value_and_grad(losses, normalize())
        (_, aux), grads, _ = select(params, batch, optax.EmptyState())
        means, counts = mixing.losses_by_domain(aux.items, batch["d"], 3)
        mixture, state = mix.update(uniform, state, domain_losses=means, domain_counts=counts)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, mixture, state), mixture

    start = params, optimizer.init(params), uniform, mix.init(uniform)
    (params, *_), mixtures = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, mixtures


def graph_of_runs(params, data):
    """Return by how much of itself a run on each domain lowers the loss of each domain, at least 0."""
    parts = [jax.tree.map(lambda a, k=k: a[data["d"] == k][:400], data) for k in range(3)]
    trained = [digits.fit(params, {k: part[k] for k in "xy"}) for part in parts]

    def means(p):
        return np.array([np.mean(digits.losses(p, part)) for part in parts])

    return np.maximum(np.array([1 - means(p) / means(params) for p in trained], np.float32), 0)


def test_random_labels_teach_nothing_and_are_drawn_least():
    data, params = digits.domains(), digits.init()
    graph = graph_of_runs(params, data)
    params, mixtures = digits.run(
        recipe, digits.losses, params, digits.OPTIMIZER, data, jnp.asarray(graph), digits.KEY(0)
    )
    assert np.argmin(mixtures.mean(axis=0)) == 2
    assert digits.accuracy(params) > 0.9
