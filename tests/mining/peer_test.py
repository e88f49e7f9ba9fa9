"""Equality with pytorch-metric-learning, whose values on one batch are stored in pml_reference.json (see its .py)."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining.peer import LABELS, MEMORY, MEMORY_LABELS, PEER, X, check, euclidean, squared


def one_positive_each(x):
    """The masks of one (anchor, positive) pair for each class: N-pairs."""
    labels = np.sort(LABELS)
    first = np.array([np.flatnonzero(labels == c)[:2] for c in np.unique(labels)])
    values = mining.cosine_similarity(x[first[:, 0]], x[first[:, 1]])
    diagonal = jnp.eye(len(first), dtype=bool)
    return mining.info_nce_loss(values, diagonal, ~diagonal, temperature=1.0)


def to_one_column(x):
    """The peer's instance loss: the class of rank r should be nearest to the r-th embedding of the batch."""
    own = jnp.asarray(np.unique(np.sort(LABELS), return_inverse=True)[1])[:, None] == jnp.arange(len(x))[None]
    return mining.info_nce_loss(mining.cosine_similarity(x), own, ~own, temperature=1 / 8)


def margin_of_triplets(d, p, n):
    """The peer's margin loss: each pair counts once for every triplet that it is in."""
    terms = mining.margin_loss(d, p, n, margin=0.3, boundary=1.1, reduction="none")
    times = jnp.where(p, n.sum(axis=1, keepdims=True), 0) + jnp.where(n, p.sum(axis=1, keepdims=True), 0)
    times = times.astype(terms.dtype)
    return jnp.sum(times * terms) / jnp.sum(jnp.where(terms > 0, times, 0))


def with_self(loss):
    """The peer counts an anchor as its own positive in rank losses."""
    return lambda s, p, n: loss(s, p | jnp.eye(len(s), dtype=bool), n)


triplet = functools.partial(mining.triplet_loss, margin=0.3)
pnp = {"Ds": "log", "Dq": "quotient", "Iu": "entropy", "Ib": "bounded", "O": "linear"}
margins = {"positive_margin": 0.5, "negative_margin": 1.2}

LOSSES = {
    "contrastive": (euclidean, functools.partial(mining.contrastive_loss, **margins)),
    "contrastive_snr": (
        lambda x: mining.noise_ratio_distances(mining.normalize_embeddings(x)),
        functools.partial(mining.contrastive_loss, **margins),
    ),
    "multi_similarity": (mining.cosine_similarity, mining.multi_similarity_loss),
    "ntxent": (mining.cosine_similarity, functools.partial(mining.ntxent_loss, temperature=0.2)),
    "supcon": (
        mining.cosine_similarity,
        functools.partial(mining.supcon_loss, temperature=0.2, reduction="active_mean"),
    ),
    "nca": (lambda x: -squared(x), functools.partial(mining.info_nce_loss, temperature=1.0)),
    "triplet_margin": (euclidean, triplet),
    "triplet_margin_smooth": (euclidean, functools.partial(triplet, smooth=True)),
    "circle": (mining.cosine_similarity, functools.partial(mining.circle_loss, scale=8)),
    "generalized_lifted_structure": (euclidean, mining.generalized_lifted_structure_loss),
    "lifted_structure": (euclidean, mining.lifted_structure_loss),
    "tuplet_margin": (
        mining.cosine_similarity,
        functools.partial(mining.tuplet_margin_loss, margin=np.radians(5.73), scale=8),
    ),
    "intra_pair_variance": (mining.cosine_similarity, mining.intra_pair_variance_loss),
    "threshold_consistent_margin": (
        mining.cosine_similarity,
        functools.partial(mining.threshold_consistent_loss, positive_margin=0.6, negative_margin=0.2),
    ),
    "ranked_list": (
        euclidean,
        functools.partial(
            mining.ranked_list_loss,
            margin=0.4,
            boundary=1.2,
            imbalance=0.3,
            positive_temperature=1.0,
            negative_temperature=2.0,
        ),
    ),
    "angular": (mining.cosine_similarity, functools.partial(mining.angular_loss, angle=np.radians(40))),
    "margin": (euclidean, margin_of_triplets),
    "fast_ap": (squared, mining.fast_ap_loss),
    "histogram": (mining.cosine_similarity, functools.partial(mining.histogram_loss, num_bins=20)),
    "smooth_ap": (
        mining.cosine_similarity,
        with_self(functools.partial(mining.smooth_ap_loss, temperature=0.1)),
    ),
    **{
        f"pnp_{theirs}": (
            mining.cosine_similarity,
            with_self(functools.partial(mining.pnp_loss, penalty=ours, temperature=0.1, power=2.0, bound=3.0)),
        )
        for theirs, ours in pnp.items()
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient(name):
    compare, loss = LOSSES[name]
    order = np.argsort(LABELS, kind="stable")[: 9 if name == "smooth_ap" else None]
    labels = jnp.asarray(LABELS[order])
    # The peer adds 1e-5 to each of the 12 weights that it divides by.
    tolerance = {"ranked_list": 3e-4}.get(name, 1e-5)
    check(
        lambda x: loss(compare(x[order]), mining.positive_mask(labels), mining.negative_mask(labels)),
        PEER["losses"][name],
        tolerance,
    )


def test_n_pairs_is_info_nce_of_one_pair_per_class():
    order = np.argsort(LABELS, kind="stable")
    check(lambda x: one_positive_each(x[order]), PEER["losses"]["n_pairs"])


def test_instance_loss_is_info_nce_of_one_column():
    order = np.argsort(LABELS, kind="stable")
    check(lambda x: to_one_column(x[order]), PEER["losses"]["instance"])


@pytest.mark.parametrize("name", PEER["with_references"])
def test_loss_against_other_references(name):
    compare, loss = LOSSES[name]
    masks = [
        mask(jnp.asarray(LABELS), jnp.asarray(MEMORY_LABELS)) for mask in (mining.positive_mask, mining.negative_mask)
    ]
    check(lambda x: loss(compare(x, jnp.asarray(MEMORY)), *masks), PEER["with_references"][name])


WEIGHTS = np.array(PEER["weights"])
CENTERS = WEIGHTS.T[:4]


def to_centers(x):
    return mining.cosine_similarity(x, jnp.asarray(WEIGHTS.T)).reshape(len(x), 4, 3)


def sphereface(x, p, n):
    norms = jnp.linalg.norm(x, axis=1, keepdims=True)
    return mining.margin_softmax_loss(mining.cosine_similarity(x, CENTERS), p, n, multiple=4, scale=norms)


def large_margin_softmax(x, p, n):
    norms = 0.5 * jnp.linalg.norm(x, axis=1, keepdims=True) * jnp.linalg.norm(CENTERS, axis=1)[None]
    return mining.margin_softmax_loss(mining.cosine_similarity(x, CENTERS), p, n, multiple=3, scale=norms)


def to_classes(loss, **options):
    return lambda x, p, n: loss(mining.cosine_similarity(x, CENTERS), p, n, **options)


arcface = {"angle": np.radians(28.6).item(), "scale": 8.0}
CLASS_LOSSES = {
    "arcface": to_classes(mining.margin_softmax_loss, **arcface),
    "cosface": to_classes(mining.margin_softmax_loss, cosine=0.35, scale=8.0),
    "normalized_softmax": to_classes(mining.info_nce_loss, temperature=0.2),
    "sphereface": sphereface,
    "large_margin_softmax": large_margin_softmax,
    "p2s_grad": to_classes(mining.orthogonal_pair_loss),
    "sub_center_arcface": lambda x, p, n: mining.margin_softmax_loss(to_centers(x).max(axis=2), p, n, **arcface),
    "soft_triple": lambda x, p, n: mining.margin_softmax_loss(
        mining.losses.classification.soften_centers(to_centers(x)), p, n, cosine=0.01, scale=20.0
    ),
    "proxy_anchor": lambda x, p, n: mining.proxy_anchor_loss(mining.cosine_similarity(CENTERS, x), p.T, n.T, scale=8.0),
    "proxy_nca": lambda x, p, n: mining.info_nce_loss(-squared(x, CENTERS), p, n, temperature=1.0),
}


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_loss_and_gradient(name):
    masks = [mask(jnp.asarray(LABELS), jnp.arange(4)) for mask in (mining.positive_mask, mining.negative_mask)]
    check(lambda x: CLASS_LOSSES[name](x, *masks), PEER["class_losses"][name])


def test_vicreg():
    from minibatch_jax.modules import vicreg_loss

    x = jnp.asarray(X)
    np.testing.assert_allclose(vicreg_loss(x, x[::-1] + 0.3), PEER["vicreg"]["value"], rtol=1e-5)
