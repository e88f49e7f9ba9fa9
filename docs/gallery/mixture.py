"""A mixture that follows the losses of three groups of digits, while a linear model learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _picture import digits, finish, panels

from minibatch_jax import value_and_grad
from minibatch_jax.mixing import mix_by_odm
from minibatch_jax.plot import COLORS, plot_mixture
from minibatch_jax.sampling import mixture

NAMES, STEPS, BATCH = ("0, 1, 2", "3, 4, 5, 6", "7, 8, 9"), 600, 64
image, label = digits()
x, y, domains = jnp.asarray(image), jnp.asarray(label), jnp.asarray(np.searchsorted([3, 7], label, side="right"))
train, test = slice(0, 1000), slice(1000, None)


def losses(weights, x, y):
    """Return the loss of each digit."""
    return optax.softmax_cross_entropy_with_integer_labels(x @ weights, y)


def run(mix):
    """Train with a mixture; return it at each step `[T, K]`, and the mean held-out loss of each domain `[T, K]`."""
    sampler, optimizer = mixture(3, BATCH, mix), optax.adam(0.003)
    fn = value_and_grad(lambda weights, batch: losses(weights, *batch), optax.identity())
    held_out = [(x[test][domains[test] == k], y[test][domains[test] == k]) for k in range(3)]

    def step(carry, _):
        weights, opt_state, state = carry
        now = state.weights, jnp.stack([losses(weights, *rows).mean() for rows in held_out])
        rows, state = sampler.sample(state)
        batch = x[train][rows.indices], y[train][rows.indices]
        (_, aux), grads, _ = fn(weights, batch, optax.EmptyState(), weights=rows.weights)
        updates, opt_state = optimizer.update(grads, opt_state)
        state = sampler.update(state, rows, losses=aux.items)
        return (optax.apply_updates(weights, updates), opt_state, state), now

    weights = jnp.zeros((64, 10))
    state = sampler.init(0, domains=domains[train], prior=jnp.ones(3) / 3)
    return jax.tree.map(np.asarray, jax.lax.scan(step, (weights, optimizer.init(weights), state), length=STEPS)[1])


moving, fixed = run(mix_by_odm("perplexity", decay=0.95, loss_scale=3)), run(jnp.ones(3) / 3)
figure, axes = panels(2, width=4)
plot_mixture(moving[0], names=NAMES, axes=axes[0])
for k in range(3):
    axes[1].plot(moving[1][:, k], color=COLORS[k])
    axes[1].plot(fixed[1][:, k], ":", color=COLORS[k])
axes[1].set(xlabel="step", ylabel="held-out loss", ylim=(0, 1.5))
axes[0].plot([], [], ":", color="black", label="equal shares")
finish(figure, axes[0])
