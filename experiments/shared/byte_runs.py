"""Runs of a small byte transformer on the twelve text domains, with mixtures and learning rates given step by step.

`train` scans over rows of a table of mixtures `[T, K]` and a vector of rates `[T]`, so that all schedules of one length
share a compiled program. Each domain is read in an order of its own, around and around: a domain that is mixed in twice
goes on where it was, and no epoch repeats a window before all have been seen.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import descend
from experiments.shared.backbones import Apply, ByteTransformer, functional
from experiments.shared.text_domains import Split, byte_losses, domain_losses

LENGTH = 32
"""bytes of a window"""


class Pool(NamedTuple):
    """Windows to train on, domain by domain, each in a random order.

    Attributes:
      tokens: `[N, L]` uint8.
      first: `[K]` int32, first row of each domain.
      sizes: `[K]` int32, rows of each.
    """

    tokens: jax.Array
    first: jax.Array
    sizes: jax.Array


class Run(NamedTuple):
    """A training run at some step.

    Attributes:
      params: of the model.
      opt_state: of Adam.
      seen: `[K]` int32, windows drawn of each domain so far.
      key: of the draws to come.
    """

    params: Any
    opt_state: Any
    seen: jax.Array
    key: jax.Array


def make_pool(split: Split, seed: int, at_most: dict[int, int] | None = None) -> Pool:
    """The training split of `text_domains` in a random order, with at most so many windows of some domains."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(split["domain"] == k)) for k in range(split["domain"].max() + 1)]
    rows = [r[: (at_most or {}).get(k, len(r))] for k, r in enumerate(rows)]
    sizes = np.array([len(r) for r in rows], np.int32)
    first = np.cumsum(sizes, dtype=np.int32) - sizes
    return Pool(jnp.asarray(split["tokens"][np.concatenate(rows)]), jnp.asarray(first), jnp.asarray(sizes))


def draw_rows(pool: Pool, seen: jax.Array, mixture: jax.Array, start: jax.Array, count: int) -> Any:
    """Rows `[count]` of a batch, and how many windows of each domain were seen after it.

    Each domain gets its proportion of the rows, rounded up or down at random (systematic sampling, `start` in [0, 1)).
    """
    marks = (jnp.arange(count) + start) / count * jnp.sum(mixture)
    domain = jnp.sum(marks[:, None] >= jnp.cumsum(mixture)[None, :-1], axis=1)
    drawn = domain[:, None] == jnp.arange(len(mixture))
    place = jnp.cumsum(drawn, axis=0)[jnp.arange(count), domain] - 1
    rows = pool.first[domain] + (seen[domain] + place) % pool.sizes[domain]
    return rows, seen + jnp.sum(drawn, axis=0, dtype=jnp.int32)


def start_run(seed: int, domains: int, *, width: int = 32, depth: int = 2) -> Run:
    """A new model that has seen nothing."""
    model_key, key = jax.random.split(jax.random.key(seed))
    _, params = functional(_network(width, depth, nnx.Rngs(model_key)))
    return Run(params, optax.scale_by_adam().init(params), jnp.zeros(domains, jnp.int32), key)


@functools.partial(jax.jit, static_argnames=("batch_size", "width", "depth"))
def train(
    run: Run,
    pool: Pool,
    mixtures: jax.Array,
    rates: jax.Array,
    *,
    batch_size: int = 32,
    width: int = 32,
    depth: int = 2,
) -> Run:
    """The run after one step of Adam for each row of `mixtures` `[T, K]` and each of `rates` `[T]`."""
    apply = apply_of(width, depth)

    def step(run, now):
        mixture, rate = now
        draw_key, key = jax.random.split(run.key)
        rows, seen = draw_rows(pool, run.seen, mixture, jax.random.uniform(draw_key), batch_size)
        grads = jax.grad(lambda params: jnp.mean(byte_losses(apply, params, pool.tokens[rows])))(run.params)
        optimizer = optax.chain(optax.scale_by_adam(), optax.scale(-rate))
        params, (opt_state, _) = descend(optimizer, grads, run.params, (run.opt_state, optax.ScaleState()))
        return Run(params, opt_state, seen, key), None

    return jax.lax.scan(step, run, (mixtures, rates))[0]


@functools.partial(jax.jit, static_argnames=("width", "depth"))
def held_out_losses(params: Any, tokens: jax.Array, *, width: int = 32, depth: int = 2) -> jax.Array:
    """Loss of each domain `[K]` in nats a byte on held-out windows `[K, M, L]`."""
    return domain_losses(apply_of(width, depth), params, tokens)


def by_domain(split: Split) -> jax.Array:
    """The held-out split as `[K, M, L]`."""
    domains = split["domain"].max() + 1
    return jnp.asarray(split["tokens"].reshape(domains, -1, split["tokens"].shape[1]))


def table(schedule: Any, num_steps: int, start: int = 0) -> jax.Array:
    """The values of a schedule at `num_steps` steps, `[T]` or `[T, K]`."""
    return jax.vmap(schedule)(jnp.arange(start, start + num_steps))


@functools.cache
def apply_of(width: int, depth: int) -> Apply:
    """The model without its parameters."""
    return functional(_network(width, depth, nnx.Rngs(0)))[0]


def _network(width: int, depth: int, rngs: nnx.Rngs) -> ByteTransformer:
    return ByteTransformer(length=LENGTH, width=width, depth=depth, rngs=rngs)
