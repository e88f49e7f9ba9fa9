"""Rows of the device run: cases D, E and F, greedy selection, JEST and triplets beside other forms of the same."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import _facility_location_peers as peers
from experiments.speed import _jest_numpy, _triplets_pml
from experiments.speed._device_rows import Row, Values, beside, jitted, timed, torch_place
from experiments.speed.triplets import DENSE, MARGIN, PER_CLASS, WIDTH, dense_loss, distances_and_masks, loss
from minibatch_jax import selection
from minibatch_jax.mining import triplet_choice
from minibatch_jax.selection.coresets import similarity_matrix
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses

OURS = "minibatch_jax"


def greedy(small: bool) -> Iterator[Row]:
    """Case D: a tenth of the items, d = 64."""
    for count in (64,) if small else (1000, 4000):
        yield Row(f"facility_location, {count} -> {count // 10}", partial(_facility_location, count))
        yield Row(f"k_center, {count} -> {count // 10}", partial(_k_center, count))
    if not small:
        yield Row("facility_location_from_features, stochastic, 16000 -> 1600", _stochastic)


def _facility_location(count: int) -> Values:
    features = peers.items(count, 64, 0)
    matrix, kept = np.array(jax.jit(similarity_matrix)(features)), count // 10
    key = jax.random.key(0)

    def choose(method: str, s: jax.Array) -> jax.Array:
        random: dict[str, Any] = {"key": key} if method == "stochastic" else {}
        return selection.facility_location(s, kept, method=method, **random).indices

    calls = {
        "minibatch_jax, lazy": jitted(partial(choose, "lazy"), matrix),
        "ours, naive: all gains in each step": jitted(partial(choose, "naive"), matrix),
        "ours, stochastic": jitted(partial(choose, "stochastic"), matrix),
        "numpy, lazy with a heap, host": lambda: peers.numpy_lazy(matrix, kept),
    }
    if count > 1000:
        del calls["ours, naive: all gains in each step"]
    return timed(calls, seconds=0.6)


def _k_center(count: int) -> Values:
    features = peers.items(count, 64, 0)
    return timed(
        {
            OURS: jitted(lambda x: selection.k_center(x, count // 10).indices, features),
            "numpy, farthest first, host": lambda: peers.numpy_farthest_first(features, count // 10),
        }
    )


def _stochastic() -> Values:
    choose = partial(selection.facility_location_from_features, k=1600, method="stochastic", key=jax.random.key(0))
    return timed({OURS: jitted(lambda x: choose(x).indices, peers.items(16000, 64, 0))})


def jest(small: bool) -> Iterator[Row]:
    """Case E."""
    sizes = (64, 16, 4) if small else (4096, 1024, 16)
    yield Row("JEST, {} -> {} in {} chunks, d = 64".format(*sizes), partial(_jest, *sizes))


def _jest(batch: int, kept: int, chunks: int) -> Values:
    models = _jest_numpy.models(batch, 64, seed=0)
    scale, bias = float(_jest_numpy.SCALE), float(_jest_numpy.BIAS)
    learner, reference = (
        PairEmbeddings(jnp.asarray(first), jnp.asarray(second), scale, bias) for first, second in models
    )

    def dense(learner, reference):
        scores = sigmoid_pair_losses(learner) - sigmoid_pair_losses(reference)
        return selection.jest_indices(jax.random.key(0), scores, kept, chunks)

    def by_rows(learner, reference):
        key = jax.random.key(0)
        return selection.jest_indices_from_embeddings(key, learner, reference, k=kept, num_chunks=chunks)

    rng = np.random.default_rng(0)
    return timed(
        {
            OURS: jitted(by_rows, learner, reference),
            "ours, all pair losses first": jitted(dense, learner, reference),
            "numpy, incremental rows, host": lambda: _jest_numpy.jest_by_rows(*models, kept, chunks, rng),
        }
    )


def triplets(small: bool) -> Iterator[Row]:
    """Case F."""
    for size in (32,) if small else (256, 1024, 4096):
        yield Row(f"mine hard triplets, B = {size}, d = {WIDTH}", partial(_mine, size))
        for mined in _triplets_pml.MINED:
            yield Row(f"{mined} triplet loss and gradient, B = {size}, d = {WIDTH}", partial(_triplets, size, mined))


def _mine(size: int) -> Values:
    data = _triplets_pml.batch(size, WIDTH, PER_CLASS)
    return timed({OURS: jitted(lambda x, y: triplet_choice(*distances_and_masks(x, y)), *data)})


def _triplets(size: int, mined: str) -> Values:
    data = _triplets_pml.batch(size, WIDTH, PER_CLASS)
    calls = {OURS: jitted(loss(mined), *data)}
    if size <= 256 and mined != "hard":
        calls[DENSE] = jitted(dense_loss(mined), *data)
    if size > 1024:  # the peer lists all triplets
        return timed(calls)
    peer = f"pytorch-metric-learning, {torch_place()}"
    return beside(calls, {peer: (partial(_pml, mined, *data), "torch", "pytorch_metric_learning")})


def _pml(mined: str, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The peer's loss and gradient; the call waits for them."""
    import torch
    from pytorch_metric_learning import losses, miners

    place = torch_place()
    embeddings, labels = torch.as_tensor(x, device=place).requires_grad_(), torch.as_tensor(y, device=place)
    criterion = losses.TripletMarginLoss(MARGIN)
    miner = miners.BatchHardMiner()
    if mined != "hard":
        miner = miners.TripletMarginMiner(MARGIN, type_of_triplets=mined)

    def call() -> float:
        value = criterion(embeddings, labels, miner(embeddings, labels))
        return float(torch.autograd.grad(value, embeddings)[0].sum())

    return call
