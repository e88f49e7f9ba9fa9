"""The losses of `zero_shot_retrieval`, each with one number of its own to tune."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.mining._emoji import IMAGES_PER_ROW as VIEWS
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
    mine_random,
    mine_semihard,
    multi_similarity_loss,
    multi_similarity_pair_masks,
    negative_mask,
    normalize_embeddings,
    ntxent_loss,
    positive_mask,
    proxy_anchor_loss,
    smooth_ap_loss,
    squared_euclidean_distances,
    supcon_loss,
    weighted_pair_loss,
)


class Batch(NamedTuple):
    """Embeddings `[B, D]` of length 1, four of a class in a row; labels `[B]`; a key; proxies `[C, D]`."""

    embeddings: jax.Array
    labels: jax.Array
    key: jax.Array
    proxies: Any


class Method(NamedTuple):
    """A loss `(value, batch) -> []`, its number to tune with the values tried, and whether it learns proxies."""

    loss: Callable[[Any, Batch], jax.Array]
    number: str
    values: tuple[float, ...]
    proxies: bool = False
    static: bool = False
    """the number is no tracer"""


MARGINS = 0.1, 0.3, 0.8
TEMPERATURES = 0.05, 0.1, 0.2
SCALES = 10.0, 20.0, 40.0


def triplets(mine: Callable[[Any, jax.Array], Any]) -> Method:
    """Hinge on 1 - cosine of the triplets that `mine(margin, key)` weighs."""

    def loss(margin, batch):
        distances = 1 - cosine_similarity(batch.embeddings)
        miner, ones = mine(margin, batch.key), jnp.ones_like(distances)
        weights, _ = miner.update(ones, miner.init(ones), distances=distances, labels=batch.labels)
        return weighted_pair_loss(weights, distances, positive_mask(batch.labels))

    return Method(loss, "margin", MARGINS)


def pairs(name: str, values: tuple[float, ...], loss: Callable[..., jax.Array], **options: Any) -> Method:
    """A loss of cosines and masks with a named number."""

    def of_batch(number, batch):
        masks = positive_mask(batch.labels), negative_mask(batch.labels)
        return loss(cosine_similarity(batch.embeddings), *masks, **{name: number}, **options)

    return Method(of_batch, name, values)


def classes(name: str, values: tuple[float, ...], loss: Callable[..., jax.Array], **options: Any) -> Method:
    """A loss of cosines to proxies and masks with a named number."""

    def of_batch(number, batch):
        return loss(
            cosine_similarity(batch.embeddings, batch.proxies), *class_masks(batch), **{name: number}, **options
        )

    return Method(of_batch, name, values, proxies=True)


def class_masks(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Own class and other classes of each embedding, `[B, C]`."""
    numbers = jnp.arange(batch.proxies.shape[0], dtype=batch.labels.dtype)
    return positive_mask(batch.labels, numbers), negative_mask(batch.labels, numbers)


def contrastive(similarities, positives, negatives, negative_margin):
    """Contrastive loss of 1 - cosine."""
    return contrastive_loss(1 - similarities, positives, negatives, negative_margin=negative_margin)


def mined_multi_similarity(similarities, positives, negatives, base):
    """Multi-similarity loss of the pairs that its miner keeps."""
    kept = multi_similarity_pair_masks(jax.lax.stop_gradient(similarities), positives, negatives)
    return multi_similarity_loss(similarities, *kept, base=base)


def distance_weighted(boundary, batch):
    """Margin loss of negatives drawn by distance, as often as there are positives."""
    distances = euclidean_distances(batch.embeddings)
    miner, ones = mine_distance_weighted(batch.embeddings.shape[1], batch.key), jnp.ones_like(distances)
    fixed = jax.lax.stop_gradient(distances)
    weights: Any = miner.update(ones, miner.init(ones), distances=fixed, labels=batch.labels)[0]
    masks = positive_mask(batch.labels), negative_mask(batch.labels)
    return jnp.sum(weights * margin_loss(distances, *masks, boundary=boundary, reduction="none"))


def n_pairs(temperature, batch):
    """InfoNCE of the first image of each class against the second ones."""
    first, second, labels = batch.embeddings[::VIEWS], batch.embeddings[1::VIEWS], batch.labels[::VIEWS]
    masks = positive_mask(labels, labels), negative_mask(labels, labels)
    return info_nce_loss(cosine_similarity(first, second), *masks, temperature=temperature)


def lifted(margin, batch):
    """Lifted structure loss of Euclidean distances."""
    masks = positive_mask(batch.labels), negative_mask(batch.labels)
    return lifted_structure_loss(euclidean_distances(batch.embeddings), *masks, margin=margin)


def fast_ap(num_bins, batch):
    """FastAP loss of squared distances."""
    masks = positive_mask(batch.labels), negative_mask(batch.labels)
    return fast_ap_loss(squared_euclidean_distances(batch.embeddings), *masks, num_bins=int(num_bins))


def proxy_nca(temperature, batch):
    """InfoNCE of minus squared distances to proxies of length 1."""
    squared = squared_euclidean_distances(batch.embeddings, normalize_embeddings(batch.proxies))
    return info_nce_loss(-squared, *class_masks(batch), temperature=temperature)


def proxy_anchor(scale, batch):
    """Proxy-anchor loss, whose anchors are the proxies."""
    positives, negatives = class_masks(batch)
    similarities = cosine_similarity(batch.proxies, batch.embeddings)
    return proxy_anchor_loss(similarities, positives.T, negatives.T, scale=scale)


METHODS = {
    "triplet, random": triplets(lambda margin, key: mine_random(key, margin)),
    "triplet, semi-hard": triplets(lambda margin, key: mine_semihard(margin, nearest=True, fallback="easiest")),
    "triplet, hardest": triplets(lambda margin, key: mine_hard(margin)),
    "triplet, all": triplets(lambda margin, key: mine_all(margin)),
    "contrastive": pairs("negative_margin", (0.3, 0.6, 1.0), contrastive),
    "margin, distance-weighted": Method(distance_weighted, "boundary", (0.6, 0.9, 1.2)),
    "multi-similarity, mined": pairs("base", (0.3, 0.5, 0.7), mined_multi_similarity),
    "circle": pairs("scale", SCALES, circle_loss),
    "lifted structure": Method(lifted, "margin", (0.5, 1.0, 1.5)),
    "N-pairs": Method(n_pairs, "temperature", TEMPERATURES),
    "NT-Xent": pairs("temperature", TEMPERATURES, ntxent_loss),
    "hard-negative NT-Xent": pairs("temperature", TEMPERATURES, hard_negative_loss),
    "SupCon": pairs("temperature", TEMPERATURES, supcon_loss),
    "FastAP": Method(fast_ap, "num_bins", (5, 10, 20), static=True),
    "smooth-AP": pairs("temperature", (0.01, 0.03, 0.1), smooth_ap_loss),
    "ProxyNCA": Method(proxy_nca, "temperature", TEMPERATURES, proxies=True),
    "proxy-anchor": Method(proxy_anchor, "scale", SCALES, proxies=True),
    "normalized softmax": classes("scale", SCALES, margin_softmax_loss),
    "CosFace": classes("scale", SCALES, margin_softmax_loss, cosine=0.35),
    "ArcFace": classes("scale", SCALES, margin_softmax_loss, angle=0.5),
}
