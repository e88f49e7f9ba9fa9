"""Train on weighted coresets that are chosen anew when a quadratic model of the loss is wrong.

Method: CREST
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, scores, value_and_grad
from tests.recipes import digits


def recipe(logits_fn, params, optimizer, data, key):
    def items(params, batch):
        logits = logits_fn(params, batch["x"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses, {"features": scores.last_layer_gradients(logits, batch["y"])}

    sampler = sampling.crest(items, batch_size=30, num_classes=10, subset_size=150, max_coresets=20)
    train = value_and_grad(items, optax.with_extra_args_support(optax.identity()), has_aux=True)

    def step(carry, _):
        params, opt_state, state = carry
        rows, state = sampler.sample(state)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        _, grads, _ = train(params, batch, optax.EmptyState(), weights=rows.weights)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, sampler.update(state, rows, params=params, data=data)), rows

    start = params, optimizer.init(params), sampler.init(key, labels=data["y"], params=params)
    return jax.lax.scan(step, start, length=150)


def test_coresets_stand_for_what_is_not_learned_and_the_digits_are_learned():
    data, errors = digits.train(), []
    program = jax.jit(lambda params, data, key: recipe(digits.logits, params, digits.OPTIMIZER, data, key))
    for seed in range(4):
        (params, _, state), rows = program(digits.init(), data, digits.KEY(seed))
        assert digits.accuracy(params) > 0.95
        np.testing.assert_allclose(rows.weights.sum(1), 1, rtol=1e-5)
        assert jnp.sum(state.costs.selections) > 3

        # at the parameters of the last selection
        losses = np.asarray(digits.losses(state.model.params, data))
        slopes = jax.nn.softmax(digits.logits(state.model.params, data["x"])) - jax.nn.one_hot(data["y"], 10)
        slopes, learned = np.asarray(slopes), np.asarray(state.learned.streaks >= 5)
        assert 0.05 < learned.mean() < 1 and losses[learned].mean() < 0.2 * losses[~learned].mean()
        filled = int(state.filled)
        chosen, weights = np.asarray(state.coresets.indices)[:filled], np.asarray(state.coresets.weights)[:filled]
        assert losses[chosen][weights > 0].mean() > 1.5 * losses.mean()
        whole = slopes[~learned].mean(0)
        random = np.random.default_rng(0).choice(np.flatnonzero(~learned), (200, 30))
        of_coresets = np.einsum("pb,pbc->pc", weights, slopes[chosen]), slopes[random].mean(1)
        errors.append([np.linalg.norm(found - whole, axis=1).mean() for found in of_coresets])
    coresets, random = np.mean(errors, axis=0)
    assert coresets < 0.95 * random  # 20 coresets: the subsets are random, and their classes equally large
