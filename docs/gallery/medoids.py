"""Eight medoids of the threes among the digits, and how many images each stands for."""

import numpy as np
from _picture import BLUE, LIGHT, digits, finish, panels, two_axes

from minibatch_jax.selection import facility_location_from_features, medoid_weights

image, label = digits()
threes = image[label == 3]
medoids = facility_location_from_features(threes, 8)
weights = np.asarray(medoid_weights(medoids))
chosen = np.asarray(medoids.indices)
points = two_axes(threes)
figure, (axis,) = panels(1, width=6, height=4.4)
axis.plot(*points.T, "o", color=LIGHT, ms=3, label="a three")
axis.plot(*points[chosen].T, "s", color=BLUE, ms=5, label="medoid, with the number of images it stands for")
low, high = points.min(0), points.max(0)
for row, weight in zip(chosen, weights / weights.sum() * len(threes)):
    x, y = points[row]
    side = 0.08 * (high - low)
    inset = axis.inset_axes((x + 0.03, y - side[1] / 2, side[0], side[1] * 1.3), transform=axis.transData)
    inset.imshow(threes[row].reshape(8, 8), cmap="gray_r")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set_color(BLUE)
    axis.annotate(
        str(round(weight)),
        (x, y),
        (-6, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=BLUE,
        weight="bold",
    )
axis.set(xlabel="first component", ylabel="second component")
finish(figure, axis)
