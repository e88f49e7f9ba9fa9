"""What a batch of the experiment on pseudo-labels is: rows, mixed examples, items and their weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import mlp
from minibatch_jax.modules import class_balance, mean_entropy, mixup, mosaic
from minibatch_jax.modules.mixed_examples import MixedExamples

CLASSES = 10
BALANCE, ENTROPY = 0.8, 0.4
"""weights of the two terms, the paper's"""


class Method(NamedTuple):
    """What is added to training on the labeled rows."""

    pseudo: bool = True
    balance: bool = False
    mix: str = ""
    quota: int = 0
    """labeled rows of a batch; 0: by chance"""


def items(method: Method, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Losses `[B, C]` of every class, and the terms that are functions of the batch, once for each row."""
    logits = mlp(params, batch["image"])
    found = {"labels": -jax.nn.log_softmax(logits)}
    if method.balance:
        terms = {"balance": class_balance(logits, batch["weight"]), "entropy": mean_entropy(logits, batch["weight"])}
        found |= {name: jnp.broadcast_to(term, len(logits)) for name, term in terms.items()}
    return found


def weights_of_items(method: Method, mixed: MixedExamples, weights: jax.Array) -> dict[str, jax.Array]:
    """Soft labels as weights `[B, C]` of the losses, and the weights of the two terms."""
    found = {"labels": mixed.targets * weights[:, None]}
    return found | ({"balance": BALANCE * weights, "entropy": ENTROPY * weights} if method.balance else {})


def mix(method: Method, key: jax.Array, images: jax.Array, labels: jax.Array, weights: jax.Array) -> MixedExamples:
    """The images and labels of a batch, mixed as the method has it; one part each if it does not mix."""
    if method.mix == "mixup":
        return mixup(key, images, labels, weights=weights)
    if method.mix == "mosaic":
        side = int(images.shape[1] ** 0.5)
        mixed = mosaic(key, images.reshape(-1, side, side), labels, weights=weights)
        return mixed._replace(inputs=mixed.inputs.reshape(images.shape))
    own = jnp.arange(len(images), dtype=jnp.int32)[:, None]
    return MixedExamples(images, labels, own, jnp.ones(own.shape))


def predictions(params: Any, images: jax.Array) -> jax.Array:
    """Probabilities `[B, C]`."""
    return jax.nn.softmax(mlp(params, images))


def splits(images: dict[str, Any], count: int, examples: int, test_examples: int, seed: int) -> tuple[Any, Any]:
    """Training rows drawn by the seed, equally many labeled rows of each class, and the first test rows."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images["train"]["label"]))[:examples]
    train = {name: values[rows] for name, values in images["train"].items()}
    chosen = [np.flatnonzero(train["label"] == c)[: count // CLASSES] for c in range(CLASSES)]
    labeled = np.isin(np.arange(examples), np.concatenate(chosen))
    test = {name: values[:test_examples] for name, values in images["test"].items()}
    return jax.tree.map(jnp.asarray, (train | {"labeled": labeled}, test))
