"""Which sources and targets of two batches belong together: weights `[B0, B1]`."""

from minibatch_jax.coupling._costs import cosine_cost, euclidean_cost, squared_euclidean_cost
from minibatch_jax.coupling._exact import Assignment, assignment, couple_exact, exact_plan
from minibatch_jax.coupling._flow_matching import ConditionalPath, FlowPairs, conditional_path, flow_matching_pairs
from minibatch_jax.coupling._plans import (
    couple_independent,
    independent_plan,
    normalized_entropy,
    round_to_marginals,
)
from minibatch_jax.coupling._sample import Pairs, sample_pairs
from minibatch_jax.coupling._sinkhorn import Sinkhorn, couple_sinkhorn, sinkhorn

__all__ = [
    "Assignment",
    "ConditionalPath",
    "FlowPairs",
    "Pairs",
    "Sinkhorn",
    "assignment",
    "conditional_path",
    "cosine_cost",
    "couple_exact",
    "couple_independent",
    "couple_sinkhorn",
    "euclidean_cost",
    "exact_plan",
    "flow_matching_pairs",
    "independent_plan",
    "normalized_entropy",
    "round_to_marginals",
    "sample_pairs",
    "sinkhorn",
    "squared_euclidean_cost",
]
