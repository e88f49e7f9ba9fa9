"""Losses of digits with right and wrong labels, and which of them the 60 % of least loss keep."""

import jax
import jax.numpy as jnp
import numpy as np
from _picture import BLUE, RED, digits, finish, panels

from experiments.engine import with_wrong_labels
from minibatch_jax import uniform_like, weights_of
from minibatch_jax.selection import keep_bottomk

image, label = digits()
noisy = with_wrong_labels(label, 0.4, 10, seed=0)
wrong = noisy != label
image, label = jnp.asarray(image), jnp.asarray(noisy)
rng = np.random.default_rng(0)


def losses_of(params, x, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ params), y[:, None], 1)[:, 0]


params = jnp.zeros((64, 10))


@jax.jit
def update(params, rows):
    return params - 0.5 * jax.grad(lambda p: jnp.mean(losses_of(p, image[rows], label[rows])))(params)


for _ in range(150):
    params = update(params, rng.integers(len(label), size=64))
losses = np.asarray(losses_of(params, image, label))
keep = keep_bottomk(round(0.6 * len(losses)))
kept = np.asarray(weights_of(keep, uniform_like(jnp.asarray(losses)), losses=jnp.asarray(losses))) > 0
figure, (axis,) = panels(1, width=6, height=3.8)
bins = np.linspace(0, np.quantile(losses, 0.995), 45)
axis.hist(losses[~wrong], bins, color=BLUE, alpha=0.75, label="right label")
axis.hist(losses[wrong], bins, histtype="step", color=RED, lw=2, label="wrong label")
axis.axvline(losses[kept].max(), ls="--", color="black", label=f"kept: {100 * (~wrong)[kept].mean():.0f} % are right")
axis.set(xlabel="loss of an example", ylabel="examples")
finish(figure, axis)
