"""Two towers for pairs of image and text, with one image tower for two resolutions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.selection._emoji_pairs import SIDE
from experiments.shared.backbones import PatchMixer, functional
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses

PATCH = 4
COARSE = SIDE // 2
"""side of the images of the coarse resolution, the means of squares of 2 x 2 pixels"""


class Towers(NamedTuple):
    """Functions of two towers.

    Attributes:
      init: `init(key)` gives the parameters.
      fine: `fine(params, batch)` embeds the images `image` and the words `words` of a batch as unit vectors.
      coarse: the same from images of half the side. It shares all parameters but those that depend on the number of
        patches.
      flops: of the forward pass of one pair in matrix products, fine and coarse.
    """

    init: Callable[[jax.Array], Any]
    fine: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    coarse: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    flops: tuple[int, int]


def towers(vocabulary: int, width: int, depth: int, dimensions: int) -> Towers:
    """A `PatchMixer` for images, and for texts the mean of the vectors of their words."""

    def mixer(side, key):
        shape = {"side": side, "channels": 3, "patch": PATCH, "width": width, "depth": depth}
        return functional(PatchMixer(dimensions, rngs=nnx.Rngs(key), **shape))

    (fine_tower, _), (coarse_tower, _) = (mixer(side, 0) for side in (SIDE, COARSE))

    def init(key):
        fine_key, coarse_key, text_key = jax.random.split(key, 3)
        return {
            "image": mixer(SIDE, fine_key)[1],
            "coarse": of_places(mixer(COARSE, coarse_key)[1]),
            "text": jax.random.normal(text_key, (vocabulary, dimensions)),
            "log_scale": jnp.log(10.0),
            "bias": jnp.float32(-5.0),
        }

    def fine(params, batch):
        return unit(fine_tower(params["image"], batch["image"])), unit(batch["words"] @ params["text"])

    def coarse(params, batch):
        images = batch["image"]
        cells = images.reshape(len(images), COARSE, 2, COARSE, 2, 3).mean((2, 4))
        tower = replaced(params["image"], params["coarse"])
        return unit(coarse_tower(tower, cells)), unit(batch["words"] @ params["text"])

    def flops(side):
        tokens = (side // PATCH) ** 2
        block = 8 * tokens**2 * width + 8 * width**2 * tokens
        embedding = 2 * tokens * (2 * PATCH) ** 2 * 3 * width
        return embedding + depth * block + 2 * width * dimensions + 2 * vocabulary * dimensions

    return Towers(init, fine, coarse, (flops(SIDE), flops(COARSE)))


def pair_losses(params: Any, vectors: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Sigmoid losses `[B, B]` of the pairs, with the scale and the bias that the towers have learned."""
    return sigmoid_pair_losses(PairEmbeddings(*vectors, jnp.exp(params["log_scale"]), params["bias"]))


def recalls(similarities: jax.Array, own: jax.Array, where: jax.Array | None = None) -> list[jax.Array]:
    """Fraction of the rows that have their own column first or among the first five, all among columns of `where`."""
    where = jnp.ones(similarities.shape[1], bool) if where is None else where
    of_own = jnp.take_along_axis(similarities, own[:, None], axis=1)
    before = jnp.sum((similarities > of_own) & where[None], axis=1)
    return [jnp.mean(before < k, where=where[own]) for k in (1, 5)]


def new_pair_recalls(model: Towers, params: Any, test: dict[str, jax.Array]) -> list[jax.Array]:
    """`recalls` of the images of a test among the texts of all its emoji."""
    image_vectors, text_vectors, own = vectors_of_test(model, params, test)
    return recalls(image_vectors @ text_vectors.T, own)


def vectors_of_test(model: Towers, params: Any, test: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors of all images of a test, of all its texts, and the text of each image."""
    emoji, drawings = test["image"].shape[:2]
    images = test["image"].reshape(-1, *test["image"].shape[2:])
    vectors = model.fine(params, {"image": images, "words": test["words"]})
    return *vectors, jnp.repeat(jnp.arange(emoji), drawings)


def unit(x: jax.Array) -> jax.Array:
    """Rows of length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def of_places(tower: dict[Any, Any]) -> dict[Any, Any]:
    """The parameters of a `PatchMixer` whose shape depends on the number of patches."""
    blocks = {name: {"tokens": block["tokens"]} for name, block in tower["blocks"].items()}
    return {"places": tower["places"], "blocks": blocks}


def replaced(tree: Any, part: Any) -> Any:
    """The tree with the leaves of a part of it in place of its own."""
    if not isinstance(part, dict):
        return part
    return {key: replaced(value, part[key]) if key in part else value for key, value in tree.items()}
