"""Gradients of mini-batch transport losses: the arms of `transport_gradient_flow` and `transport_generator`."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import value_and_grad
from minibatch_jax.coupling import (
    couple_assignment,
    couple_hierarchical,
    couple_independent,
    couple_partial,
    couple_sinkhorn,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost

Points = Callable[[Any, jax.Array], jax.Array]
"""`points(params, inputs)`: items `[B, D]` that the parameters make of the inputs"""
Gradient = Callable[[Any, jax.Array, jax.Array, jax.Array], Any]
"""`gradient(params, inputs, y, key)` of the loss between the items of the inputs and the items y `[B, D]`"""

BASELINE = "m-OT"


def methods(
    points: Points,
    mini_batches: int,
    fractions: tuple[float, ...],
    epsilons: tuple[float, ...],
    projections: int,
    tolerance: float = 1e-4,
) -> dict[str, Gradient]:
    """Name -> gradient: a coupling whose pairs pull, or a loss of two batches.

    The arms with "m-" and "BoMb" cut both batches into mini-batches; the others couple all of their items at once.
    """
    exact, every_pair = couple_assignment(), couple_independent()
    partials = {s: couple_partial(s) for s in fractions}
    in_mini_batches = partial(couple_hierarchical, mini_batches=mini_batches)
    couplings = {
        "independent": every_pair,
        BASELINE: in_mini_batches(exact, every_pair),
        **{f"m-POT, {s}": in_mini_batches(inner, every_pair) for s, inner in partials.items()},
        "BoMb-OT": in_mini_batches(exact, exact),
        f"BoMb-POT, {fractions[0]}": in_mini_batches(partials[fractions[0]], exact),
        "OT of k m items": exact,
        **{f"entropic cost, {epsilon}": couple_sinkhorn(epsilon, tolerance=tolerance) for epsilon in epsilons},
    }

    def divergence(epsilon, key, x, y):
        return sinkhorn_divergence(x, y, epsilon=epsilon, tolerance=tolerance)

    def sliced(key, x, y):
        return x.shape[1] * sliced_wasserstein(key, x, y, projections)

    losses: dict[str, Callable] = {f"Sinkhorn divergence, {e}": partial(divergence, e) for e in epsilons}
    losses["sliced"] = sliced
    found = {name: partial(coupled_gradient, points, coupling) for name, coupling in couplings.items()}
    return found | {name: partial(loss_gradient, points, loss) for name, loss in losses.items()}


def baselines(epsilons: tuple[float, ...], arms: Iterable[str]) -> dict[str, str]:
    """Arm -> what it is compared with: m-OT, but for a Sinkhorn divergence the entropic cost of the same epsilon."""
    entropic = {f"Sinkhorn divergence, {epsilon}": f"entropic cost, {epsilon}" for epsilon in epsilons}
    return dict.fromkeys(arms, BASELINE) | entropic


def coupled_gradient(
    points: Points,
    coupling: optax.GradientTransformation,
    params: Any,
    inputs: jax.Array,
    y: jax.Array,
    key: jax.Array,
) -> Any:
    """Gradient of the squared distances of all pairs of items, weighted by the coupling."""
    del key

    def costs(params, batch):
        cost = squared_euclidean_cost(points(params, batch["inputs"]), batch["y"])
        return cost, {"cost": cost}

    fn = value_and_grad(costs, coupling, items="pair_losses", has_aux=True)
    return fn(params, {"inputs": inputs, "y": y}, coupling.init(jnp.zeros((len(inputs), len(y)))))[1]


def loss_gradient(points: Points, loss: Callable, params: Any, inputs: jax.Array, y: jax.Array, key: jax.Array) -> Any:
    """Gradient of a loss of two batches, `loss(key, x, y)`."""
    return jax.grad(lambda params: loss(key, points(params, inputs), y))(params)
