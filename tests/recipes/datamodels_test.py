"""Find the training images that a prediction rests on, and those that harm most predictions.

Method: Datamodels
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import scores, value_and_grad
from minibatch_jax.selection import topk_mask
from tests.recipes import digits


def recipe(losses, logits, params, optimizer, train, asked):
    def outcomes(weights):
        def step(carry, _):
            (_, _), grads, _ = fn(carry[0], train, optax.EmptyState(), weights=weights)
            updates, opt_state = optimizer.update(grads, carry[1])
            return (optax.apply_updates(carry[0], updates), opt_state), None

        fn = value_and_grad(losses, optax.identity())
        trained = jax.lax.scan(step, (params, optimizer.init(params)), length=20)[0][0]
        return scores.label_margins(logits(trained, asked["x"]), asked["y"])

    masks = scores.subset_masks(0, 300, len(train["y"]), 0.5)
    found = scores.subset_outcomes(outcomes, masks, block_size=50)
    fitted = scores.fit_datamodels(masks, found, max_iterations=100)
    harm = -jnp.mean(fitted.influence, axis=1)
    return scores.top_influences(fitted, 5), topk_mask(harm, 20)


def test_copies_are_found_and_wrong_labels_do_harm():
    data, wrong = digits.noisy(0.2)
    asked = digits.first(digits.held_out(), 24)
    train = {k: jnp.concatenate([asked[k][:4], data[k][:96]]) for k in data}
    start = digits.init_mlp(jax.random.key(0), 64, 10)
    top, harmful = digits.run(recipe, digits.losses, digits.logits, start, optax.adam(0.03), train, asked)
    assert np.mean([row in top[row] for row in range(4)]) >= 0.75
    assert np.mean(wrong[:96][harmful[4:]]) > 2 * np.mean(wrong[:96]) and harmful[:4].sum() <= 1
