"""Few-shot tasks: tell five emoji of one subcategory apart by two drawings of each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets import arrays, check_fetched

STYLES = ("emoji", "emoji_twitter", "emoji_apple", "emoji_facebook")
WAYS, SHOTS, SIDE = 5, 2, 8
PIXELS = SIDE * SIDE * 3
OWN = 0.2
"""what a task shares with itself alone; the rest of its likeness is half the category's, half the subcategory's"""


class Tasks(NamedTuple):
    """T tasks of 5 classes.

    Attributes:
      support, query: images `[T, 10, 192]`, the two drawings of each class one after the other; 2 styles each.
      category, subcategory: `[T]`.
    """

    support: jax.Array
    query: jax.Array
    category: jax.Array
    subcategory: jax.Array


def make_tasks(seed: int, num_train: int, num_test: int) -> tuple[Tasks, Tasks]:
    """Tasks to train on and tasks to test on, which share subcategories but no emoji.

    Half of the emoji of each subcategory are for training. As many tasks of disjoint classes as they allow for are
    made, and so many of these kept at most, so that a subcategory has about as many tasks as it has emoji.
    """
    check_fetched(*STYLES, "emoji_taxonomy")
    taxonomy = {k: np.concatenate([arrays("emoji_taxonomy", split)[k] for split in ("train", "test")])
                for k in ("label", "domain")}  # fmt: skip
    drawings = np.stack([_small(style) for style in STYLES], axis=1)
    rng = np.random.default_rng(seed)
    halves = [], []
    for subcategory in np.unique(taxonomy["domain"]):
        rows = rng.permutation(np.flatnonzero(taxonomy["domain"] == subcategory))
        for half, members in zip(halves, (rows[: len(rows) // 2], rows[len(rows) // 2 :])):
            half.extend(members[: len(members) // WAYS * WAYS].reshape(-1, WAYS))
    made = []
    for half, count in zip(halves, (num_train, num_test)):
        classes = np.stack(half)[rng.permutation(len(half))[:count]]
        styles = rng.permuted(np.tile(np.arange(4), (len(classes), 1)), axis=1)
        images = drawings[classes[:, :, None], styles[:, None]]
        support, query = (images[:, :, part].reshape(-1, WAYS * SHOTS, PIXELS) for part in (slice(2), slice(2, None)))
        kinds = (taxonomy[name][classes[:, 0]] for name in ("label", "domain"))
        made.append(Tasks(*(jnp.asarray(column) for column in (support, query, *kinds))))
    return made[0], made[1]


def taxonomy_features(tasks: Tasks) -> jax.Array:
    """Rows `[T, F]` whose inner products are the likeness of tasks, without a look at an image.

    It is 1 for the task itself, 0.8 within a subcategory, 0.4 within a category, else 0.
    """
    shared = np.sqrt((1 - OWN) / 2)
    columns = [shared * jax.nn.one_hot(kind, int(kind.max()) + 1) for kind in (tasks.category, tasks.subcategory)]
    return jnp.concatenate([*columns, np.sqrt(OWN) * jnp.eye(len(tasks.category))], axis=1)


def _small(style: str) -> np.ndarray:
    """All drawings of a style with 8x8 pixels, of mean 0 and variance 1, `[N, 192]`."""
    images = np.concatenate([arrays(style, split)["image"] for split in ("train", "test")])
    side = images.shape[1] // SIDE
    pooled = images.reshape(-1, SIDE, side, SIDE, side, 3).mean((2, 4), dtype=np.float32)
    return ((pooled - pooled.mean()) / pooled.std()).reshape(len(images), -1)
