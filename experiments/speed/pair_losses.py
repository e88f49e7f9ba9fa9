"""Case F, the whole table: miners of pairs, and losses with their gradients, against pytorch-metric-learning.

Losses for which the peer builds arrays of more than all pairs run at the smaller size only. The peer runs in a process
of its own, in turns with ours; see `triplets` for where it is looked for. Three values differ by definition: the peer's
margin loss counts a pair once for each triplet, its angular loss takes the negatives at their own length, its ranked
list loss adds 1e-5 to each weight that it divides by.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed import _pair_losses_pml, _triplets_pml
from experiments.speed._timing import in_fresh_process, milliseconds, print_ratios
from experiments.speed.triplets import OURS, PEER, PER_CLASS, WIDTH, peer_python
from minibatch_jax import mining

EXPENSIVE = ("NT-Xent", "histogram", "lifted structure", "tuplet margin", "angular", "PNP", "margin")


def euclidean(x: jax.Array) -> jax.Array:
    return mining.euclidean_distances(mining.normalize_embeddings(x))


def masks(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return mining.positive_mask(labels), mining.negative_mask(labels)


def rows() -> dict[str, Callable[..., Any]]:
    """Functions of embeddings and labels, with the settings of the peer."""

    def loss(compare, function, **options):
        return jax.value_and_grad(lambda x, y: function(compare(x), *masks(y), **options))

    cosine = mining.cosine_similarity
    return {
        "mine multi-similarity": lambda x, y: mining.multi_similarity_pair_masks(cosine(x), *masks(y)),
        "mine pair margin": lambda x, y: mining.margin_pair_masks(
            euclidean(x), *masks(y), positive_margin=1.0, negative_margin=1.2
        ),
        "mine easy positive": lambda x, y: mining.select_triplets(
            euclidean(x), *masks(y), positive="easy", negative="semihard"
        ),
        "mine hardest half": lambda x, y: mining.hardest_pair_masks(euclidean(x), *masks(y)),
        "contrastive": loss(euclidean, mining.contrastive_loss),
        "multi-similarity": loss(cosine, mining.multi_similarity_loss),
        "NT-Xent": loss(cosine, mining.ntxent_loss, temperature=0.1),
        "SupCon": loss(cosine, mining.supcon_loss, temperature=0.1),
        "circle": loss(cosine, mining.circle_loss),
        "generalized lifted structure": loss(euclidean, mining.generalized_lifted_structure_loss),
        "margin": loss(euclidean, mining.margin_loss),
        "intra-pair variance": loss(cosine, mining.intra_pair_variance_loss),
        "ranked list": loss(euclidean, mining.ranked_list_loss, margin=0.4, negative_temperature=5.0),
        "FastAP": loss(lambda x: euclidean(x) ** 2, mining.fast_ap_loss),
        "histogram": loss(cosine, mining.histogram_loss, num_bins=100),
        "lifted structure": loss(euclidean, mining.lifted_structure_loss),
        "tuplet margin": loss(cosine, mining.tuplet_margin_loss, margin=math.radians(5.73)),
        "angular": loss(cosine, mining.angular_loss),
        "PNP": loss(cosine, lambda s, p, n: mining.pnp_loss(s, p | jnp.eye(s.shape[0], dtype=bool), n)),
    }


def time_size(size: int, python: str | None, rounds: int, repeats: int) -> None:
    """Print the tables of one batch size."""
    data = tuple(map(jnp.asarray, _triplets_pml.batch(size, WIDTH, PER_CLASS)))
    calls = {name: jax.jit(call) for name, call in rows().items() if size <= 256 or name not in EXPENSIVE}
    times, values = {name: defaultdict(list) for name in calls}, {}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name][OURS] += milliseconds(lambda c=call: jax.block_until_ready(c(*data)), repeats, warmup=2)
        if python is not None:
            arguments = (size, WIDTH, PER_CLASS, repeats, ",".join(calls))
            found = in_fresh_process(_pair_losses_pml.__name__, *arguments, python=python)
            values = found["values"]
            for name, spent in found["times"].items():
                times[name][PEER] += spent
    for name, spent in times.items():
        kind = "" if name in _pair_losses_pml.MINERS else " loss and gradient"
        print_ratios(f"F. {name}{kind}, B = {size}, d = {WIDTH}, {PER_CLASS} per class", spent, OURS)
        if name in values:
            print(f"  values: ours {float(calls[name](*data)[0]):.6g}, {PEER} {values[name]:.6g}")


def main(sizes: tuple[int, ...] = (256, 1024), rounds: int = 3, repeats: int = 5):
    """Print the ratios, and the values of both."""
    python = peer_python()
    if python is None:
        print(f"{PEER} is not installed: no rows for it (set PML_PYTHON to an interpreter that has it)")
    for size in sizes:
        time_size(size, python, rounds, repeats)


if __name__ == "__main__":
    main()
