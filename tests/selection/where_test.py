"""A `where` of 0 and 1 is refused: `mask & where` would take its lowest bit."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from minibatch_jax import selection

KEY, ONES, EYE = jax.random.key(0), jnp.ones(4), jnp.eye(4)
LABELS = jnp.arange(4) % 2
PAIRS = selection.jest_embeddings.PairEmbeddings(EYE, EYE)
CLUSTERS = selection.init_clusters(EYE, 2, KEY)
CALLS = {
    "anchor_scores": lambda **where: selection.anchor_scores(EYE, EYE[:2], num_neighbors=2, **where),
    "attention_scores": lambda **where: selection.attention_scores(
        KEY, EYE, LABELS, selection.hash_graph(KEY, EYE, 2), 2, num_steps=1, num_heads=1, head_width=1, **where
    ),
    "distance_graph": lambda **where: selection.distance_graph(KEY, EYE, LABELS, 2, **where),
    "hash_graph": lambda **where: selection.hash_graph(KEY, EYE, 2, **where),
    "influence_lengths": lambda **where: selection.influence_lengths(EYE, EYE, **where),
    "multilevel_hash_graph": lambda **where: selection.multilevel_hash_graph(KEY, EYE, 2, **where),
    "multiview_hash_graph": lambda **where: selection.multiview_hash_graph(KEY, EYE, 2, **where),
    "near_labeled_mask": lambda **where: selection.near_labeled_mask(EYE, EYE[:2], num_neighbors=2, **where),
    "nearest_in_turn": lambda **where: selection.nearest_in_turn(EYE, EYE[None], 2, **where),
    "standardized": lambda **where: selection.instance_graphs.standardized(EYE, **where),
    "top_of_classes": lambda **where: selection.top_of_classes(ONES, LABELS, jnp.array([1, 1]), **where),
    "top_with_all_classes": lambda **where: selection.top_with_all_classes(ONES, LABELS, 2, 2, **where),
    "assign_rows": lambda **where: selection.assign_rows(EYE, EYE[:2], **where),
    "badge_indices": lambda **where: selection.badge_indices(KEY, EYE, EYE, 2, **where),
    "batch_bald_indices": lambda **where: selection.batch_bald_indices(KEY, jnp.ones((4, 2, 2)), 2, **where),
    "calibrated_gradient": lambda **where: selection.calibrated_gradient(ONES, **where),
    "cluster_quotas": lambda **where: selection.cluster_quotas(jnp.arange(4), 3, **where),
    "combined_ranks": lambda **where: selection.combined_ranks(EYE, **where),
    "concept_balanced_indices": lambda **where: selection.concept_balanced_indices(
        jnp.zeros((4, 1), int), 2, 3, **where
    ),
    "cvirs_scores": lambda **where: selection.cvirs_scores(EYE, EYE > 0, **where),
    "discriminative_indices": lambda **where: selection.discriminative_indices(
        KEY, EYE, 2, jnp.arange(4) == 0, num_rounds=1, num_steps=2, **where
    ),
    "uncertainty_ranks": lambda **where: selection.uncertainty_ranks(EYE, **where),
    "dpp_map_indices": lambda **where: selection.dpp_map_indices(EYE, 2, **where),
    "facility_location": lambda **where: selection.facility_location(EYE, 2, **where),
    "facility_location_from_features": lambda **where: selection.facility_location_from_features(EYE, 2, **where),
    "gradient_match": lambda **where: selection.gradient_match(EYE, 2, **where),
    "init_clusters": lambda **where: selection.init_clusters(EYE, 2, KEY, **where),
    "jest_indices": lambda **where: selection.jest_indices(KEY, EYE, 2, 1, **where),
    "jest_indices_from_embeddings": lambda **where: selection.jest_indices_from_embeddings(
        KEY, PAIRS, PAIRS, 2, 1, **where
    ),
    "k_center": lambda **where: selection.k_center(EYE, 2, **where),
    "k_means_clusters": lambda **where: selection.k_means_clusters(KEY, EYE, 2, **where),
    "k_means_indices": lambda **where: selection.k_means_indices(KEY, EYE, 2, **where),
    "kdpp_inclusion": lambda **where: selection.kdpp_inclusion(EYE, 2, **where),
    "kdpp_indices": lambda **where: selection.kdpp_indices(KEY, EYE, 2, **where),
    "near_duplicates": lambda **where: selection.near_duplicates(jnp.zeros((4, 2), jnp.uint32), **where),
    "near_duplicates_by_cosine": lambda **where: selection.near_duplicates_by_cosine(EYE, **where),
    "partitioned_medoids": lambda **where: selection.partitioned_medoids(EYE, 2, 2, **where),
    "power_inclusion": lambda **where: selection.power_inclusion(ONES, 0.5, 0.5, **where),
    "quota_mask": lambda **where: selection.quota_mask(KEY, jnp.arange(4), jnp.arange(4), **where),
    "prob_cover_indices": lambda **where: selection.prob_cover_indices(KEY, EYE, 2, 0.5, **where),
    "largest_pure_radius": lambda **where: selection.largest_pure_radius(EYE, jnp.arange(4) % 2, **where),
    "typi_clust_indices": lambda **where: selection.typi_clust_indices(KEY, EYE, 2, 2, **where),
    "typical_indices": lambda **where: selection.typical_indices(EYE, jnp.arange(4) % 2, 2, 2, **where),
    "refine": lambda **where: selection.refine(EYE, jnp.arange(2), **where),
    "sift_indices": lambda **where: selection.sift_indices(EYE, ONES[None], 2, **where),
    "similarity_matrix": lambda **where: selection.coresets.similarity_matrix(EYE, **where),
    "softmax_jest_indices": lambda **where: selection.softmax_jest_indices(KEY, EYE, EYE, 2, 1, **where),
    "top_fraction_mask": lambda **where: selection.top_fraction_mask(ONES, 0.5, 0, **where),
    "topk_mask": lambda **where: selection.topk_mask(ONES, 2, **where),
    "update_clusters": lambda **where: selection.update_clusters(CLUSTERS, EYE, **where),
}


def test_every_function_with_where_is_called_here():
    modules = [module for name, module in inspect.getmembers(selection, inspect.ismodule) if not name.startswith("_")]
    functions = [
        (name, f)
        for module in modules
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and "Args:" in (f.__doc__ or "")  # others are helpers of several modules
    ]
    assert {name for name, f in functions if "where" in inspect.signature(f).parameters} == set(CALLS)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_where_is_bool_of_the_right_shape(call):
    jax.jit(lambda where: call(where=where))(jnp.array([True, True, True, False]))
    with pytest.raises(TypeError, match="where has dtype int32, wanted bool"):
        call(where=jnp.array([1, 2, 2, 0]))
    with pytest.raises(ValueError, match="where has shape"):
        call(where=jnp.ones(3, bool))
