"""Solvers, selections, samplers and miners of case `depth`, each as a function of one set of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.speed._coupling_data import costs
from minibatch_jax import coupling, mining, sample_pairs, sampling, selection, weights_of
from minibatch_jax.selection.jest_embeddings import PairEmbeddings

WIDTH, CLASSES, PER_CLASS, LARGER, CHUNKS = 64, 10, 8, 16, 4


class Data(NamedTuple):
    """A batch of B items, the same for each size in every process. The data set of samplers has 16 B rows."""

    cost: jax.Array  # [B, B] squared distances of two Gaussian clouds in 64 dimensions
    masses: jax.Array  # [B], they sum to 1
    features: jax.Array  # [B, 64]
    others: jax.Array  # [B, 64]
    logits: jax.Array  # [B, 10]
    members: jax.Array  # [B, 4, 10] logits of a committee
    classes: jax.Array  # [B] labels of 10 classes
    labels: jax.Array  # [B] labels of B / 8 classes
    concepts: jax.Array  # [B, 4] concepts of 64
    hashes: jax.Array  # [B, 128]
    rows: jax.Array  # [16 B] labels of B / 8 classes
    seed: jax.Array  # []

    @property
    def size(self) -> int:
        return self.cost.shape[0]

    @property
    def k(self) -> int:
        return self.size // 8

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.seed)

    @property
    def ones(self) -> jax.Array:
        return jnp.ones_like(self.cost)


def data(size: int) -> Data:
    """Return the batch of this size."""
    rng = np.random.default_rng(size)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def integers(top, *shape):
        return jnp.asarray(rng.integers(0, top, shape), jnp.int32)

    masses = rng.uniform(0.2, 1.2, size)
    return Data(
        cost=jnp.asarray(costs(1, size, WIDTH, 0)[0]),
        masses=jnp.asarray(masses / masses.sum(), jnp.float32),
        features=normal(size, WIDTH),
        others=normal(size, WIDTH),
        logits=normal(size, CLASSES),
        members=normal(size, 4, CLASSES),
        classes=integers(CLASSES, size),
        labels=jnp.asarray(rng.permutation(np.arange(size) // PER_CLASS), jnp.int32),
        concepts=integers(64, size, 4),
        hashes=integers(1 << 30, size, 128).astype(jnp.uint32),
        rows=jnp.asarray(rng.permutation(np.arange(LARGER * size) % (size // PER_CLASS)), jnp.int32),
        seed=jnp.int32(0),
    )


def batches_of_batches(d: Data, inner: optax.GradientTransformation) -> Any:
    """Return the plan of 8 x 8 pairs of small batches."""
    small = jnp.swapaxes(d.cost.reshape(8, d.k, 8, d.k), 1, 2)
    return coupling.hierarchical_plan(small, inner, coupling.couple_assignment())


EXACT: dict[str, Callable[[Data], Any]] = {
    "assignment": lambda d: coupling.assignment(d.cost),
    "partial_plan, 0.7 of the mass": lambda d: coupling.partial_plan(d.cost, 0.7),
    "partial_assignments": lambda d: coupling.partial_assignments(d.cost),
    "transport, unequal masses": lambda d: coupling.transport(d.cost, d.masses),
    "hierarchical_plan, 8 x 8 assignments": lambda d: batches_of_batches(d, coupling.couple_assignment()),
    "pairs_1d": lambda d: coupling.pairs_1d(d.features[:, 0], d.others[:, 0]),
    "sliced_plan": lambda d: coupling.sliced_plan(d.key, d.features, d.others),
    "sliced_permutations": lambda d: coupling.sliced_permutations(d.key, d.features, d.others),
    "immiscible_noise": lambda d: coupling.immiscible_noise(d.key, d.features),
}

BLUR: dict[str, Any] = {"epsilon": 0.05, "relative_to": "mean"}
ENTROPIC: dict[str, Callable[[Data], Any]] = {
    "sinkhorn": lambda d: coupling.sinkhorn(d.cost, **BLUR),
    "sinkhorn, epsilon 0.005": lambda d: coupling.sinkhorn(d.cost, epsilon=0.005, relative_to="mean"),
    "unbalanced_sinkhorn": lambda d: coupling.unbalanced_sinkhorn(d.cost, rho=10.0, **BLUR),
    "partial_sinkhorn, 0.7 of the mass": lambda d: coupling.partial_sinkhorn(d.cost, 0.7, **BLUR),
    "sharded_sinkhorn, 100 iterations": lambda d: coupling.sharded_sinkhorn(
        d.features, d.others, epsilon=6.0, max_iterations=100, block_size=d.size
    ),
    "sinkhorn_divergence": lambda d: coupling.sinkhorn_divergence(d.features, d.others, epsilon=6.0),
    "hierarchical_plan, 8 x 8 Sinkhorn": lambda d: batches_of_batches(
        d, coupling.couple_sinkhorn(0.05, relative_to="mean")
    ),
    "schroedinger_bridge_pairs": lambda d: coupling.schroedinger_bridge_pairs(d.key, d.features, d.others, 2.0),
    "condition_weight": lambda d: coupling.condition_weight(d.cost, d.cost.T, fraction=0.3),
    "gibbs_weights": lambda d: coupling.gibbs_weights(d.cost, d.ones / d.ones.size, **BLUR),
    "semidiscrete_plan": lambda d: coupling.semidiscrete_plan(d.cost, d.masses, d.masses, epsilon=1.0),
}

GREEDY: dict[str, Callable[[Data], Any]] = {
    "facility_location": lambda d: selection.facility_location(similarities(d), d.k),
    "facility_location, stochastic": lambda d: selection.facility_location(
        similarities(d), d.k, method="stochastic", key=d.key
    ),
    "facility_location_from_features": lambda d: selection.facility_location_from_features(d.features, d.k),
    "partitioned_medoids, 4 parts": lambda d: selection.partitioned_medoids(d.features, d.k, 4),
    "refine": lambda d: selection.refine(similarities(d), jnp.arange(d.k)),
    "keep_class_medoids": lambda d: weights_of(
        selection.keep_class_medoids(d.k, CLASSES), d.masses, features=d.features, labels=d.classes
    ),
    "keep_by_colm": lambda d: weights_of(
        selection.keep_by_colm(d.k, CLASSES), d.masses, features=d.features, domains=d.classes
    ),
    "gradient_match": lambda d: selection.gradient_match(d.features, d.k),
    "k_center": lambda d: selection.k_center(d.features, d.k),
    "k_means_indices": lambda d: selection.k_means_indices(d.key, d.features, d.k),
    "typi_clust_indices": lambda d: selection.typi_clust_indices(d.key, d.features, d.k, d.k),
    "prob_cover_indices": lambda d: selection.prob_cover_indices(d.key, d.features, d.k, 0.8),
    "badge_indices": lambda d: selection.badge_indices(d.key, d.logits, d.features, d.k),
    "batch_bald_indices": lambda d: selection.batch_bald_indices(d.key, d.members, d.k),
    "dpp_map_indices": lambda d: selection.dpp_map_indices(kernel(d), d.k),
    "kdpp_indices": lambda d: selection.kdpp_indices(d.key, kernel(d), d.k),
    "jest_indices": lambda d: selection.jest_indices(d.key, d.cost, 2 * d.k, CHUNKS),
    "softmax_jest_indices": lambda d: selection.softmax_jest_indices(d.key, d.cost, d.cost.T, 2 * d.k, CHUNKS),
    "jest_indices_from_embeddings": lambda d: selection.jest_indices_from_embeddings(
        d.key, PairEmbeddings(d.features, d.others), PairEmbeddings(d.others, d.features), 2 * d.k, CHUNKS
    ),
    "concept_balanced_indices": lambda d: selection.concept_balanced_indices(d.concepts, d.k, 64),
    "nearest_in_turn": lambda d: selection.nearest_in_turn(d.features, d.others[:8].reshape(4, 2, WIDTH), d.k),
    "sift_indices": lambda d: selection.sift_indices(d.features, d.others[:8], d.k),
    "representative_tasks": lambda d: selection.representative_tasks(d.features.T, 8),
    "discriminative_indices": lambda d: selection.discriminative_indices(d.key, d.features, d.k, d.classes == 0),
    "near_duplicates": lambda d: selection.near_duplicates(d.hashes),
    "near_duplicates_by_cosine": lambda d: selection.near_duplicates_by_cosine(d.features, 0.3),
    "topk_mask": lambda d: selection.topk_mask(d.masses, d.k),
}


def similarities(d: Data) -> jax.Array:
    """Return similarities of at least 0, `[B, B]`."""
    return selection.coresets.similarity_matrix(d.features)


def kernel(d: Data) -> jax.Array:
    """Return similarities that are a kernel, `[B, B]`."""
    return d.features @ d.features.T / WIDTH + 0.1 * jnp.eye(d.size)


def draw(sampler: sampling.Sampler, d: Data, **arrays: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the function that draws a batch, and the state that it takes."""
    return lambda state: sampler.sample(state), (sampler.init(0, **arrays),)


def hierarchy(d: Data) -> tuple[Any, tuple[Any, ...]]:
    """Return a sampler of classes in 4 groups."""
    classes = d.size // PER_CLASS
    counts = {"groups_per_batch": 2, "classes_per_group": classes // 8, "per_class": 2 * PER_CLASS}
    return draw(sampling.by_hierarchy(classes, 4, **counts), d, labels=d.rows, groups=d.rows % 4)


def crest(d: Data) -> tuple[Any, tuple[Any, ...]]:
    """Return CREST's sampler of class medoids."""

    def items(params, batch):
        return jnp.sum(jnp.square(batch * params), axis=1), {"features": batch * params}

    sampler = sampling.crest(items, batch_size=d.size, num_classes=8, subset_size=4 * d.size)
    return draw(sampler, d, labels=d.rows % 8, params=jnp.ones(WIDTH))


SAMPLERS: dict[str, Callable[[Data], tuple[Any, tuple[Any, ...]]]] = {
    "shuffled": lambda d: draw(sampling.shuffled(d.rows.size, d.size), d),
    "epoch_rows": lambda d: (lambda seed: sampling.epoch_rows(jax.random.key(seed), d.rows.size, d.size), (d.seed,)),
    "weighted": lambda d: draw(sampling.weighted(d.size), d, weights=1.0 + d.rows),
    "by_class": lambda d: draw(sampling.by_class(d.size // 8, d.size // 16, 16), d, labels=d.rows),
    "by_hierarchy": hierarchy,
    "by_proxies": lambda d: draw(sampling.by_proxies(d.size // 8, d.size // 16, 16, WIDTH), d, labels=d.rows),
    "labelled_quota": lambda d: draw(sampling.labelled_quota(d.size, d.k), d, labeled=d.rows < 8),
    "mixture": lambda d: draw(
        sampling.mixture(CLASSES, d.size, jnp.ones(CLASSES) / CLASSES), d, domains=d.rows % CLASSES
    ),
    "hard_batches": lambda d: draw(sampling.hard_batches(d.rows.size, d.size, shuffle=True), d),
    "fixed_triplets": lambda d: draw(sampling.fixed_triplets(4 * d.size, d.size), d, labels=d.rows),
    "crest": crest,
    "mining.sample_classes": lambda d: (
        lambda d: mining.sample_classes(d.key, mining.index_classes(d.rows, d.size // 8), d.size // 16, 16),
        (d,),
    ),
    "sample_pairs": lambda d: (lambda d: sample_pairs(d.key, d.cost / jnp.sum(d.cost), d.size), (d,)),
}


def mine(make: Callable[[], optax.GradientTransformation]) -> Callable[[Data], Any]:
    """Return the function that mines pairs of a batch with 8 items of each class."""

    def mined(d):
        embeddings = mining.normalize_embeddings(d.features)
        signals = {"distances": mining.euclidean_distances(embeddings), "labels": d.labels}
        return weights_of(make(), d.ones, **signals)

    return mined


MINERS: dict[str, Callable[[Data], Any]] = {
    "mine_all": mine(mining.mine_all),
    "mine_hard": mine(mining.mine_hard),
    "mine_semihard": mine(mining.mine_semihard),
    "mine_easy": mine(mining.mine_easy),
    "mine_easy_hard": mine(mining.mine_easy_hard),
    "mine_violating": mine(mining.mine_violating),
    "mine_random": mine(lambda: mining.mine_random(0)),
    "mine_angular": mine(mining.mine_angular),
    "mine_distance_weighted": mine(lambda: mining.mine_distance_weighted(WIDTH, 0)),
    "mine_multi_similarity": mine(mining.mine_multi_similarity),
    "mine_pair_margin": mine(mining.mine_pair_margin),
    "mine_ranges": mine(mining.mine_ranges),
    "mine_hardest_pairs": mine(mining.mine_hardest_pairs),
    "mine_ranks": mine(lambda: mining.mine_ranks((0, 4), (0, 4))),
    "mine_uniform_distances": mine(mining.mine_uniform_distances),
}

KINDS: dict[str, dict[str, Callable[[Data], Any]]] = {
    "Exact solvers": EXACT,
    "Entropic solvers": ENTROPIC,
    "Greedy selections": GREEDY,
    "Samplers": SAMPLERS,
    "Miners": MINERS,
}


def case(name: str, size: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the function of a case and its arguments."""
    arrays = data(size)
    if name in SAMPLERS:
        return SAMPLERS[name](arrays)
    return next(functions[name] for functions in KINDS.values() if name in functions), (arrays,)
