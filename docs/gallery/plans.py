"""Exact, entropic, partial and unbalanced plans between digits 4 and 0, with three digits 3 among the targets."""

import jax.numpy as jnp
import numpy as np
from _picture import digits, finish, panels, two_axes

from minibatch_jax.coupling import partial_plan, sinkhorn, transport, unbalanced_sinkhorn
from minibatch_jax.geometry import squared_distances
from minibatch_jax.plot import plot_plan

image, label = digits()
points = two_axes(image)
sources, targets = points[label == 4][:16], points[label == 0][:16]
targets[:3] = points[label == 3][:3]
cost = jnp.asarray(squared_distances(jnp.asarray(sources), jnp.asarray(targets)))
plans = {
    "exact": transport(cost),
    "entropic": sinkhorn(cost, epsilon=0.1, relative_to="mean"),
    "partial, 60 % of the mass": partial_plan(cost, 0.6, jnp.full(cost.shape, 1 / cost.size)),
    "unbalanced": unbalanced_sinkhorn(cost, epsilon=0.02, rho=1.0, relative_to="mean"),
}
figure, axes = panels(4, width=2.7, height=3)
for axis, (name, plan) in zip(axes, plans.items()):
    plot_plan(np.asarray(plan.matrix), sources=sources, targets=targets, axes=axis)
    axis.set_title(f"{name}", fontsize=11)
    axis.set(xlabel="first component", ylabel="second component" if name == "exact" else "")
finish(figure, axes[0])
