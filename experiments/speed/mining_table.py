"""Case F over the whole table: every miner, and every loss with its gradient, against pytorch-metric-learning.

One line for each row of `docs/pytorch_metric_learning.md` that computes something. Rows for which the peer builds
arrays of more than all pairs run at the smaller size only. The peer runs in a process of its own, in turns with ours;
see `triplets` for where it is looked for. Six values differ by definition: the peer's margin loss counts a pair once
for each triplet, its angular loss takes the negatives at their own length, its ranked list loss adds 1e-5 to each
weight that it divides by, its N-pairs are drawn, and so are its proxies of the manifold loss, and its memory holds the
calls before, but not the batch: ours compares twice as many pairs there.

Measured on two cores, nothing else running, B = 1024: miners 0.007 to 0.35 of the peer, all positives with the hardest
negative 0.91; hard triplets 0.12 (target 0.15), all and semi-hard triplets 0.02 (target 0.05); other losses 0.005 to
0.77, but instance 1.16, memory 1.19 and sub-center ArcFace 1.56.
"""

import functools
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed import _mining_pml, _triplets_pml
from experiments.speed._timing import in_fresh_process, milliseconds
from experiments.speed.triplets import PEER, PER_CLASS, WIDTH, peer_python
from minibatch_jax import mining, modules

EXPENSIVE = (
    "mine angular",
    "angular",
    "dynamic soft margin",
    "histogram",
    "lifted structure",
    "margin",
    "NT-Xent",
    "PNP",
    "tuplet margin",
)
CENTERS = _mining_pml.CENTERS


def euclidean(x: jax.Array, r: jax.Array | None = None) -> jax.Array:
    references = None if r is None else mining.normalize_embeddings(r)
    return mining.euclidean_distances(mining.normalize_embeddings(x), references)


def squared(x: jax.Array, r: jax.Array | None = None) -> jax.Array:
    return euclidean(x, r) ** 2


def noise_ratio(x: jax.Array) -> jax.Array:
    return mining.noise_ratio_distances(mining.normalize_embeddings(x))


def masks(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return mining.positive_mask(labels), mining.negative_mask(labels)


def miners() -> dict[str, Callable[..., Any]]:
    """Functions of embeddings and labels, with the settings of the peer."""

    def of(function, *arguments, compare=euclidean, **options):
        return lambda x, y: function(compare(x), *masks(y), *arguments, **options)

    def distance_weighted(x, y):
        d, (positives, negatives) = euclidean(x), masks(y)
        logits = mining.distance_weighted_logits(d, negatives, WIDTH)
        number = jnp.sum(positives.astype(jnp.int32), axis=1)
        return mining.sample_negative_counts(jax.random.key(0), logits, number, PER_CLASS - 1)

    def uniform(d, positives, negatives):
        return [mining.uniform_distance_weights(d, mask) for mask in (positives, negatives)]

    return {
        "mine angular": of(mining.angular_triplet_weights, angle=math.radians(40), margin=jnp.inf),
        "mine batch-hard": of(mining.triplet_choice),
        "mine distance-weighted": distance_weighted,
        "mine easy positive, semi-hard negative": of(mining.triplet_choice, "easy", "semihard"),
        "mine semi-hard positive, hard negative": of(mining.triplet_choice, "semihard", "hard"),
        "mine all positives, hard negative": of(mining.rank_pair_masks, negative_ranks=(0, 1)),
        "mine in allowed ranges": of(mining.range_pair_masks, (0.0, 1.4), (1.2, 2.0)),
        "mine hardest half": of(mining.hardest_pair_masks),
        "mine multi-similarity": of(mining.multi_similarity_pair_masks, compare=mining.cosine_similarity),
        "mine pair margin": of(mining.margin_pair_masks, 1.0, 1.2),
        "mine all triplets": of(lambda *pairs: mining.losses.triplets.triplet_pair_weights(*pairs, margin=0.2)[1]),
        "mine semi-hard triplets": of(
            lambda *pairs: mining.losses.triplets.triplet_pair_weights(*pairs, margin=0.2, mining="semihard")[1]
        ),
        "mine uniform distances": of(uniform),
    }


def losses_of_pairs() -> dict[str, Callable[..., jax.Array]]:
    """Functions of embeddings and labels, with the settings of the peer."""
    cosine = mining.cosine_similarity

    def loss(compare, function, **options):
        return lambda x, y: function(compare(x), *masks(y), **options)

    def one_pair_each(x, y):
        del y
        diagonal = jnp.eye(x.shape[0] // PER_CLASS, dtype=bool)
        return mining.info_nce_loss(cosine(x[::PER_CLASS], x[1::PER_CLASS]), diagonal, ~diagonal, temperature=1.0)

    def instance(x, y):
        own = y[:, None] == jnp.arange(x.shape[0])[None]
        return mining.info_nce_loss(cosine(x), own, ~own, temperature=1 / 64)

    def memory(x, y):
        past = mining.remember(mining.init_memory(1024, WIDTH), x, y)
        pairs = mining.memory_pairs(past, x, y)
        return mining.contrastive_loss(euclidean(x, pairs.references), pairs.positives, pairs.negatives)

    def manifold(x, y):
        proxies = jax.random.normal(jax.random.key(0), (50, WIDTH))
        own = jnp.arange(y.shape[0])[:, None] % 50 == jnp.arange(50)[None]
        return mining.manifold_loss(cosine(jnp.concatenate([x, proxies])), own, ~own)

    def dynamic(d, p, n):
        return mining.dynamic_margin_loss(mining.init_dynamic_margin(), d, p, n)[0]

    return {
        "angular": loss(cosine, mining.angular_loss),
        "circle": loss(cosine, mining.circle_loss),
        "contrastive": loss(euclidean, mining.contrastive_loss),
        "contrastive, noise ratio": loss(noise_ratio, mining.contrastive_loss),
        "cross-batch memory, contrastive": memory,
        "dynamic soft margin": loss(euclidean, dynamic),
        "FastAP": loss(squared, mining.fast_ap_loss),
        "generalized lifted structure": loss(euclidean, mining.generalized_lifted_structure_loss),
        "histogram": loss(cosine, mining.histogram_loss, num_bins=100),
        "instance": instance,
        "intra-pair variance": loss(cosine, mining.intra_pair_variance_loss),
        "lifted structure": loss(euclidean, mining.lifted_structure_loss),
        "manifold": manifold,
        "margin": loss(euclidean, mining.margin_loss),
        "multi-similarity": loss(cosine, mining.multi_similarity_loss),
        "NCA": loss(lambda x: -squared(x), mining.info_nce_loss, temperature=1.0),
        "N-pairs": one_pair_each,
        "NT-Xent": loss(cosine, mining.ntxent_loss, temperature=0.1),
        "PNP": loss(cosine, lambda s, p, n: mining.pnp_loss(s, p | jnp.eye(s.shape[0], dtype=bool), n)),
        "ranked list": loss(euclidean, mining.ranked_list_loss, margin=0.4, negative_temperature=5.0),
        "SupCon": loss(cosine, mining.supcon_loss, temperature=0.1, reduction="active_mean"),
        "threshold-consistent": loss(cosine, mining.threshold_consistent_loss),
        "tuplet margin": loss(cosine, mining.tuplet_margin_loss, margin=math.radians(5.73)),
        "VICReg": lambda x, y: modules.vicreg_loss(x, jax.lax.stop_gradient(x[::-1])),
        "hard triplets": lambda x, y: mining.mined_triplet_loss(mining.normalize_embeddings(x), y),
        "all triplets": loss(euclidean, mining.triplet_loss),
        "semi-hard triplets": loss(euclidean, mining.triplet_loss, mining="semihard"),
    }


def losses_of_classes(size: int) -> dict[str, Callable[..., jax.Array]]:
    """The same for losses with a vector, or three, for each class."""
    vectors = jnp.asarray(_mining_pml.class_vectors(size, WIDTH, PER_CLASS))
    first, classes = vectors[::CENTERS], jnp.arange(size // PER_CLASS)
    cosine, softmax = mining.cosine_similarity, mining.margin_softmax_loss
    turned = {"angle": math.radians(28.6), "scale": 64.0}

    def of(function, compare=cosine, **options):
        def value(x, y):
            pairs = mining.positive_mask(y, classes), mining.negative_mask(y, classes)
            return function(compare(x, first), *pairs, **options)

        return value

    def with_norms(multiple, scale, class_norms):
        def value(x, y):
            norms = scale * jnp.linalg.norm(x, axis=1, keepdims=True)
            if class_norms:
                norms = norms * jnp.linalg.norm(first, axis=1)[None]
            return of(functools.partial(softmax, multiple=multiple, scale=norms))(x, y)

        return value

    def to_centers(x, r):
        return cosine(x, vectors).reshape(x.shape[0], r.shape[0], CENTERS)

    return {
        "ArcFace": of(softmax, **turned),
        "CosFace": of(softmax, cosine=0.35, scale=64.0),
        "large-margin softmax": with_norms(4, 1.0, True),
        "normalized softmax": of(mining.info_nce_loss, temperature=0.05),
        "P2SGrad": of(mining.orthogonal_pair_loss),
        "proxy anchor": of(lambda s, p, n: mining.proxy_anchor_loss(s.T, p.T, n.T)),
        "ProxyNCA": of(mining.info_nce_loss, lambda x, r: -squared(x, r), temperature=1.0),
        "SoftTriple": of(
            softmax, lambda x, r: mining.losses.classification.soften_centers(to_centers(x, r)), cosine=0.01, scale=20.0
        ),
        "SphereFace": with_norms(4, 1.0, False),
        "sub-center ArcFace": of(softmax, lambda x, r: to_centers(x, r).max(axis=2), **turned),
    }


def time_size(size: int, python: str | None, rounds: int, repeats: int) -> None:
    """Print the table of one batch size."""
    data = tuple(map(jnp.asarray, _triplets_pml.batch(size, WIDTH, PER_CLASS)))
    losses = {**losses_of_pairs(), **losses_of_classes(size)}
    calls = {**miners(), **{name: jax.value_and_grad(loss) for name, loss in losses.items()}}
    calls = {name: jax.jit(call) for name, call in calls.items() if size <= 256 or name not in EXPENSIVE}
    ours, theirs, values = defaultdict(list), defaultdict(list), {}
    for _ in range(rounds):
        for name, call in calls.items():
            ours[name] += milliseconds(lambda c=call: jax.block_until_ready(c(*data)), repeats, warmup=2)
        if python is not None:
            found = in_fresh_process(
                _mining_pml.__name__, size, WIDTH, PER_CLASS, repeats, ";".join(calls), python=python
            )
            values = found["values"]
            for name, spent in found["times"].items():
                theirs[name] += spent
    print(f"\nF. B = {size}, d = {WIDTH}, {PER_CLASS} per class (load average {os.getloadavg()[0]:.1f}): median ms")
    print(f"  {'':<40} {'ours':>8} {'peer':>8} {'ours / peer':>12} {'value':>10} {'peer':>10}")
    for name, call in calls.items():
        line = f"  {name:<40} {statistics.median(ours[name]):>8.3g}"
        if theirs[name]:
            peer = statistics.median(theirs[name])
            line += f" {peer:>8.3g} {statistics.median(ours[name]) / peer:>12.3f}"
        if name in values:
            line += f" {float(call(*data)[0]):>10.5g} {values[name]:>10.5g}"
        print(line)


def main(sizes: tuple[int, ...] = (256, 1024), rounds: int = 3, repeats: int = 5):
    """Print a line for each row: times of both, their ratio, and the values of both losses."""
    python = peer_python()
    if python is None:
        print(f"{PEER} is not installed: no column for it (set PML_PYTHON to an interpreter that has it)")
    for size in sizes:
        time_size(size, python, rounds, repeats)


if __name__ == "__main__":
    main()
