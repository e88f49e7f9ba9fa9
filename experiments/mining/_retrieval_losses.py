"""The losses of `zero_shot_retrieval`, each with one number of its own to tune."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.mining._emoji import IMAGES_PER_ROW as VIEWS
from minibatch_jax import value_and_grad
from minibatch_jax.mining import (
    circle_loss,
    contrastive_loss,
    cosine_similarity,
    euclidean_distances,
    fast_ap_loss,
    hard_negative_loss,
    info_nce_loss,
    lifted_structure_loss,
    margin_loss,
    margin_softmax_loss,
    mine_all,
    mine_distance_weighted,
    mine_hard,
    mine_multi_similarity,
    mine_random,
    mine_semihard,
    multi_similarity_loss,
    normalize_embeddings,
    ntxent_loss,
    proxy_anchor_loss,
    smooth_ap_loss,
    squared_euclidean_distances,
    supcon_loss,
)


class Vectors(NamedTuple):
    """Embeddings `[B, D]` of length 1, four of a class in a row, and proxies `[C, D]` where a method learns them."""

    embeddings: jax.Array
    proxies: Any


class Pairs(NamedTuple):
    """What is compared: `items(vectors)` gives `kind` `[A, M]`, and `labels(labels, C)` the labels that tell pairs."""

    kind: str
    items: Callable[[Vectors], jax.Array]
    labels: Callable[[jax.Array, int], dict[str, jax.Array]] = lambda labels, num_classes: {"labels": labels}


class Method(NamedTuple):
    """A loss of pairs, its number to tune with the values tried, and whether it learns proxies.

    `loss(pairs, positives, negatives, number)` is None for triplets, whose weights are their gradient;
    `miner(number, D, key)` gives the transformation that chooses the pairs or weighs them.
    """

    pairs: Pairs
    loss: Callable[..., jax.Array] | None
    number: str
    values: tuple[float, ...]
    miner: Callable[[Any, int, jax.Array], Any] = lambda number, dimensions, key: optax.identity()
    proxies: bool = False
    static: bool = False
    """the number is no tracer"""


def gradient(
    method: Method,
    number: Any,
    vectors: Callable[[Any, Any], Vectors],
    params: Any,
    batch: Any,
    labels: jax.Array,
    key: jax.Array,
) -> Any:
    """Gradient for `params` of the loss of `vectors(params, batch)`, whose labels are `[B]`."""

    def items_fn(params, batch):
        return method.pairs.items(vectors(params, batch))

    found = jax.eval_shape(vectors, params, batch)
    loss = None if method.loss is None else partial(method.loss, number=number)
    miner = method.miner(number, found.embeddings.shape[1], key)
    signals = method.pairs.labels(labels, found.proxies.shape[0] if method.proxies else 0)
    state = miner.init(jnp.ones(jax.eval_shape(items_fn, params, batch).shape))
    return value_and_grad(items_fn, miner, items=method.pairs.kind, loss=loss)(params, batch, state, **signals)[1]


def of_embeddings(kind: str, matrix: Callable[[jax.Array], jax.Array]) -> Pairs:
    """All pairs of two embeddings."""
    return Pairs(kind, lambda vectors: matrix(vectors.embeddings))


def each_with_proxies(labels: jax.Array, num_classes: int) -> dict[str, jax.Array]:
    """Labels where the references are the proxies of the classes."""
    return {"labels": labels, "reference_labels": jnp.arange(num_classes, dtype=labels.dtype)}


def proxies_with_each(labels: jax.Array, num_classes: int) -> dict[str, jax.Array]:
    """Labels where the anchors are the proxies of the classes."""
    return {"labels": jnp.arange(num_classes, dtype=labels.dtype), "reference_labels": labels}


def first_with_second(labels: jax.Array, num_classes: int) -> dict[str, jax.Array]:
    """Labels where the anchors are the first images of the classes, and the references their second ones."""
    return {"labels": labels[::VIEWS], "reference_labels": labels[::VIEWS]}


COSINES = of_embeddings("similarities", cosine_similarity)
COSINE_DISTANCES = of_embeddings("distances", lambda x: 1 - cosine_similarity(x))
EUCLIDEAN = of_embeddings("distances", euclidean_distances)
SQUARED = of_embeddings("distances", squared_euclidean_distances)
TO_PROXIES = Pairs("similarities", lambda v: cosine_similarity(v.embeddings, v.proxies), each_with_proxies)
SQUARED_TO_PROXIES = Pairs(
    "distances",
    lambda v: squared_euclidean_distances(v.embeddings, normalize_embeddings(v.proxies)),
    each_with_proxies,
)
FROM_PROXIES = Pairs("similarities", lambda v: cosine_similarity(v.proxies, v.embeddings), proxies_with_each)
FIRST_TO_SECOND = Pairs(
    "similarities", lambda v: cosine_similarity(v.embeddings[::VIEWS], v.embeddings[1::VIEWS]), first_with_second
)
MARGINS = 0.1, 0.3, 0.8
TEMPERATURES = 0.05, 0.1, 0.2
SCALES = 10.0, 20.0, 40.0


def triplets(mine: Callable[[Any, jax.Array], Any]) -> Method:
    """Hinge on 1 - cosine of the triplets that `mine(margin, key)` weighs."""
    return Method(COSINE_DISTANCES, None, "margin", MARGINS, lambda margin, dimensions, key: mine(margin, key))


def named(loss: Callable[..., jax.Array], name: str, **options: Any) -> Callable[..., jax.Array]:
    """A loss of pairs and masks whose number has a name of its own."""
    return lambda pairs, positives, negatives, number: loss(pairs, positives, negatives, **{name: number}, **options)


def cosines(name: str, values: tuple[float, ...], loss: Callable[..., jax.Array]) -> Method:
    """A loss of cosines with a named number."""
    return Method(COSINES, named(loss, name), name, values)


def classes(name: str, values: tuple[float, ...], loss: Callable[..., jax.Array], **options: Any) -> Method:
    """A loss of cosines to proxies with a named number."""
    return Method(TO_PROXIES, named(loss, name, **options), name, values, proxies=True)


def sum_of_margins(distances, positives, negatives, number):
    """Margin loss of each pair; the miner weighs it."""
    return jnp.sum(margin_loss(distances, positives, negatives, boundary=number, reduction="none"))


def fast_ap(distances, positives, negatives, number):
    """FastAP loss in so many bins."""
    return fast_ap_loss(distances, positives, negatives, num_bins=int(number))


def proxy_nca(distances, positives, negatives, number):
    """InfoNCE of minus squared distances."""
    return info_nce_loss(-distances, positives, negatives, temperature=number)


METHODS = {
    "triplet, random": triplets(lambda margin, key: mine_random(key, margin)),
    "triplet, semi-hard": triplets(lambda margin, key: mine_semihard(margin, nearest=True, fallback="easiest")),
    "triplet, hardest": triplets(lambda margin, key: mine_hard(margin)),
    "triplet, all": triplets(lambda margin, key: mine_all(margin)),
    "contrastive": Method(
        COSINE_DISTANCES, named(contrastive_loss, "negative_margin"), "negative_margin", (0.3, 0.6, 1.0)
    ),
    "margin, distance-weighted": Method(
        EUCLIDEAN,
        sum_of_margins,
        "boundary",
        (0.6, 0.9, 1.2),
        lambda boundary, dimensions, key: mine_distance_weighted(dimensions, key),
    ),
    "multi-similarity, mined": cosines("base", (0.3, 0.5, 0.7), multi_similarity_loss)._replace(
        miner=lambda base, dimensions, key: mine_multi_similarity()
    ),
    "circle": cosines("scale", SCALES, circle_loss),
    "lifted structure": Method(EUCLIDEAN, named(lifted_structure_loss, "margin"), "margin", (0.5, 1.0, 1.5)),
    "N-pairs": Method(FIRST_TO_SECOND, named(info_nce_loss, "temperature"), "temperature", TEMPERATURES),
    "NT-Xent": cosines("temperature", TEMPERATURES, ntxent_loss),
    "hard-negative NT-Xent": cosines("temperature", TEMPERATURES, hard_negative_loss),
    "SupCon": cosines("temperature", TEMPERATURES, supcon_loss),
    "FastAP": Method(SQUARED, fast_ap, "num_bins", (5, 10, 20), static=True),
    "smooth-AP": cosines("temperature", (0.01, 0.03, 0.1), smooth_ap_loss),
    "ProxyNCA": Method(SQUARED_TO_PROXIES, proxy_nca, "temperature", TEMPERATURES, proxies=True),
    "proxy-anchor": Method(FROM_PROXIES, named(proxy_anchor_loss, "scale"), "scale", SCALES, proxies=True),
    "normalized softmax": classes("scale", SCALES, margin_softmax_loss),
    "CosFace": classes("scale", SCALES, margin_softmax_loss, cosine=0.35),
    "ArcFace": classes("scale", SCALES, margin_softmax_loss, angle=0.5),
}
