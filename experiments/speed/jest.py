"""Case E: JEST from embeddings, 4096 -> 1024 in 16 chunks, against numpy.

Targets: at most 0.05 of numpy written as the paper's pseudo-code, at most 0.2 of numpy with incremental rows. The peers
run in a process of their own, in turns with ours.
"""

from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp

from experiments.speed import _jest_numpy
from experiments.speed._timing import in_fresh_process, milliseconds, print_ratios
from minibatch_jax.selection import jest_indices, jest_indices_from_embeddings
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses

OURS = "jest_indices_from_embeddings"


def learnability_per_item(scores: jax.Array, chosen: jax.Array) -> float:
    """Joint learnability of the chosen batch, per item."""
    return float(jnp.sum(scores[chosen][:, chosen]) / chosen.shape[0])


def main(batch: int = 4096, kept: int = 1024, chunks: int = 16, width: int = 64, rounds: int = 3, repeats: int = 5):
    """Print the ratios, and check that rows on the fly and whole scores choose the same items."""
    learner, reference = (
        PairEmbeddings(jnp.asarray(first), jnp.asarray(second), float(_jest_numpy.SCALE), float(_jest_numpy.BIAS))
        for first, second in _jest_numpy.models(batch, width, seed=0)
    )
    key = jax.random.key(0)

    def dense(key, learner, reference):
        return jest_indices(key, sigmoid_pair_losses(learner) - sigmoid_pair_losses(reference), kept, chunks)

    lazy = jax.jit(partial(jest_indices_from_embeddings, k=kept, num_chunks=chunks))
    calls = {OURS: lazy, "jest_indices of all pair losses": jax.jit(dense)}
    times = defaultdict(list)
    for seed in range(rounds):
        for name, call in calls.items():
            times[name] += milliseconds(
                lambda c=call: c(key, learner, reference).block_until_ready(), repeats, warmup=2
            )
        peers = in_fresh_process(_jest_numpy.__name__, batch, kept, chunks, width, seed, repeats)
        for name, values in peers.items():
            times[name] += values
    print_ratios(f"E. JEST, {batch} -> {kept}, {chunks} chunks, d = {width}, sigmoid", times, OURS)
    chosen = [set(call(key, learner, reference).tolist()) for call in calls.values()]
    scores = sigmoid_pair_losses(learner) - sigmoid_pair_losses(reference)
    drawn = lazy(key, learner, reference)
    print(f"  items chosen by both of ours: {len(set.intersection(*chosen))} of {kept}")
    print(f"  joint learnability per item: chosen {learnability_per_item(scores, drawn):.2f}, ", end="")
    print(f"the first {kept} {learnability_per_item(scores, jnp.arange(kept)):.2f}")


if __name__ == "__main__":
    main()
