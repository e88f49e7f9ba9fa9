"""Skill-It: draw the domains that teach what the model is still bad at, by a graph of which teaches what.

References:
  Chen et al., Skill-it! A data-driven skills framework for understanding and training language models, 2023
  (arXiv 2307.14430).

Method: Skill-It
Paper: 2307.14430
Experiment: proxy_mixtures, speed mixing
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing._mixtures import check_domains, check_mixture, log_of, observed, shares, softmax_over
from minibatch_jax.weights import weight_dtype, weight_transformation

LOSSES = ("domains", "targets")


class SkillsState(NamedTuple):
    """State of `mix_by_skills`.

    Attributes:
      window: `[W, M]`, the last losses of each target, the newest first; 0 where none came yet.
      first: `[M]`, the first loss of each target, 0 before it.
    """

    window: jax.Array
    first: jax.Array


def skill_mixture(
    graph: jax.Array, losses: jax.Array, step_size: float | jax.Array, prior: jax.Array | None = None
) -> jax.Array:
    """Return the mixture in proportion to `prior x exp(step_size x graph @ losses)`.

    Skill-It begins with losses of 1: the domains that teach most.

    Args:
      graph: `[K, M]`, floating point, how much training on domain k helps with target m.
      losses: `[M]`, floating point, sum of the losses of each target over the last evaluations. One that is not finite
        counts as 0.
      step_size: a number, may be traced.
      prior: `[K]` of sum 1, uniform by default. A domain of weight 0 stays at 0.

    Returns:
      `[K]`, float32 (float64 if the graph is), of sum 1.

    Raises:
      TypeError: if graph, losses or prior are not floating point, or `step_size` is not a number.
      ValueError: if shapes do not match, or a concrete graph is not finite or a concrete prior no mixture.

    References:
      Chen et al., 2023 (arXiv 2307.14430).

    Examples:
      >>> [round(p, 4) for p in skill_mixture(jnp.eye(2), jnp.log(jnp.array([1.0, 3.0])), 1.0).tolist()]
      [0.25, 0.75]
    """
    _check_graph(graph)
    check_shape("losses", losses, (graph.shape[1],))
    check_floating("losses", losses)
    check_number("step_size", step_size)
    dtype = weight_dtype(graph.dtype)
    if prior is None:
        prior = jnp.full(graph.shape[0], 1 / graph.shape[0], dtype)
    check_mixture("prior", prior, graph.shape[0])
    prior, losses = prior.astype(dtype), losses.astype(dtype)
    scores = _taught(jnp.asarray(graph, dtype), jnp.where(jnp.isfinite(losses), losses, 0))
    return softmax_over(prior > 0, log_of(prior > 0, prior) + jnp.asarray(step_size, dtype) * scores)


def mix_by_skills(
    graph: jax.Array,
    step_size: float | jax.Array,
    *,
    losses: str = "domains",
    window: int = 3,
    relative_losses: bool = False,
    growing_step: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Draw the domains that help with the targets of high loss (Skill-It).

    Signals: `domain_losses` [K] and `domain_counts` [K], or `target_losses` [M] with `losses="targets"`.

    The mixture is in proportion to `prior x exp(step_size x graph @ s)`, with the incoming mixture as prior and s the
    sum of the last `window` losses of each target. It does not build on earlier mixtures. A target without examples or
    without a finite loss keeps its window: give NaN between two evaluations. Where no loss has come yet, s is 0, and
    the incoming mixture passes; the authors begin with `skill_mixture(graph, ones, step_size)`.

    The losses decide through their size, so `step_size` has to be tuned. With a graph of ones on the diagonal the
    mixture is the softmax of the losses. Where targets are not the domains, the authors' code takes the mean of the
    window in place of its sum: divide `step_size` by `window`.

    A domain that comes with weight 0 stays at 0. With one domain the weight stays as it is.

    Args:
      graph: `[K, M]`, floating point, how much training on domain k helps with target m, as measured from a run on each
        domain; the authors put 0.5 for edges between different skills of synthetic data.
      step_size: a number, may be traced.
      losses: "domains" where the targets are the domains, M = K, or "targets".
      window: W, number of losses of each target that are summed, at least 1, static.
      relative_losses: whether each loss is divided by the first one of its target.
      growing_step: whether `step_size` is multiplied by the sum of the first losses over that of the last ones.

    Returns:
      A transformation over `[K]` weights.

    Raises:
      TypeError: if the graph is not floating point, `window` is not a static int, `step_size` is not a number or, in
        `update`, a signal has another kind of dtype.
      ValueError: if the graph is not `[K, M]`, or not `[K, K]` for the losses of domains, a concrete one is not finite,
        `losses` is unknown, `window` is below 1 or, in `update`, a shape does not match.

    References:
      Chen et al., 2023 (arXiv 2307.14430).

    Examples:
      >>> tx = mix_by_skills(jnp.array([[1.0, 0.5], [0.0, 1.0]]), 1.0)
      >>> weights = jnp.full(2, 0.5)
      >>> signals = {"domain_losses": jnp.ones(2), "domain_counts": jnp.array([4, 4])}
      >>> [round(p, 3) for p in tx.update(weights, tx.init(weights), **signals)[0].tolist()]
      [0.622, 0.378]
    """
    _check_graph(graph)
    check_choice("losses", losses, LOSSES)
    check_count("window", window)
    check_number("step_size", step_size)
    domains, targets = graph.shape
    if losses == "domains" and domains != targets:
        raise ValueError(f"graph has shape {[domains, targets]}, wanted [{domains}, {domains}], or losses='targets'.")

    def init(weights):
        return SkillsState(jnp.zeros((window, targets), weights.dtype), jnp.zeros(targets, weights.dtype))

    def mix(weights, state, found, usable):
        dtype = weights.dtype
        check_shape("weights", weights, (domains,))
        new = jnp.concatenate([found[None], state.window[:-1]])
        first = jnp.where(usable & (state.first == 0), found, state.first)
        rows = jnp.where(usable[None], new, state.window)
        alive = weights > 0
        counts = alive if losses == "domains" else jnp.ones(targets, bool)  # which targets do
        sums = jnp.sum(rows / nonzero(first)[None] if relative_losses else rows, axis=0)
        sums = jnp.where(counts, sums, 0)
        step = jnp.asarray(step_size, dtype)
        if growing_step:
            then, last = (jnp.sum(jnp.where(counts, x, 0)) for x in (first, rows[0]))
            step = step * jnp.where(last > 0, then / nonzero(last), 1)
        logits = log_of(alive, shares(weights)) + step * _taught(jnp.asarray(graph, dtype), sums)
        mixture = softmax_over(alive, logits)
        return mixture * jnp.sum(jnp.maximum(weights, 0)), SkillsState(rows, first)

    return weight_transformation(init, _from_domains(mix) if losses == "domains" else _from_targets(mix, targets))


def _from_domains(mix: Callable[..., Any]) -> Callable[..., Any]:
    def update(weights, state, params=None, *, domain_losses, domain_counts, **extra_args):
        check_domains(weights, domain_losses=domain_losses, domain_counts=domain_counts)
        found = domain_losses.astype(weights.dtype)
        return mix(weights, state, found, observed(weights, found, domain_counts))

    return update


def _from_targets(mix: Callable[..., Any], targets: int) -> Callable[..., Any]:
    def update(weights, state, params=None, *, target_losses, **extra_args):
        check_shape("target_losses", target_losses, (targets,))
        found = target_losses.astype(weights.dtype)
        return mix(weights, state, found, jnp.isfinite(found))

    return update


def _taught(graph: jax.Array, losses: jax.Array) -> jax.Array:
    """Return `graph @ losses`, in the full precision of the dtype on every device."""
    return jnp.sum(graph * losses[None], axis=1)


def _check_graph(graph: jax.Array) -> None:
    check_shape("graph", graph, (None, None))
    check_floating("graph", graph)
    if not isinstance(graph, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(graph, np.float64))):
        raise ValueError("graph has an entry that is not finite, wanted finite numbers.")
