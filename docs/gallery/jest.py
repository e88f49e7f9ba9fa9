"""What JEST keeps of a super-batch of digits cut in halves, of which half are paired wrongly."""

import numpy as np
from _picture import BLUE, LIGHT, RED, digits, finish, panels

from minibatch_jax.selection import jest_indices


def losses(train, top, bottom):
    """Return the sigmoid loss of each pair [B, B], under a regression of the bottom half on the top half."""
    x, y = train
    predicted = top @ np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (predicted, bottom))
    signs = 2 * np.eye(len(a)) - 1
    return np.logaddexp(0, -signs * (20 * a @ b.T - 18))


image, _ = digits()
top, bottom = image[:, :32] - image[:, :32].mean(0), image[:, 32:] - image[:, 32:].mean(0)
size, rng = 256, np.random.default_rng(1)
wrong = np.arange(size) % 2 == 1
batch = np.arange(size)
batch[wrong] = np.roll(batch[wrong], 1)
pairs = top[:size], bottom[batch]
learner = losses((top[256:276], bottom[256:276]), *pairs)
reference = losses((top[500:], bottom[500:]), *pairs)
kept = np.zeros(size, bool)
kept[np.asarray(jest_indices(0, (learner - reference).astype(np.float32), k=64, num_chunks=16))] = True

figure, axes = panels(2, width=4)
for axis, broken in zip(axes, (False, True)):
    for mask, look in ((~kept, {"color": LIGHT, "marker": "x"}), (kept, {"color": BLUE if not broken else RED})):
        shown = mask & (wrong == broken)
        axis.scatter(learner.diagonal()[shown], reference.diagonal()[shown], s=22, **look)
    axis.set(xlabel="loss of the learner", ylabel="loss of the reference")
    axis.set_title(
        f"{'wrong' if broken else 'right'} pairs: {kept[wrong == broken].sum()} of {(wrong == broken).sum()} kept"
    )
    axis.set(xlim=(learner.diagonal().min() - 0.5, learner.diagonal().max() + 0.5))
    axis.set(ylim=(reference.diagonal().min() - 0.5, reference.diagonal().max() + 0.5))
axes[0].scatter([], [], color=BLUE, label="kept, right")
axes[0].scatter([], [], color=RED, label="kept, wrong")
axes[0].scatter([], [], color=LIGHT, marker="x", label="left out")
finish(figure, axes[0])
