"""Twelve digits chosen by k-center and twelve at random, with the radius that covers all others."""

import numpy as np
from _picture import BLUE, LIGHT, digits, finish, panels, two_axes
from matplotlib.patches import Circle

from minibatch_jax.selection import k_center

points = two_axes(digits()[0])[:500]
chosen = {
    "k-center": np.asarray(k_center(points, 12).indices),
    "at random": np.random.default_rng(0).choice(len(points), 12, replace=False),
}
figure, axes = panels(2, width=3.9, height=3.9)
for axis, (name, rows) in zip(axes, chosen.items()):
    radius = np.linalg.norm(points[:, None] - points[rows], axis=-1).min(1).max()
    axis.plot(*points.T, ".", color="#888888", ms=3, label="digit")
    axis.plot(*points[rows].T, "s", color=BLUE, ms=6, label="chosen")
    for row in rows:
        axis.add_patch(Circle(points[row], radius, fill=False, ec=LIGHT, lw=1))
    axis.set(xlabel="first component", ylabel="second component", title=f"{name}: radius {radius:.2f}", aspect="equal")
    axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
finish(figure, axes[0])
