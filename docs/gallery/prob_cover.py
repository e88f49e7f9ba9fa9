"""Radius of ProbCover on digits: large balls cover more and hold more than one class."""

import jax.numpy as jnp
import numpy as np
from _picture import BLUE, RED, digits, finish, panels

from minibatch_jax.selection import largest_pure_radius, prob_cover_indices

image, label = digits()
image, label = image[:600], label[:600]
unit = image / np.linalg.norm(image, axis=1, keepdims=True)
distances = np.sqrt(np.maximum(2 - 2 * unit @ unit.T, 0))
other = np.where(label[:, None] != label, distances, np.inf).min(1)
radii = np.linspace(0.1, 0.9, 17)
covered = [np.asarray(prob_cover_indices(0, image, 20, jnp.float32(r)).covered).mean() for r in radii]
chosen = float(largest_pure_radius(image, label, purity=0.95))
figure, (axis,) = panels(1, width=5.6, height=3.8)
axis.plot(radii, covered, color=BLUE, label="covered by 20 digits")
axis.plot(radii, [(other >= r).mean() for r in radii], "--", color=RED, label="balls of one class")
axis.axvline(chosen, color="black", ls=":", label="95 % pure")
axis.set(xlabel="radius", ylabel="fraction of the digits", ylim=(0, 1.03))
finish(figure, axis)
