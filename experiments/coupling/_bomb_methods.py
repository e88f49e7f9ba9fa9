"""Estimates of optimal transport from mini-batches: the arms of `hierarchical_transport`."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax.coupling import assignment, couple_assignment, couple_independent, couple_sinkhorn, hierarchical_plan

FULL = "full OT"


class Method(NamedTuple):
    """Coupling of items, coupling of mini-batches, and how k m items of each side make mini-batches.

    `shared`: k of them, each of which meets all of the other side; `own`: k^2, each with a partner of its own, so that
    k^2 m items are drawn; `merged`: one of k m items.
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    batches: Literal["shared", "own", "merged"] = "shared"

    def value(
        self, key: jax.Array, cost: Callable, sizes: tuple[int, int], k: int, m: int, disjoint: bool
    ) -> jax.Array:
        """Estimate of the optimal transport cost; `cost(i, j)` is the cost matrix of items i and j of both sides."""
        number, size = {"shared": (k, m), "own": (k**2, m), "merged": (1, k * m)}[self.batches]
        disjoint &= self.batches != "own"
        i, j = (mini_batches(key, n, number, size, disjoint) for key, n in zip(jax.random.split(key), sizes))
        if self.batches == "own":
            costs = jax.vmap(cost)(i, j)[:, None]
        else:
            costs = jax.vmap(lambda u: jax.vmap(lambda v: cost(u, v))(j))(i)
        return hierarchical_plan(costs, self.inner, self.outer).value


def methods(outer_epsilon: float) -> dict[str, Method]:
    """The arms that see mini-batches: k^2 problems of m x m, but the last one of k m x k m."""
    entropic = couple_sinkhorn(outer_epsilon, relative_to="std")
    return {
        "independent": Method(couple_independent(), couple_independent()),
        "m-OT": Method(couple_assignment(), couple_independent()),
        "m-OT, own batches": Method(couple_assignment(), couple_independent(), "own"),
        "entropic BoMb-OT": Method(couple_assignment(), entropic),
        "BoMb-OT": Method(couple_assignment(), couple_assignment()),
        "OT of k m items": Method(couple_assignment(), couple_independent(), "merged"),
    }


def mini_batches(key: jax.Array, n: int, k: int, m: int, disjoint: bool) -> jax.Array:
    """Indices `[k, m]`: cut from one permutation, or each batch drawn for itself."""
    if disjoint:
        return jax.random.permutation(key, n)[: k * m].reshape(k, m)
    return jax.vmap(lambda key: jax.random.permutation(key, n)[:m])(jax.random.split(key, k))


def full_value(cost: jax.Array) -> jax.Array:
    """Optimal transport cost of all items."""
    return jnp.mean(cost[jnp.arange(len(cost)), assignment(cost).columns])
