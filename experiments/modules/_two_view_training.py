"""Networks of two views: objectives, initial parameters, and training in mini-batches."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import descend, init_mlp, mlp
from experiments.modules._two_view_scores import Codes, Digits
from minibatch_jax.modules import (
    canonical_correlation,
    init_whitening,
    matched_correlation,
    orthogonal_iteration_loss,
    relative_distances,
    vicreg_loss,
)


@cache
def objectives(ridge: float, weight: float, memory: float) -> dict[str, Callable[..., Any]]:
    """method -> loss(params, whitening, x, y), which returns the loss and the new whitening.

    The memory of the orthogonal iteration spans about one pass over the data.
    """

    def correlation(h, g):
        return -canonical_correlation(h, g, ridge=ridge)

    def reconstruction(params, x, y, h, g):
        first, second = mlp(params["first_decoder"], h) - x, mlp(params["second_decoder"], g) - y
        return jnp.mean(first**2) + jnp.mean(second**2)

    def with_decoders(term, params, x, y, h, g):
        return term(h, g) + weight * reconstruction(params, x, y, h, g)

    terms = {
        "DCCAE": correlation,
        "CorrAE": lambda h, g: -matched_correlation(h, g, ridge=ridge),
        "DistAE": lambda h, g: jnp.mean(relative_distances(h, g)),
    }

    def stateless(loss):
        def objective(params, whitening, x, y):
            return loss(params, x, y, mlp(params["first"], x), mlp(params["second"], y)), whitening

        return objective

    def iteration(params, whitening, x, y):
        h, g = mlp(params["first"], x), mlp(params["second"], y)
        return orthogonal_iteration_loss(whitening, h, g, decay=memory, ridge=ridge)

    return {
        "DCCA": stateless(lambda params, x, y, h, g: correlation(h, g)),
        **{name: stateless(partial(with_decoders, term)) for name, term in terms.items()},
        "orthogonal iteration": iteration,
        "VICReg": stateless(lambda params, x, y, h, g: vicreg_loss(h, g)),
        "autoencoders": stateless(lambda params, x, y, h, g: reconstruction(params, x, y, h, g)),
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def fit(objective, epochs: int, size: int, rate: float, decay: float, params, key: jax.Array, views):
    """Parameters after some passes over the views in shuffled batches."""
    first, second = views
    width = params["first"][-1][1].shape[0]
    schedule = optax.cosine_decay_schedule(rate, epochs * (len(first) // size))
    optimizer = optax.adamw(schedule, weight_decay=decay)

    def step(carry, rows):
        params, opt_state, whitening = carry
        gradient = jax.grad(objective, has_aux=True)
        grads, whitening = gradient(params, whitening, first[rows], second[rows])
        return (*descend(optimizer, grads, params, opt_state), whitening), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(first))[: len(first) // size * size]
        return jax.lax.scan(step, carry, order.reshape(-1, size))

    carry = params, optimizer.init(params), init_whitening(width, width)
    return jax.lax.scan(epoch, carry, jax.random.split(key, epochs))[0][0]


def initial_params(sizes: tuple[int, int], hidden: int, dimensions: int, seed: int) -> dict[str, Any]:
    """Networks of views of two sizes and their decoders; methods without decoders leave these as they are."""
    keys = jax.random.split(jax.random.key(seed), 4)
    down = [init_mlp(key, (size, hidden, hidden, dimensions)) for key, size in zip(keys[:2], sizes)]
    up = [init_mlp(key, (dimensions, hidden, hidden, size)) for key, size in zip(keys[2:], sizes)]
    return {"first": down[0], "second": down[1], "first_decoder": up[0], "second_decoder": up[1]}


def encode(params, train: Digits, test: Digits) -> Codes:
    """Outputs of both networks."""
    codes = [mlp(params[name], getattr(digits, name)) for digits in (train, test) for name in ("first", "second")]
    return Codes(*(np.asarray(code) for code in codes))
