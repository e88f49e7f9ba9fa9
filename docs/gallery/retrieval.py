"""What six digits retrieve among 300 others, by their pixels."""

import jax.numpy as jnp
import numpy as np
from _picture import digits, finish, panels

from minibatch_jax.metrics import neighbors
from minibatch_jax.plot import plot_retrieval

image, label = digits()
unit = image / np.linalg.norm(image, axis=1, keepdims=True)
queries, pool = unit[:6], unit[6:306]
rows = np.asarray(neighbors(jnp.asarray(queries), jnp.asarray(pool), 6).indices)
figure, (axis,) = panels(1, width=4.8, height=5)
plot_retrieval(
    label[:6],
    label[6:306][rows],
    images=(queries.reshape(6, 8, 8), pool[rows].reshape(6, -1, 8, 8)),
    axes=axis,
)
finish(figure, axis)
