"""Which sources and targets of two batches belong together: weights `[B0, B1]`."""

from minibatch_jax.coupling._bridge import BridgePath, bridge_path, schroedinger_bridge_pairs
from minibatch_jax.coupling._conditions import condition_aware_cost, condition_weight
from minibatch_jax.coupling._costs import cosine_cost, euclidean_cost, squared_euclidean_cost
from minibatch_jax.coupling._divergence import differentiable_plan, sinkhorn_divergence
from minibatch_jax.coupling._exact import Assignment, assignment, couple_exact, exact_plan
from minibatch_jax.coupling._flow_matching import ConditionalPath, FlowPairs, conditional_path, flow_matching_pairs
from minibatch_jax.coupling._hierarchical import HierarchicalPlan, hierarchical_plan, scatter_plans
from minibatch_jax.coupling._hierarchical_flow import (
    HierarchicalPath,
    couple_velocities,
    grouped_sources,
    hierarchical_path,
)
from minibatch_jax.coupling._immiscible import (
    couple_nearest,
    couple_quantized,
    immiscible_noise,
    nearest_noise,
    quantize_cost,
)
from minibatch_jax.coupling._kernel import KernelState, couple_by_kernel, gibbs_weights
from minibatch_jax.coupling._partial import PartialAssignments, couple_partial, partial_assignments, partial_plan
from minibatch_jax.coupling._partial_sinkhorn import couple_partial_sinkhorn, partial_sinkhorn
from minibatch_jax.coupling._plans import (
    Plan,
    Potentials,
    couple_independent,
    independent_plan,
    normalized_entropy,
    round_to_marginals,
)
from minibatch_jax.coupling._sample import Pairs, sample_pairs
from minibatch_jax.coupling._semidiscrete import SemidiscreteState, couple_semidiscrete, semidiscrete_plan
from minibatch_jax.coupling._sharded import sharded_sinkhorn, sharded_targets
from minibatch_jax.coupling._sinkhorn import couple_sinkhorn, sinkhorn
from minibatch_jax.coupling._sliced import (
    pairs_1d,
    sliced_permutations,
    sliced_plan,
    sliced_wasserstein,
    wasserstein_1d,
)
from minibatch_jax.coupling._transport import couple_transport, transport
from minibatch_jax.coupling._unbalanced import couple_unbalanced, unbalanced_sinkhorn

__all__ = [
    "Assignment",
    "BridgePath",
    "ConditionalPath",
    "FlowPairs",
    "HierarchicalPath",
    "HierarchicalPlan",
    "KernelState",
    "Pairs",
    "PartialAssignments",
    "Plan",
    "Potentials",
    "SemidiscreteState",
    "assignment",
    "bridge_path",
    "condition_aware_cost",
    "condition_weight",
    "conditional_path",
    "cosine_cost",
    "couple_by_kernel",
    "couple_exact",
    "couple_independent",
    "couple_nearest",
    "couple_partial",
    "couple_partial_sinkhorn",
    "couple_quantized",
    "couple_semidiscrete",
    "couple_sinkhorn",
    "couple_transport",
    "couple_unbalanced",
    "couple_velocities",
    "differentiable_plan",
    "euclidean_cost",
    "exact_plan",
    "flow_matching_pairs",
    "gibbs_weights",
    "grouped_sources",
    "hierarchical_path",
    "hierarchical_plan",
    "immiscible_noise",
    "independent_plan",
    "nearest_noise",
    "normalized_entropy",
    "pairs_1d",
    "partial_assignments",
    "partial_plan",
    "partial_sinkhorn",
    "quantize_cost",
    "round_to_marginals",
    "sample_pairs",
    "scatter_plans",
    "schroedinger_bridge_pairs",
    "semidiscrete_plan",
    "sharded_sinkhorn",
    "sharded_targets",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_permutations",
    "sliced_plan",
    "sliced_wasserstein",
    "squared_euclidean_cost",
    "transport",
    "unbalanced_sinkhorn",
    "wasserstein_1d",
]
