"""Functions of the library on batches of any size, by shapes alone, for the cases that compile them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax import coupling, metrics, mining, sample_pairs, selection

WIDTH = 64
Array = jax.ShapeDtypeStruct


class Program(NamedTuple):
    """A function of arrays, and their shapes."""

    function: Callable[..., Any]
    shapes: tuple[Any, ...]


def shape(*dims: int, dtype: str = "float32") -> Array:
    return Array(dims, jnp.dtype(dtype))


def couplings(size: int, kept: int) -> dict[str, Program]:
    """Solvers and plans of a cost `[size, size]`, or of points."""
    cost, mass, points = shape(size, size), shape(size), shape(size, WIDTH)
    entropic = {"epsilon": 0.05, "relative_to": "mean"}

    def of_masses(function, **options):
        return Program(lambda c, a, b: function(c, a, b, **options), (cost, mass, mass))

    def of_points(function, *arguments, **options):
        return Program(lambda x, y: function(0, x, y, *arguments, **options), (points, points))

    return {
        "assignment": Program(coupling.assignment, (cost,)),
        "differentiable_plan, gradient": Program(
            jax.grad(lambda c, plan: jnp.sum(c * coupling.differentiable_plan(c, plan, 0.05))), (cost, cost)
        ),
        "flow_matching_pairs": Program(
            lambda x, y, plan: coupling.flow_matching_pairs(0, x, y, plan), (points, points, cost)
        ),
        "immiscible_noise": Program(lambda x: coupling.immiscible_noise(0, x), (points,)),
        "nearest_noise": Program(lambda x: coupling.nearest_noise(0, x, 16), (points,)),
        "pairs_1d": Program(coupling.pairs_1d, (mass, mass, mass)),
        "partial_assignments": Program(coupling.partial_assignments, (cost,)),
        "partial_plan": Program(lambda c: coupling.partial_plan(c, kept / size), (cost,)),
        "partial_sinkhorn": of_masses(lambda c, a, b, **o: coupling.partial_sinkhorn(c, 0.5, a, b, **o), **entropic),
        "sample_pairs, joint": Program(lambda plan: sample_pairs(0, plan), (cost,)),
        "sample_pairs, rows": Program(lambda plan: sample_pairs(0, plan, mode="rows"), (cost,)),
        "schroedinger_bridge_pairs": of_points(coupling.schroedinger_bridge_pairs, 1.0),
        "semidiscrete_plan": Program(
            lambda c, v, b: coupling.semidiscrete_plan(c, v, b, epsilon=0.05), (cost, mass, mass)
        ),
        "sharded_sinkhorn": Program(
            lambda x, y: coupling.sharded_sinkhorn(x, y, epsilon=0.05, block_size=128, max_iterations=100),
            (points, points),
        ),
        "sinkhorn": of_masses(coupling.sinkhorn, **entropic),
        "sinkhorn_divergence, gradient": Program(
            jax.grad(lambda x, y: coupling.sinkhorn_divergence(x, y, epsilon=0.05)), (points, points)
        ),
        "sliced_plan": of_points(coupling.sliced_plan, 16),
        "transport": of_masses(coupling.transport),
        "unbalanced_sinkhorn": of_masses(coupling.unbalanced_sinkhorn, rho=1.0, **entropic),
        "wasserstein_1d": Program(coupling.wasserstein_1d, (mass, mass, mass)),
    }


def selections(size: int, kept: int) -> dict[str, Program]:
    """Choices of `kept` of `size` items, and of as many classes as are kept."""
    points, square, values = shape(size, WIDTH), shape(size, size), shape(size)
    labels, logits = shape(size, dtype="int32"), shape(size, kept)
    few = min(kept, 64)

    def chosen(function, *arguments, **options):
        """A choice of rows of a matrix."""
        return lambda x: function(x, kept, *arguments, **options)

    def drawn(function, *arguments, **options):
        return lambda x: function(0, x, kept, *arguments, **options)

    return {
        "anchor_items": Program(drawn(selection.anchor_items), (points,)),
        "attention_scores": Program(
            lambda x, y: selection.attention_scores(0, x, y, selection.hash_graph(0, x, 8), few), (points, labels)
        ),
        "badge_indices": Program(lambda z, x: selection.badge_indices(0, z, x, kept), (logits, points)),
        "batch_bald_indices": Program(drawn(selection.batch_bald_indices), (shape(size, 10, 10),)),
        "concept_balanced_indices": Program(
            lambda x: selection.concept_balanced_indices(x, kept, 1000), (shape(size, 8, dtype="int32"),)
        ),
        "cvirs_scores": Program(selection.cvirs_scores, (shape(size, 16), shape(kept, 16, dtype="bool"))),
        "discriminative_indices": Program(
            lambda x, known: selection.discriminative_indices(0, x, kept, known), (points, shape(size, dtype="bool"))
        ),
        "distance_graph": Program(lambda x, y: selection.distance_graph(0, x, y, 8), (points, labels)),
        "dpp_map_indices": Program(chosen(selection.dpp_map_indices), (square,)),
        "facility_location": Program(chosen(selection.facility_location), (square,)),
        "facility_location, stochastic": Program(chosen(selection.facility_location_from_features), (points,)),
        "fit_item_response": Program(lambda x: selection.fit_item_response(0, x), (shape(few, size),)),
        "gradient_match": Program(chosen(selection.gradient_match), (points,)),
        "jest_indices": Program(drawn(selection.jest_indices, 16), (square,)),
        "jest_indices_from_embeddings": Program(
            lambda x, y: selection.jest_indices_from_embeddings(
                0,
                selection.jest_embeddings.PairEmbeddings(x, y),
                selection.jest_embeddings.PairEmbeddings(y, x),
                kept,
                16,
            ),
            (points, points),
        ),
        "k_center": Program(chosen(selection.k_center), (points,)),
        "k_means_indices": Program(drawn(selection.k_means_indices), (points,)),
        "kdpp_inclusion": Program(chosen(selection.kdpp_inclusion), (square,)),
        "kdpp_indices": Program(lambda x: selection.kdpp_indices(jax.random.key(0), x, kept), (square,)),
        "list_regressions": Program(
            lambda x, y: selection.list_regressions(0, x, y, 0.5), (shape(size, 16, 8), shape(size, 16))
        ),
        "multifilter_regressions": Program(
            lambda x, y: selection.multifilter_regressions(x, y, 0.5), (shape(size, 16, 8), shape(size, 16))
        ),
        "near_duplicates": Program(selection.near_duplicates, (shape(size, 64, dtype="uint32"),)),
        "near_duplicates_by_cosine": Program(lambda x: selection.near_duplicates_by_cosine(x, 0.9), (points,)),
        "nearest_in_turn": Program(
            lambda x, q: selection.nearest_in_turn(x, q, kept), (points, shape(4, size // 4, WIDTH))
        ),
        "partitioned_medoids": Program(lambda x: selection.partitioned_medoids(x, kept, 2), (points,)),
        "power_inclusion": Program(lambda x: selection.power_inclusion(x, 0.3, 1.0), (values,)),
        "prob_cover_indices": Program(drawn(selection.prob_cover_indices, 0.5), (points,)),
        "largest_pure_radius": Program(selection.largest_pure_radius, (points, labels)),
        "refine": Program(selection.refine, (square, shape(kept, dtype="int32"))),
        "representative_tasks": Program(chosen(selection.representative_tasks), (square,)),
        "sift_indices": Program(lambda x, q: selection.sift_indices(x, q, few), (points, shape(16, WIDTH))),
        "softmax_jest_indices": Program(
            lambda x, y: selection.softmax_jest_indices(0, x, y, kept, 16), (square, square)
        ),
        "top_with_all_classes": Program(lambda s, y: selection.top_with_all_classes(s, y, kept, few), (values, labels)),
        "transport_scores": Program(selection.transport_scores, (square,)),
        "transport_scores_in_blocks": Program(selection.transport_scores_in_blocks, (points, points)),
        "typi_clust_indices": Program(drawn(selection.typi_clust_indices, kept), (points,)),
        "cluster_report": Program(lambda x, y, s: selection.cluster_report(x, y, s, kept), (points, labels, values)),
        "init_clusters": Program(lambda x: selection.init_clusters(x, kept, 0), (points,)),
    }


LOSSES = (
    mining.angular_loss,
    mining.binomial_deviance_loss,
    mining.circle_loss,
    mining.contrastive_loss,
    mining.fast_ap_loss,
    mining.generalized_lifted_structure_loss,
    mining.hard_negative_loss,
    mining.histogram_loss,
    mining.info_nce_loss,
    mining.intra_pair_variance_loss,
    mining.lifted_structure_loss,
    mining.margin_loss,
    mining.multi_similarity_loss,
    mining.ntxent_loss,
    mining.orthogonal_pair_loss,
    mining.orthogonal_projection_loss,
    mining.pnp_loss,
    mining.proxy_anchor_loss,
    mining.ranked_list_loss,
    mining.similarity_regression_loss,
    mining.smooth_ap_loss,
    mining.supcon_loss,
    mining.threshold_consistent_loss,
    mining.tuplet_margin_loss,
)
TRIPLETS = ("all", "semihard", "nearest_semihard", "hard", "easy_positive")


def losses(size: int) -> dict[str, Program]:
    """Losses of pairs `[size, size]` by value alone, and with their gradient."""
    square, mask = shape(size, size), shape(size, size, dtype="bool")
    histogram = shape(11)
    of_pairs = {
        **{loss.__name__: loss for loss in LOSSES},
        **{f"triplet_loss, {kind}": functools.partial(mining.triplet_loss, mining=kind) for kind in TRIPLETS},
    }
    programs = {}
    for name, loss in of_pairs.items():
        programs[name] = Program(loss, (square, mask, mask))
        programs[f"{name}, gradient"] = Program(jax.value_and_grad(loss), (square, mask, mask))
    for kind in ("all", "hard"):

        def dynamic(d, p, n, seen, kind=kind):
            return mining.dynamic_margin_loss(mining.losses.dynamic_margins.DynamicMargin(seen), d, p, n, mining=kind)

        programs[f"dynamic_margin_loss, {kind}"] = Program(dynamic, (square, mask, mask, histogram))
        gradient = jax.value_and_grad(dynamic, has_aux=True)
        programs[f"dynamic_margin_loss, {kind}, gradient"] = Program(gradient, (square, mask, mask, histogram))
    return programs


def pairs(size: int, kept: int) -> dict[str, Program]:
    """What else reads pairs or embeddings of a batch: draws of batches, blocks, retrieval, proxies."""
    square, mask = shape(size, size), shape(size, size, dtype="bool")
    points, labels = shape(size, WIDTH), shape(size, dtype="int32")
    of_classes, own = shape(size, kept), shape(size, kept, dtype="bool")

    def in_blocks(x, y):
        return jnp.sum(mining.blockwise_losses(of_block, x, y, block_size=128))

    def of_block(s, p, n):
        return mining.supcon_loss(s, p, n, reduction="anchors")

    return {
        "blockwise_losses, gradient": Program(jax.grad(in_blocks), (points, labels)),
        "mined_triplet_loss, gradient": Program(jax.grad(mining.mined_triplet_loss), (points, labels)),
        "manifold_loss, gradient": Program(
            jax.grad(mining.manifold_loss),
            (square, shape(size // 2, size // 2, dtype="bool"), shape(size // 2, size // 2, dtype="bool")),
        ),
        "margin_softmax_loss, gradient": Program(jax.grad(mining.margin_softmax_loss), (of_classes, own, own)),
        "random_walk_similarity": Program(mining.random_walk_similarity, (square,)),
        "sample_classes": Program(
            lambda y: mining.sample_classes(jax.random.key(0), mining.index_classes(y, kept), kept // 8, 8), (labels,)
        ),
        "sample_negative_counts": Program(
            lambda z, m: mining.sample_negative_counts(jax.random.key(0), z, m, 7), (square, labels)
        ),
        "triplet_choice": Program(mining.triplet_choice, (square, mask, mask)),
        "uniform_distance_weights": Program(mining.uniform_distance_weights, (square, mask)),
        **{
            f"{compare.__name__}, gradient": Program(jax.grad(lambda x, f=compare: jnp.sum(f(x))), (points,))
            for compare in (
                mining.cosine_similarity,
                mining.euclidean_distances,
                mining.noise_ratio_distances,
                mining.squared_euclidean_distances,
            )
        },
        "recall_at_k": Program(metrics.recall_at_k, (points, labels)),
        "retrieval_scores": Program(metrics.retrieval_scores, (points, labels)),
        "rank_correlations": Program(metrics.rank_correlations, (shape(size), shape(size))),
        "product_code": Program(lambda x: metrics.product_code(0, x, num_parts=8), (points,)),
        "edit_distances": Program(
            metrics.edit_distances, (shape(size, 32, dtype="int32"), labels, shape(size, 32, dtype="int32"), labels)
        ),
    }


def functions(size: int, kept: int) -> dict[str, Program]:
    """All of them, by name."""
    return {**couplings(size, kept), **selections(size, kept), **losses(size), **pairs(size, kept)}
