"""Probability of keeping a digit by the uncertainty of a model, for three powers."""

import numpy as np
from _picture import BLUE, GREEN, RED, digits, finish, panels

from minibatch_jax.selection import power_inclusion, prediction_entropy

image, label = digits()
train, rest = slice(0, 200), slice(200, 1000)
centers = np.stack([image[train][label[train] == c].mean(0) for c in range(10)])
logits = -3 * ((image[rest, None] - centers) ** 2).sum(-1)
uncertainty = np.asarray(prediction_entropy(logits.astype(np.float32)))
order = np.argsort(uncertainty)
figure, (axis,) = panels(1, width=5.6, height=3.8)
for alpha, color, style in ((-0.5, RED, ":"), (0.5, GREEN, "--"), (1.0, BLUE, "-")):
    kept = np.asarray(power_inclusion(uncertainty, 0.2, alpha))
    axis.plot(uncertainty[order], kept[order], style, color=color, lw=2, label=f"power {alpha:g}")
axis.axhline(0.2, color="black", lw=1, label="at random")
axis.set(xlabel="entropy of the model's prediction", ylabel="probability of being kept", ylim=(0, None))
finish(figure, axis)
