"""Take the passes of PPO over a rollout: here, one guess of a class for each digit, rewarded if it is right.

Method: PPO's clipped surrogate
"""

import functools

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import sampling, scores, selection, value_and_grad
from tests.recipes import digits


def recipe(logits, params, optimizer, data, key):
    surrogate = selection.reweigh_by_clipped_surrogate(0.2)

    def items(params, batch):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits(params, batch["x"])), batch["action"][:, None], 1)[
            :, 0
        ]
        return -batch["advantage"] * log_probs, {"log_ratios": log_probs - batch["log_prob"]}

    def mini_batch(rollout, carry, rows):
        params, opt_state = carry
        batch = jax.tree.map(lambda a: a[rows.indices], rollout)
        batch["advantage"] = scores.normalized_advantages(batch["advantage"], where=rows.weights > 0)
        fn, signals = value_and_grad(items, surrogate, has_aux=True), {"advantages": batch["advantage"]}
        _, grads, _ = fn(params, batch, optax.EmptyState(), weights=rows.weights, **signals)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    def rollout_and_passes(carry, key):
        act_key, *pass_keys = jax.random.split(key, 4)
        said = logits(carry[0], data["x"])
        action = jax.random.categorical(act_key, said)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(said), action[:, None], 1)[:, 0]
        reward = jnp.float32(action == data["y"])
        rollout = {"x": data["x"], "action": action, "log_prob": log_prob, "advantage": reward}
        for pass_key in pass_keys:
            rows = sampling.epoch_rows(pass_key, len(reward), 500)  # the last of four mini-batches has 36 rows
            carry, _ = jax.lax.scan(functools.partial(mini_batch, rollout), carry, rows)
        return carry, jnp.mean(reward)

    start = params, optimizer.init(params)
    return jax.lax.scan(rollout_and_passes, start, jax.random.split(key, 25))[1]


def test_guesses_become_right_from_rewards_alone():
    rewards = digits.run(recipe, digits.logits, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    assert rewards[0] < 0.2 and rewards[-1] > 0.8
