"""Every function and selection in half precision computes in float32: sums, counts, ranks and draws."""

import importlib
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import (
    colm,
    concepts,
    coresets,
    crest,
    dpp,
    graph_attention,
    importance_sampling,
    instance_graphs,
    jest_embeddings,
    list_decodable,
    minhash,
    power_sampling,
    selective_backprop,
    spherical_k_means,
    thresholds,
    uncertainty,
)
from tests.half_precision import DTYPES, check_like_float32, check_transformation, grid, public_functions

MANY = 300
LOSSES, MASS = grid(0, MANY), grid(1, MANY, low=0.25)
FEATURES, POINTS = grid(2, 24, 3, low=-2), grid(3, MANY, 3, low=-2)
SQUARE = grid(4, 24, 24)
KERNEL = SQUARE[:8, :8] @ SQUARE[:8, :8].T / 8 + np.eye(8)
LOGITS, LABELS = grid(5, MANY, 4, low=-2), np.arange(MANY) % 4
SAMPLES, TARGETS = grid(6, 8, 16, 2, low=-2), grid(7, 8, 16, low=-2)
GROUPS = jnp.arange(MANY) % 3


def model(c, steps=3):
    found = selection.quadratic_model(c(LOSSES[:8]), c(LOSSES)[8])
    for step in range(steps):
        found = crest.update_quadratic_model(
            found, c(MASS[8 * step : 8 * step + 8]), c(LOSSES[8 * step : 8 * step + 8])
        )
    return found


def two_checks(rule, first, second):
    return rule.update(rule.update(rule.init(len(first)), first)[1], second)


def graph(c):
    return selection.distance_graph(0, c(FEATURES), jnp.asarray(LABELS[:24]), 3)


def averages(found):
    return found.gradient, found.curvature, found.loss


def embeddings(c):
    return jest_embeddings.PairEmbeddings(c(FEATURES), c(FEATURES[::-1]), 2.0, -1.0)


def layer_logits(kernel, x):
    return (x.astype(jnp.float32) @ kernel.astype(jnp.float32)).astype(jnp.float32)


def word_logits(vectors, words):
    return jnp.sum(vectors.astype(jnp.float32) ** 2, axis=0)


UNIT = np.eye(3)
NEGATIVE, TOKEN_COUNTS = -grid(10, MANY, 9), jnp.arange(MANY) % 9 + 1
TAUGHT = np.tile([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], (8, 1))
RIGHT = grid(10, 6, 24, high=1)
ITEMS = selection.ItemResponse(*(jnp.asarray(a, jnp.float32) for a in (FEATURES, RIGHT[0], FEATURES[:6])))

COMMITTEE = grid(9, 24, 5, 3, low=-2)

FUNCTIONS = {
    "adam_features": lambda c: selection.adam_features(c(POINTS), c(POINTS[0]), c(POINTS[1] ** 2), jnp.array(5000)),
    "adaptive_inconsistency": lambda c: selection.adaptive_inconsistency(c(LOGITS), 1.5),
    "anchor_items": lambda c: selection.anchor_items(0, c(FEATURES), 4),
    "anchor_mean": lambda c: selection.anchor_mean(selection.AnchorItems(jnp.arange(4), jnp.ones(4) / 4), c(LOGITS)),
    "anchor_indices": lambda c: selection.anchor_indices(
        0, c(FEATURES), jnp.asarray(LABELS[:24]), num_classes=4, num_anchors=3
    ),
    "anchor_scores": lambda c: selection.anchor_scores(c(POINTS), c(FEATURES[:5]), num_neighbors=20),
    "assign_rows": lambda c: selection.assign_rows(c(FEATURES), c(POINTS[:5])),
    "attention_layer": lambda c: graph_attention.attention_layer(
        graph_attention.init_layer(0, 3, 2, 2), c(FEATURES).astype(jnp.float32), graph(c)
    ),
    "attention_scores": lambda c: selection.attention_scores(
        0, c(FEATURES), jnp.asarray(LABELS[:24]), graph(c), 4, num_steps=2, num_heads=1, head_width=2
    ),
    "badge_indices": lambda c: selection.badge_indices(0, c(LOGITS), c(POINTS), 5),
    "batch_bald_indices": lambda c: selection.batch_bald_indices(0, c(COMMITTEE), 4, num_samples=16),
    "batch_gradients": lambda c: list_decodable.batch_gradients(c(SAMPLES), c(TARGETS), c(np.ones(2)), 1.0),
    "best_of_list": lambda c: list_decodable.best_of_list(
        list_decodable.RegressionList(c(FEATURES), c(FEATURES[:, 0]), jnp.ones(24, bool), c(FEATURES)),
        c(POINTS),
        c(LOSSES),
    ),
    "calibrated_gradient": lambda c: selection.calibrated_gradient(c(LOSSES)),
    "cardinality_inconsistency": lambda c: selection.cardinality_inconsistency(c(LOGITS), 1.5),
    "class_thresholds": lambda c: selection.class_thresholds(c(LOSSES)[0], c(MASS), GROUPS > 0),
    "clipped_ratios": lambda c: selection.clipped_ratios(c(LOSSES - 1), c(MASS - 1), 0.3),
    "category_inconsistency": lambda c: selection.category_inconsistency(c(LOGITS), jnp.asarray(LOGITS[:9] > 0)),
    "class_probabilities": lambda c: uncertainty.class_probabilities(c(LOGITS)),
    "cvirs_scores": lambda c: selection.cvirs_scores(c(LOGITS), jnp.asarray(LOGITS[:9] > 0)),
    "discriminative_indices": lambda c: selection.discriminative_indices(
        0, c(FEATURES), 4, jnp.arange(24) < 6, num_rounds=2, num_steps=3
    ),
    "expected_layer_gradient_length": lambda c: selection.expected_layer_gradient_length(
        layer_logits, c(POINTS[:3, :2]), c(POINTS)
    ),
    "expected_word_gradient_length": lambda c: selection.expected_word_gradient_length(
        word_logits, c(POINTS[:9, :2]), jnp.arange(60).reshape(20, 3) % 9
    ),
    "log_probabilities": lambda c: selection.log_probabilities(c(np.array([[0.25, 0.75], [0.5, 0.5]]))),
    "uncertainty_ranks": lambda c: selection.uncertainty_ranks(c(LOGITS)),
    "combined_ranks": lambda c: selection.combined_ranks(c(POINTS).T),
    "consensus_divergence": lambda c: selection.consensus_divergence(c(COMMITTEE)),
    "contrastive_scores": lambda c: selection.contrastive_scores(
        c(LOGITS[:40]), c(POINTS[:40]), c(LOGITS[40:60]), c(POINTS[40:60])
    ),
    "curvature_of": lambda c: crest.curvature_of(model(c)),
    "curvature_norm": lambda c: crest.curvature_norm(model(c)),
    "dense_problem": lambda c: coresets.dense_problem(c(SQUARE), c(MASS[:24])),
    "distance_graph": lambda c: selection.distance_graph(0, c(POINTS), jnp.asarray(LABELS), 4, batch_size=100),
    "dpp_map_indices": lambda c: selection.dpp_map_indices(c(KERNEL), 4),
    "embedding_agreements": lambda c: selection.embedding_agreements(c(POINTS), c(POINTS[::-1])),
    "expected_concepts": lambda c: concepts.expected_concepts(jnp.arange(len(MASS)), c(MASS), 60_000, 1000),
    "expected_gradient_length": lambda c: selection.expected_gradient_length(c(LOGITS), c(POINTS)),
    "facility_location": lambda c: selection.facility_location(c(SQUARE), 4),
    "facility_location_from_features": lambda c: selection.facility_location_from_features(c(FEATURES), 4),
    "facility_location_value": lambda c: coresets.facility_location_value(
        c(grid(8, 20, MANY)), jnp.arange(20) < 5, item_weights=c(MASS)
    ),
    "feature_kernel": lambda c: dpp.feature_kernel(c(FEATURES), bandwidth=1.0),
    "fit_ability": lambda c: selection.fit_ability(ITEMS, c(RIGHT[0])),
    "fit_item_response": lambda c: selection.fit_item_response(0, c(RIGHT), num_dimensions=2, num_rounds=5),
    "gradient_match": lambda c: selection.gradient_match(c(FEATURES), 3),
    "gradient_norm_bound": lambda c: selection.gradient_norm_bound(c(LOGITS), jnp.asarray(LABELS)),
    "held_out_fit": lambda c: selection.held_out_fit(c(SQUARE), jnp.arange(24) % 3, 3, jnp.arange(4)),
    "hash_graph": lambda c: selection.hash_graph(0, c(POINTS), 3),
    "importance_counts": lambda c: selection.importance_counts(jax.random.key(0), c(MASS / 64), 1000),
    "importance_probabilities": lambda c: importance_sampling.importance_probabilities(c(LOSSES), c(MASS), 0.1),
    "interval_of": lambda c: crest.interval_of(c(MASS)[0], c(MASS)[1], 7.0),
    "jest_indices": lambda c: selection.jest_indices(0, c(SQUARE), 4, 2),
    "jest_indices_from_embeddings": lambda c: selection.jest_indices_from_embeddings(
        0, embeddings(c), embeddings(c), 4, 2
    ),
    "k_center": lambda c: selection.k_center(c(FEATURES), 4),
    "k_means_clusters": lambda c: selection.k_means_clusters(0, c(FEATURES), 4),
    "k_means_indices": lambda c: selection.k_means_indices(0, c(FEATURES), 4),
    "kept_rows": lambda c: selection.kept_rows(c(LOSSES), 30),
    "kdpp_inclusion": lambda c: selection.kdpp_inclusion(c(KERNEL), 4),
    "kdpp_indices": lambda c: selection.kdpp_indices(jax.random.key(0), c(KERNEL), 4),
    "largest_features_by_domain": lambda c: colm.largest_features_by_domain(c(POINTS), GROUPS, 3, 2),
    "influence_lengths": lambda c: selection.influence_lengths(c(LOGITS), c(POINTS)),
    "least_confidence": lambda c: selection.least_confidence(c(LOGITS)),
    "lightweight_probabilities": lambda c: selection.lightweight_probabilities(c(POINTS), item_weights=c(MASS)),
    "list_regressions": lambda c: selection.list_regressions(
        0, c(SAMPLES), c(TARGETS), 0.5, num_starts=4, max_iterations=2
    ),
    "log_symmetric_sums": lambda c: dpp.log_symmetric_sums(c(LOSSES), 5),
    "loss_ranks": lambda c: selective_backprop.loss_ranks(c(LOSSES), c(MASS)),
    "mean_log_likelihoods": lambda c: selection.mean_log_likelihoods(c(NEGATIVE), TOKEN_COUNTS),
    "medoid_weights": lambda c: selection.medoid_weights(
        coresets.Medoids(jnp.arange(2), jnp.ones(2), jnp.arange(MANY) % 2), item_weights=c(MASS)
    ),
    "multifilter": lambda c: selection.multifilter(c(MASS), c(LOSSES), 0.1, 0.5),
    "multifilter_regressions": lambda c: selection.multifilter_regressions(
        c(SAMPLES), c(TARGETS), 0.5, max_iterations=4
    ),
    "near_labeled_mask": lambda c: selection.near_labeled_mask(c(POINTS), c(FEATURES[:5]), num_neighbors=20),
    "multilevel_hash_graph": lambda c: selection.multilevel_hash_graph(0, c(POINTS), 3),
    "multiview_hash_graph": lambda c: selection.multiview_hash_graph(0, c(POINTS), 3),
    "nearest_in_turn": lambda c: selection.nearest_in_turn(c(POINTS), c(FEATURES.reshape(6, 4, 3)), 20),
    "needs_reselection": lambda c: selection.needs_reselection(model(c), c(MASS[:8]), c(LOSSES)[9]),
    "negative_entropies": lambda c: selection.negative_entropies(c(-NEGATIVE), TOKEN_COUNTS, 20),
    "negative_margin": lambda c: selection.negative_margin(c(LOGITS)),
    "partitioned_medoids": lambda c: selection.partitioned_medoids(c(FEATURES), 3, 2),
    "power_inclusion": lambda c: selection.power_inclusion(c(MASS), 0.3, 1.5),
    "predicted_loss": lambda c: crest.predicted_loss(model(c), c(MASS[:8])),
    "predict_tasks": lambda c: selection.predict_tasks(c(SQUARE), jnp.arange(3), c(FEATURES)),
    "prediction_entropy": lambda c: selection.prediction_entropy(c(LOGITS)),
    "prob_cover_indices": lambda c: selection.prob_cover_indices(0, c(FEATURES), 4, 0.5),
    "largest_pure_radius": lambda c: selection.largest_pure_radius(c(FEATURES), jnp.arange(24) % 3),
    "typi_clust_indices": lambda c: selection.typi_clust_indices(0, c(FEATURES), 4, 3),
    "typical_indices": lambda c: selection.typical_indices(c(FEATURES), jnp.arange(24) % 3, 4, 3),
    "quadratic_model": lambda c: averages(selection.quadratic_model(c(LOSSES[:8]), c(LOSSES)[0])),
    "received": lambda c: graph_attention.received(graph(c), graph(c).weights.astype(jnp.float32)[:, :, None]),
    "reducible_loss": lambda c: selection.reducible_loss(c(LOSSES), c(MASS)),
    "refine": lambda c: selection.refine(c(SQUARE), jnp.arange(4)),
    "representative_tasks": lambda c: selection.representative_tasks(c(SQUARE), 4),
    "reselection_interval": lambda c: selection.reselection_interval(model(c), model(c, 2), 7.0),
    "response_mean": lambda c: selection.response_mean(ITEMS, jnp.arange(4), c(RIGHT[0, :4])),
    "running_threshold": lambda c: thresholds.running_threshold(c(LOSSES)[0], c(MASS)[0], jnp.array(3000), "mean"),
    "sift_indices": lambda c: selection.sift_indices(c(FEATURES), c(FEATURES[:3]), 4, stop=0.5),
    "sigmoid_pair_losses": lambda c: jest_embeddings.sigmoid_pair_losses(embeddings(c)),
    "similarity_matrix": lambda c: coresets.similarity_matrix(c(FEATURES)),
    "soft_filter": lambda c: selection.soft_filter(c(MASS), c(LOSSES)),
    "softmax_jest_indices": lambda c: selection.softmax_jest_indices(0, c(SQUARE), c(SQUARE.T), 4, 2),
    "solve_probabilities": lambda c: selection.solve_probabilities(ITEMS, c(FEATURES)),
    "stop_after": lambda c: two_checks(selection.stop_after(2), c(LOGITS), c(LOGITS[::-1])),
    "stop_by_changes": lambda c: two_checks(selection.stop_by_changes(), c(LOGITS), c(LOGITS[::-1])),
    "stop_by_f_score": lambda c: two_checks(selection.stop_by_f_score(), c(POINTS[:, :2]), c(POINTS[:, 1:])),
    "stop_by_kappa": lambda c: two_checks(selection.stop_by_kappa(), c(LOGITS), c(LOGITS[::-1])),
    "stop_by_uncertainty": lambda c: two_checks(selection.stop_by_uncertainty(), c(LOGITS), c(LOGITS[::-1])),
    "surrogate_uncertainty": lambda c: power_sampling.surrogate_uncertainty(c(LOGITS)),
    "top_of_classes": lambda c: selection.top_of_classes(c(LOSSES), jnp.asarray(LABELS), jnp.array([3, 0, 2, 90])),
    "teacher_labels": lambda c: selection.teacher_labels(c(TAUGHT)),
    "token_confidences": lambda c: selection.token_confidences(c(NEGATIVE), TOKEN_COUNTS),
    "top_direction": lambda c: list_decodable.top_direction(c(POINTS), c(MASS)),
    "top_fraction_mask": lambda c: selection.top_fraction_mask(c(LOSSES), 0.3, 0).mask,
    "standardized": lambda c: instance_graphs.standardized(c(POINTS)),
    "top_with_all_classes": lambda c: selection.top_with_all_classes(c(LOSSES), jnp.asarray(LABELS), 30, 4),
    "topk_mask": lambda c: selection.topk_mask(c(LOSSES), 30),
    "transport_scores": lambda c: selection.transport_scores(c(SQUARE), weights=c(MASS[:24]), max_iterations=20),
    "transport_scores_in_blocks": lambda c: selection.transport_scores_in_blocks(
        c(POINTS), c(FEATURES), weights=c(MASS), max_iterations=5
    ),
    "update_quadratic_model": lambda c: averages(model(c)),
    "variance_reduction": lambda c: importance_sampling.variance_reduction(c(MASS / 64), c(LOSSES + 1)),
    "vote_entropy": lambda c: selection.vote_entropy(c(COMMITTEE)),
    "without_top": lambda c: uncertainty.without_top(c(LOGITS)),
    "weighted_mean_loss": lambda c: thresholds.weighted_mean_loss(c(LOSSES), c(MASS)),
    "cluster_examples": lambda c: spherical_k_means.cluster_examples(GROUPS, c(LOSSES), 3),
    "cluster_quotas": lambda c: selection.cluster_quotas(
        jnp.arange(MANY), 1000, by="density", mean_distances=c(MASS / 2)
    ),
    "cluster_report": lambda c: selection.cluster_report(c(POINTS), GROUPS, c(LOSSES), 3),
    "init_clusters": lambda c: selection.init_clusters(c(FEATURES), 3, 0),
    "near_duplicates_by_cosine": lambda c: selection.near_duplicates_by_cosine(c(POINTS), 0.99),
    "update_clusters": lambda c: selection.update_clusters(selection.init_clusters(c(FEATURES), 3, 0), c(FEATURES)),
    "weights_of_distinct": lambda c: minhash.weights_of_distinct(
        c(MASS), minhash.NearDuplicates(GROUPS < 1, jnp.arange(MANY) // 3 * 3, jnp.zeros(MANY)), "represented"
    ),
}
OF_INTEGERS = {
    "add_labels",
    "class_targets",
    "cohen_kappa",
    "concept_balanced_indices",
    "concept_targets",
    "distinct_ngrams",
    "domain_budgets",
    "estimated_jaccard",
    "f_score_change",
    "lsh_bands",
    "minhash_signatures",
    "near_duplicates",
    "ngram_overlap",
    "ngram_set",
    "proxy_agreements",
    "quota_mask",
    "start_labeling",
    "unlabeled_weights",
    *("add_labels", "class_targets", "cohen_kappa", "concept_balanced_indices", "concept_targets", "domain_budgets"),
    *("estimated_jaccard", "f_score_change", "lsh_bands", "minhash_signatures", "near_duplicates"),
    *("ngram_overlap", "ngram_set", "quota_mask", "start_labeling", "unlabeled_weights"),
}
OF_A_FUNCTION_OF_THE_CALLER = {"embed_at_two_resolutions", "hutchinson_diagonal"}
OF_NO_ARRAY = {"init_layer"}
KEEP_DTYPE = {
    "best_of_list",
    "class_thresholds",
    "importance_probabilities",
    "largest_features_by_domain",
    "power_inclusion",
    "running_threshold",
    "weighted_mean_loss",
    "without_top",
}


def cases_of_selections():
    for path in sorted(Path(__file__).parent.glob("*_test.py")):
        if "\nCASES = {" in path.read_text():
            yield from importlib.import_module(f"tests.selection.{path.stem}").CASES.items()


CASES = dict(cases_of_selections())


def test_every_public_function_is_in_the_table():
    exempt = OF_INTEGERS | OF_A_FUNCTION_OF_THE_CALLER | OF_NO_ARRAY
    assert set(public_functions("selection")) == set(FUNCTIONS) | exempt


@pytest.mark.parametrize("name,dtype", list(zip(FUNCTIONS, itertools.cycle(DTYPES))))
def test_a_function_computes_in_float32(name, dtype):
    check_like_float32(FUNCTIONS[name], dtype, name in KEEP_DTYPE)


@pytest.mark.parametrize("name", CASES)
def test_a_selection_computes_in_float32(name):
    check_transformation(CASES[name], jnp.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_are_counted(dtype):
    size = 4096
    equal = jnp.full(size, 0.5, dtype)
    inclusion = selection.power_inclusion(equal, 0.25, 1.0)
    np.testing.assert_array_equal(inclusion.astype(jnp.float32), 0.25)
    gradient = selection.calibrated_gradient(jnp.zeros(size, dtype).at[0].set(1.0))
    np.testing.assert_allclose(gradient, np.append(1, np.full(size - 1, -1 / (size - 1))), rtol=1e-6)
    counts = np.asarray(selection.importance_counts(jax.random.key(0), equal, 16 * size))
    assert counts.sum() == 16 * size and counts.min() > 0 and abs(counts.std() - 4) < 0.3
    sums = dpp.log_symmetric_sums(jnp.zeros(300, dtype), 1)[-1, 1]
    np.testing.assert_allclose(sums, np.log(300), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_averages_of_a_thousand_steps_do_not_stick(dtype):
    found = selection.quadratic_model(jnp.zeros(1, dtype), jnp.ones((), dtype))
    step = jax.jit(lambda m: jax.lax.fori_loop(0, 1000, lambda _, m: crest.update_quadratic_model(m, *ones), m))
    ones = jnp.ones(1, dtype), jnp.full(1, 2.0, dtype)
    np.testing.assert_allclose(crest.curvature_of(step(found)), 2.0001, rtol=1e-4)
    late = selection.adam_features(jnp.ones((1, 1), dtype), jnp.ones(1, dtype), jnp.ones(1, dtype), jnp.array(9))
    np.testing.assert_allclose(late, (1 / (1 - 0.9**10)) / (1 - 0.999**10) ** -0.5, rtol=1e-4)
    limit = thresholds.running_threshold(jnp.ones((), dtype), jnp.ones((), dtype), jnp.array(3), "mean")
    assert limit.dtype == dtype and abs(float(limit) * (1 - 0.9**3) - 1) < 2**-8
