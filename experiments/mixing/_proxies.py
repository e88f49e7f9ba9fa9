"""Mixtures found by small models before the run: DoReMi, DoGE, and the graph of Skill-It."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.engine import descend
from experiments.shared.backbones import ByteTransformer, functional
from experiments.shared.text_domains import DOMAINS, byte_losses, domain_losses
from minibatch_jax import value_and_grad
from minibatch_jax.mixing import (
    domain_alignments,
    excess_losses,
    losses_by_domain,
    mix_by_doge,
    mix_by_doremi,
)
from minibatch_jax.sampling import Rows, Sampler, mixture

NUMBER = len(DOMAINS)
Find = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Timed:
    """A compiled function that says what it costs in CPU seconds, without its compilation."""

    def __init__(self, function: Callable[..., Any]):
        """Compile at the first call; arguments of later calls have the same shapes."""
        self._function, self._compiled = jax.jit(function), None

    def __call__(self, *arguments: Any) -> tuple[Any, float]:
        """Return the result and the CPU seconds."""
        if self._compiled is None:
            self._compiled = self._function.lower(*arguments).compile()
        start = time.process_time()
        result = jax.block_until_ready(self._compiled(*arguments))
        return result, time.process_time() - start


class Proxy:
    """A small byte transformer and its training on what a sampler draws."""

    def __init__(self, config: Any):
        """Build the network of the proxy's size."""
        sizes = {"length": config.length, "width": config.proxy_width, "depth": config.proxy_depth}
        self.steps, self.batch_size, self.rate = config.proxy_steps, config.batch_size, config.learning_rate
        self.optimizer = optax.adam(self.rate)
        self.apply, self.params = functional(ByteTransformer(**sizes, rngs=nnx.Rngs(0)))

    def token_losses(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Cross-entropy of each byte `[B, L]`."""
        tokens = tokens.astype(jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(self.apply(params, tokens), tokens)

    def train(
        self,
        sampler: Sampler,
        places: Any,
        tokens: jax.Array,
        items: Callable[[Any, Any], Any],
        feed: Callable[[Any, Any, Rows, Any], Any],
    ) -> tuple[Any, Any]:
        """Parameters and state of the sampler after all steps.

        Args:
          sampler: which rows come.
          places: its state.
          tokens: windows `[N, L]`.
          items: `items(params, batch)` gives losses `[B]` and signals, of `batch["tokens"]` and `batch["domain"]`.
          feed: `feed(places, params, rows, batch with signals)` gives the state of the sampler after feedback.
        """
        gradient = value_and_grad(items, optax.with_extra_args_support(optax.identity()), has_aux=True)

        def step(carry, _):
            params, opt_state, places = carry
            rows, places = sampler.sample(places)
            batch = {"tokens": tokens[rows.indices], "domain": places.domains[rows.indices]}
            (_, aux), grads, _ = gradient(params, batch, optax.EmptyState(), weights=rows.weights)
            places = feed(places, params, rows, batch | aux.signals)
            return (*descend(self.optimizer, grads, params, opt_state), places), None

        start = self.params, self.optimizer.init(self.params), places
        (params, _, places), _ = jax.lax.scan(step, start, length=self.steps)
        return params, places


def doremi(config: Any, step_size: float) -> Find:
    """DoReMi: a reference on natural proportions, then a proxy whose weights follow its excess loss; mean mixture."""
    proxy = Proxy(config)
    natural = mixture(NUMBER, config.batch_size, optax.identity())
    sampler = mixture(NUMBER, config.batch_size, mix_by_doremi(step_size), reweigh=True)

    def find(tokens, domain, key):
        def plain(params, batch):
            return jnp.mean(proxy.token_losses(params, batch["tokens"]), axis=1), {}

        def with_excess(params, batch):
            losses = proxy.token_losses(params, batch["tokens"])
            excess = excess_losses(losses, proxy.token_losses(reference, batch["tokens"]))
            return jnp.mean(losses, axis=1), {"excess": jnp.mean(excess, axis=1)}

        def feed(places, params, rows, batch):
            return sampler.update(places, rows, losses=batch["excess"])

        places = natural.init(key, domains=domain)
        reference, _ = proxy.train(natural, places, tokens, plain, lambda places, *_: places)
        _, places = proxy.train(sampler, sampler.init(key, domains=domain), tokens, with_excess, feed)
        return places.mix.mean_mixture

    return find


def doge(config: Any) -> Find:
    """DoGE: a proxy whose weights follow the alignment of each domain's gradient with all others'; mean mixture."""
    proxy = Proxy(config)
    sampler = mixture(NUMBER, config.batch_size, mix_by_doge(config.learning_rate), reweigh=True)

    def of_domains(params, batch):
        return losses_by_domain(byte_losses(proxy.apply, params, batch["tokens"]), batch["domain"], NUMBER)[0]

    def items(params, batch):
        return byte_losses(proxy.apply, params, batch["tokens"]), {}

    def feed(places, params, rows, batch):
        return sampler.update(places, rows, domain_alignments=domain_alignments(of_domains, params, batch))

    def find(tokens, domain, key):
        places = sampler.init(key, domains=domain, prior=jnp.full(NUMBER, 1 / NUMBER))
        return proxy.train(sampler, places, tokens, items, feed)[1].mix.mean_mixture

    return find


def skill_graph(config: Any) -> Callable[..., jax.Array]:
    """Skill-It's graph `[K, K]`: what a proxy trained on domain k gains on domain m, over what training on m gains.

    `graph(tokens, domain, key, measured)` reads losses on windows `[K, M, L]`; edges are clipped to [0, 1].
    """
    proxy = Proxy(config)
    proxy.steps = config.graph_steps
    sampler = mixture(NUMBER, config.batch_size, optax.identity())

    def items(params, batch):
        return byte_losses(proxy.apply, params, batch["tokens"]), {}

    def graph(tokens, domain, key, measured):
        first = sampler.init(key, domains=domain)
        losses = functools.partial(domain_losses, proxy.apply)

        def trained_on(alone):
            places = first._replace(prior=alone, weights=alone)
            return losses(proxy.train(sampler, places, tokens, items, lambda places, *_: places)[0], measured)

        gains = losses(proxy.params, measured)[None] - jax.lax.map(trained_on, jnp.eye(NUMBER))
        return jnp.clip(gains / jnp.maximum(jnp.diagonal(gains)[None], 1e-6), 0, 1)

    return graph
