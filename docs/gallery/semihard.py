"""Which triplets of a batch of digits are hard, semi-hard and easy."""

import numpy as np
from _picture import BLUE, LIGHT, RED, digits, finish, panels

from minibatch_jax.mining import euclidean_distances, normalize_embeddings

MARGIN = 0.2
image, label = digits()
image, label = image[:40], label[:40]
distances = np.asarray(euclidean_distances(normalize_embeddings(image), normalize_embeddings(image)))
same = (label[:, None] == label) & ~np.eye(len(label), dtype=bool)
anchor, positive, negative = np.nonzero(same[:, :, None] & (label[:, None] != label)[:, None, :])
near, far = distances[anchor, positive], distances[anchor, negative]
kinds = {
    "easy": (far >= near + MARGIN, LIGHT, "."),
    "semi-hard": ((far > near) & (far < near + MARGIN), BLUE, "o"),
    "hard": (far <= near, RED, "x"),
}
figure, (axis,) = panels(1, width=5.6, height=4)
for name, (mask, color, marker) in kinds.items():
    axis.plot(near[mask], far[mask], marker, color=color, ms=3.5, label=f"{name}: {mask.sum()}", alpha=0.7)
line = np.array([near.min(), near.max()])
axis.plot(line, line, color="black", lw=1)
axis.plot(line, line + MARGIN, "--", color="black", lw=1)
axis.set(xlabel="distance of anchor and positive", ylabel="distance of anchor and negative")
finish(figure, axis)
