"""Take the passes of PPO over a rollout: here, one guess of a class for each digit, rewarded if it is right.

Method: PPO's clipped surrogate
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import sampling, scores, selection, value_and_grad
from tests.recipes import digits


def recipe(act, log_probs_of, params, optimizer, key):
    surrogate = selection.reweigh_by_clipped_surrogate(0.2)

    def items(params, batch):
        log_probs = log_probs_of(params, batch)
        return -batch["advantage"] * log_probs, {"log_ratios": log_probs - batch["log_prob"]}

    def mini_batch(carry, rows):
        params, opt_state, rollout = carry
        batch = jax.tree.map(lambda a: a[rows.indices], rollout)
        batch["advantage"] = scores.normalized_advantages(
            batch["advantage"],
            where=rows.weights > 0,  # the last of four has 36 rows
        )
        grads = value_and_grad(items, surrogate, has_aux=True)(
            params, batch, optax.EmptyState(), weights=rows.weights, advantages=batch["advantage"]
        )[1]
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, rollout), None

    def one_rollout(carry, key):
        rollout = act(carry[0], key)
        passes = [sampling.epoch_rows(k, 1536, 500) for k in jax.random.split(key, 3)]
        rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), *passes)
        (*carry, _), _ = jax.lax.scan(mini_batch, (*carry, rollout), rows)
        return tuple(carry), jnp.mean(rollout["advantage"])

    return jax.lax.scan(one_rollout, (params, optimizer.init(params)), jax.random.split(key, 25))[1]


def log_probs_of(params, batch):
    every = jax.nn.log_softmax(digits.logits(params, batch["x"]))
    return jnp.take_along_axis(every, batch["action"][:, None], 1)[:, 0]


def act(params, key):
    data = digits.train()
    rollout = {"x": data["x"], "action": jax.random.categorical(key, digits.logits(params, data["x"]))}
    reward = jnp.float32(rollout["action"] == data["y"])
    return {**rollout, "log_prob": log_probs_of(params, rollout), "advantage": reward}


def test_guesses_become_right_from_rewards_alone():
    rewards = digits.run(recipe, act, log_probs_of, digits.init(), digits.OPTIMIZER, digits.KEY(0))
    assert rewards[0] < 0.2 and rewards[-1] > 0.8
