"""Domains that share the batch in proportions which may change while training.

Method: a mixture of domains, drawn or reweighed
Experiment: online_mixing, speed samplers
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_integer, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.devices import replicate
from minibatch_jax.mining.class_batches import ClassIndex, index_classes
from minibatch_jax.mixing._mixtures import check_mixture, shares
from minibatch_jax.mixing.domains import domain_to_example_weights, losses_by_domain
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, ignore, rows_of

Mix = optax.GradientTransformation | Callable[[jax.Array], jax.Array] | jax.Array | np.ndarray


class MixtureState(NamedTuple):
    """State of `mixture`.

    Attributes:
      rng_key: `[]` key of the next batch.
      order_key: `[]` key of the orders of all epochs.
      domains: `[N]` int32, domain of each row of the data set; K for those of none.
      by_domain: the data set by domain.
      prior: `[K]` float32, proportions that `mix` starts from.
      weights: `[K]` float32, proportions now: of the next batch, or of the last one where `mix` is a function.
      mix: state of the weight transformation; `()` where `mix` is none.
      position: `[K]` int32, rows of each domain drawn in its epoch.
      epochs: `[K]` int32, epochs of each domain that are complete.
      step: `[]` int32, batches drawn.
      exhausted: `[]` bool, whether the last batch was padding because no domain had a proportion above 0.
      ignored: `[]` int32, rows fed back that were not of a domain or had no finite loss.
    """

    rng_key: jax.Array
    order_key: jax.Array
    domains: jax.Array
    by_domain: ClassIndex
    prior: jax.Array
    weights: jax.Array
    mix: Any
    position: jax.Array
    epochs: jax.Array
    step: jax.Array
    exhausted: jax.Array
    ignored: jax.Array


def mixture(
    num_domains: int,
    batch_size: int,
    mix: Mix,
    *,
    draw: Literal["systematic", "multinomial"] = "systematic",
    block_size: int = 1,
    reweigh: bool = False,
) -> Sampler:
    """Draw rows of K domains in proportions that `mix` decides, each domain without replacement over its epochs.

    `mix` is one of three:

    - a weight transformation over domains, such as `mixing.mix_by_odm()`. Its weights begin as the prior at every
      update. Proportions are the prior until something is fed back, and change with every `update`.
    - a function of the number of batches drawn so far, a traced int32, to `[K]` proportions.
    - fixed proportions `[K]`.

    How many rows each domain gives is random, and its expectation is b p. The systematic draw makes it b p rounded up
    or down: K numbers are rounded jointly, by one random number. The multinomial draw is that of independent rows; its
    variance is b p (1 - p). With `block_size=m`, b / m blocks of m rows of one domain are drawn so, and their rows lie
    side by side: with a multinomial draw that is the published form of online data mixing, one domain for each
    micro-batch. Blocks are in random order.

    Each domain is in an order of its own, which changes at each of its epochs; a batch larger than a domain holds some
    of its rows twice. The state holds the place of each domain and its complete epochs, so that a budget can be
    checked: `state.epochs + state.position / state.by_domain.sizes`. An order is computed for the rows of a batch
    alone: there is no permutation in the state.

    With `reweigh`, rows are drawn in proportion to the prior, and the mixture is in the weights of the rows: p / prior
    of their domain, scaled to the sum 1. Rows of proportion 0 are then padding.

    Proportions that come from a transformation or a function are divided by their sum; negative ones, those that are
    not finite, and those of domains without a row count as 0. If all are 0, the batch is padding and the state says
    so. A domain whose prior is 0 is never drawn where `mix` is a transformation.

    Args:
      num_domains: K, static.
      batch_size: b, static.
      mix: what decides the proportions.
      draw: "systematic" or "multinomial".
      block_size: rows of one domain that are drawn together, static; divides b.
      reweigh: whether rows are drawn in proportion to the prior and weighed by the mixture, static.

    Returns:
      A sampler; `init(key, domains=domains, prior=prior)` with `[N]` int domains and `[K]` proportions, by default
      those of the rows. A row whose domain is outside [0, K) is never drawn. `update(state, rows, losses=losses)`
      takes `[b]` losses of rows as they were drawn, late or out of order, such as means over the tokens of a row; the
      transformation sees their means by domain as `domain_losses` and their numbers as `domain_counts`, and further
      signals as they come. Give these two instead of `losses` to feed back others, such as those of a validation set.
      Rows of no domain and losses that are not finite are ignored and counted, and if there are no others the state
      stays as it is. The sampler is fed back to only where `mix` is a transformation; else `update` does nothing.

    Raises:
      TypeError: if a size is not a static int, `reweigh` not a bool, or `mix` something else; in `init`, if domains are
        not integers; in `update`, if a signal is missing or not floating point.
      ValueError: if a size is below 1, `block_size` does not divide the batch, `draw` is unknown, or a fixed mixture is
        not `[K]`, has a negative number or does not sum to 1; in `init`, if the batch is larger than the data set, a
        known domain has no row, or a prior is no mixture; in `update`, if a shape does not fit.

    References:
      Albalak et al., Efficient online data mixing for language model pre-training, 2023 (arXiv 2312.02406).

    Examples:
      >>> sampler = mixture(2, 4, jnp.array([0.25, 0.75]))
      >>> state = sampler.init(0, domains=jnp.array([0, 0, 1, 1, 1, 1]))
      >>> rows, state = sampler.sample(state)
      >>> jnp.sort(state.domains[rows.indices]).tolist(), len(set(rows.indices.tolist()))
      ([0, 1, 1, 1], 4)
    """
    check_count("num_domains", num_domains)
    check_count("batch_size", batch_size)
    check_count("block_size", block_size, batch_size, "the rows of a batch")
    check_choice("draw", draw, ("systematic", "multinomial"))
    if batch_size % block_size:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of {batch_size} (the rows of a batch).")
    if not isinstance(reweigh, bool):
        raise TypeError(f"reweigh is {reweigh!r}, wanted a bool.")
    transformation, step_mix, fixed = _kinds(mix)
    if fixed is not None:
        check_mixture("mix", fixed, num_domains)

    def init(key: jax.Array | int, *, domains: jax.Array, prior: jax.Array | None = None) -> MixtureState:
        check_shape("domains", domains, (None,))
        check_integer("domains", domains)
        index = index_classes(domains, num_domains)
        check_count("batch_size", batch_size, domains.shape[0], "the number of examples")
        _check_no_domain_empty(index.sizes)
        if prior is not None:
            check_mixture("prior", prior, num_domains)
        start = _proportions(index.sizes if prior is None else prior, index.sizes)
        rng_key, order_key = jax.random.split(as_key(key))
        return MixtureState(
            rng_key=rng_key,
            order_key=order_key,
            domains=class_numbers(domains, num_domains),
            by_domain=index,
            prior=start,
            weights=jnp.copy(start) if fixed is None else _proportions(fixed, index.sizes),
            mix=() if transformation is None else transformation.init(start),
            position=jnp.zeros(num_domains, jnp.int32),
            epochs=jnp.zeros(num_domains, jnp.int32),
            step=jnp.zeros((), jnp.int32),
            exhausted=jnp.zeros((), bool),
            ignored=jnp.zeros((), jnp.int32),
        )

    def sample(state: MixtureState) -> tuple[Rows, MixtureState]:
        next_key, draw_key = jax.random.split(state.rng_key)
        weights = state.weights
        if step_mix is not None:
            weights = _proportions(_checked(step_mix, step_mix(state.step), num_domains), state.by_domain.sizes)
        num_blocks = batch_size // block_size
        blocks, ranks, counts = _draw_blocks(draw_key, state.prior if reweigh else weights, num_blocks, draw)
        domain = jnp.repeat(blocks, block_size)
        ahead = (ranks[:, None] * block_size + jnp.arange(block_size, dtype=jnp.int32)[None]).reshape(-1)
        indices = _rows_at(state, domain, ahead)
        exhausted = ~jnp.any(weights > 0)
        rows = rows_of(jnp.where(exhausted, -1, indices))
        if reweigh:
            wanted = jnp.where(exhausted, state.prior, weights)
            rows = _reweighed(rows, domain_to_example_weights(wanted, state.prior, domain))
        sizes, total = jnp.maximum(state.by_domain.sizes, 1), state.position + counts * block_size
        laps = jax.lax.div(total, sizes)
        return rows, state._replace(
            rng_key=next_key,
            weights=weights,
            position=jnp.where(exhausted, state.position, total - laps * sizes),
            epochs=jnp.where(exhausted, state.epochs, state.epochs + laps),
            step=state.step + 1,
            exhausted=exhausted,
        )

    def update(state: MixtureState, rows: Rows, **signals: Any) -> MixtureState:
        ignored = state.ignored
        if "losses" in signals:
            losses = signals.pop("losses")
            check_shape("losses", losses, rows.indices.shape)
            check_floating("losses", losses)
            losses = replicate(losses)
            inside = (rows.indices >= 0) & (rows.indices < state.domains.shape[0])
            domain = jnp.where(inside, state.domains[jnp.where(inside, rows.indices, 0)], num_domains)
            usable = (domain < num_domains) & jnp.isfinite(losses)
            means, counts = losses_by_domain(losses, jnp.where(usable, domain, -1), num_domains)
            signals |= {"domain_losses": means, "domain_counts": counts}
            ignored = ignored + jnp.sum(~usable & (rows.weights != 0), dtype=jnp.int32)
        assert transformation is not None
        moved, mix_state = transformation.update(state.prior, state.mix, **signals)
        weights = _proportions(moved, state.by_domain.sizes)
        if "domain_counts" in signals:
            seen = jnp.any(signals["domain_counts"] > 0)
            old = state.weights, state.mix
            weights, mix_state = jax.tree.map(lambda new, old: jnp.where(seen, new, old), (weights, mix_state), old)
        return state._replace(weights=weights, mix=mix_state, ignored=ignored)

    return Sampler(init, sample, ignore if transformation is None else update)


def _kinds(mix: Any) -> tuple[optax.GradientTransformationExtraArgs | None, Callable[..., Any] | None, Any]:
    """Return `mix` as the one of three that it is: a transformation, a function or an array; None for the others."""
    if hasattr(mix, "init") and hasattr(mix, "update"):
        return optax.with_extra_args_support(mix), None, None
    if hasattr(mix, "shape"):
        return None, None, mix
    if not callable(mix):
        raise TypeError(
            f"mix is {mix!r}, wanted a weight transformation over domains, a function of the step or an array [K]."
        )
    return None, mix, None


def _draw_blocks(key: jax.Array, proportions: jax.Array, count: int, draw: str) -> tuple[jax.Array, ...]:
    """Return the domain of each block `[count]`, its rank among those of the domain, and their numbers `[K]`."""
    random = jax.random.uniform(key, (2 * count + 1,), jnp.float32)
    if draw == "systematic":
        marks = (jnp.arange(count, dtype=jnp.float32) + random[0]) / count
    else:  # sums of exponential gaps, divided by the last, are uniform numbers in order
        sums = jnp.cumsum(-jnp.log1p(-random[: count + 1]))
        marks = sums[:-1] / sums[-1]
    ends = jnp.cumsum(proportions)
    found = jnp.searchsorted(ends, marks * ends[-1], side="right", method="compare_all").astype(jnp.int32)
    numbers = jnp.arange(proportions.shape[0], dtype=jnp.int32)
    has_mass = proportions > 0
    last = jnp.max(jnp.where(has_mass, numbers, 0))
    following = jax.lax.cummin(jnp.where(has_mass, numbers, last), reverse=True)  # rounding may hit one without mass
    domains = following[jnp.minimum(found, last)]
    counts = jnp.zeros(proportions.shape[0], jnp.int32).at[domains].add(1)
    ranks = jnp.arange(count, dtype=jnp.int32) - (jnp.cumsum(counts) - counts)[domains]
    order = jnp.argsort(random[count + 1 :])
    return domains[order], ranks[order], counts


def _rows_at(state: MixtureState, domain: jax.Array, ahead: jax.Array) -> jax.Array:
    """Return rows of the data set `[b]`: of each domain the one so far ahead of its place."""
    index = state.by_domain
    sizes = jnp.maximum(index.sizes, 1)[domain]
    ahead = state.position[domain] + ahead
    laps = jax.lax.div(ahead, sizes)
    place = ahead - laps * sizes
    number = (state.epochs[domain] + laps) * index.sizes.shape[0] + domain
    places = index.starts[domain] + permuted(state.order_key, place, sizes, number)
    return index.order[jnp.minimum(places, index.order.shape[0] - 1)]


def _reweighed(rows: Rows, weights: jax.Array) -> Rows:
    """Return the rows with these weights, scaled to the sum 1; those of weight 0 are padding."""
    weights = jnp.where(rows.indices >= 0, weights.astype(jnp.float32), 0)
    return Rows(jnp.where(weights > 0, rows.indices, -1), weights / nonzero(jnp.sum(weights)))


def _proportions(weights: Any, sizes: jax.Array) -> jax.Array:
    """Return weights `[K]` divided by their sum; those that are negative, not finite or of an empty domain are 0."""
    weights = jnp.asarray(weights)
    usable = jnp.isfinite(weights) & (weights > 0) & (sizes > 0)
    return shares(jnp.where(usable, weights, 0).astype(jnp.float32))


def _checked(mix: Any, weights: Any, num_domains: int) -> jax.Array:
    """Return what the function of the step gave, if it is `[K]`."""
    if hasattr(weights, "init"):
        name = getattr(mix, "__name__", repr(mix))
        raise TypeError(f"mix is {name}, wanted what a factory returns: {name}(), not {name}.")
    weights = jnp.asarray(weights)
    check_shape("mix(step)", weights, (num_domains,))
    return weights


def _check_no_domain_empty(sizes: jax.Array) -> None:
    if not isinstance(sizes, jax.core.Tracer) and np.any(np.asarray(sizes) == 0):
        domains = np.flatnonzero(np.asarray(sizes) == 0)[:10].tolist()
        raise ValueError(f"domains has no row of {domains}, wanted one of each at least.")
