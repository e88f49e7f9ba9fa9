"""Paths from noise to digits: paired at random they cross, paired by transport hardly any cross."""

import jax
import numpy as np
from _picture import BLUE, LIGHT, RED, digits, finish, panels, two_axes

from minibatch_jax.coupling import couple_assignment, flow_matching_pairs

image, _ = digits()
data = two_axes(image)[:48]
data /= data.std(0)
noise = np.random.default_rng(0).normal(size=data.shape).astype(np.float32)


def crossings(x0, x1):
    """Return how many pairs of segments cross."""

    def side(p, q, r):
        (px, py), (qx, qy) = np.moveaxis(q - p, -1, 0), np.moveaxis(r - p, -1, 0)
        return np.sign(px * qy - py * qx)

    a, b, c, d = x0[:, None], x1[:, None], x0[None], x1[None]
    cross = (side(a, b, c) != side(a, b, d)) & (side(c, d, a) != side(c, d, b))
    return int(np.triu(cross, 1).sum())


figure, axes = panels(2, width=3.8)
for axis, (name, coupling) in zip(axes, {"at random": None, "by transport": couple_assignment()}.items()):
    pairs = flow_matching_pairs(jax.random.key(0), noise, data, coupling)
    x0, x1 = np.asarray(pairs.x0), np.asarray(pairs.x1)
    axis.plot(*np.stack([x0, x1]).transpose(2, 0, 1), color=LIGHT, lw=1)
    axis.plot(*x0.T, "o", color=BLUE, ms=4, label="noise")
    axis.plot(*x1.T, "^", color=RED, ms=4, label="digit")
    axis.set(xlabel="first component", ylabel="second component", title=f"{name}: {crossings(x0, x1)} crossings")
finish(figure, axes[0])
