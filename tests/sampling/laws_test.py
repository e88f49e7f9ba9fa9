"""Each law of a sampler is broken once: the check of that law, and it alone is run, must say so."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.devices import replicate
from minibatch_jax.sampling import Rows, Sampler, as_key
from minibatch_jax.testing import SAMPLER_CHECKS, SamplerCase, check_sampler

N, B = 40, 16
made = itertools.count()


class State(NamedTuple):
    rng_key: jax.Array
    scores: jax.Array
    extra: jax.Array
    ignored: jax.Array


def init(key, *, scores):
    own_key, _ = jax.random.split(as_key(key))
    return State(own_key, jnp.copy(scores), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def sample(state):
    key, draw = jax.random.split(state.rng_key)
    indices = jax.random.randint(draw, (B,), 0, N, jnp.int32)
    return Rows(indices, jnp.full(B, 1 / B, jnp.float32)), state._replace(rng_key=key)


def update(state, rows, *, losses):
    if losses.shape != (B,):
        raise ValueError(f"losses has shape {losses.shape}")
    if losses.dtype != jnp.float32:
        raise TypeError(f"losses has dtype {losses.dtype}")
    losses = replicate(losses)
    known = (rows.indices >= 0) & (rows.indices < N) & jnp.isfinite(losses)
    scores = state.scores.at[jnp.where(known, rows.indices, N)].max(losses, mode="drop")
    return state._replace(scores=scores, ignored=state.ignored + jnp.sum(~known, dtype=jnp.int32))


def with_extra(change):
    """An update that changes the field `extra` too."""
    return lambda state, rows, *, losses: update(state, rows, losses=losses)._replace(extra=change(state, rows, losses))


def scores(rng):
    return {"scores": rng.random(N).astype(np.float32)}


def losses(rng, rows):
    return {"losses": rng.gamma(2.0, size=B).astype(np.float32)}


def rows_like(change):
    """A sample that returns other rows than it drew."""

    def changed(state):
        rows, state = sample(state)
        return change(rows), state

    return changed


def draw_by(number):
    """A sample whose draw depends on a number from outside of the state."""

    def changed(state):
        key = jax.random.fold_in(state.rng_key, number())
        return sample(state._replace(rng_key=key))

    return changed


def salted():
    salt = next(made)
    return Sampler(init, draw_by(lambda: salt), update)


def called_back(state):
    rows, state = sample(state)
    shape = jax.ShapeDtypeStruct((B,), jnp.int32)
    return rows._replace(indices=jax.pure_callback(lambda x: x, shape, rows.indices)), state


table = np.arange(N, dtype=np.int32)[::-1].copy()


def unchecked(state, rows, *, losses):
    known = jnp.isfinite(losses)
    return state._replace(scores=state.scores.at[jnp.where(known, rows.indices[: len(losses)], N)].max(losses))


def plain(init=init, sample=sample, update=update):
    return lambda: Sampler(init, sample, update)


first_as_python_int = plain(init=lambda key, *, scores: init(key, scores=scores)._replace(ignored=0))
BROKEN = [
    ("structure", "state.ignored is a int", first_as_python_int),
    ("structure", "float16", plain(update=with_extra(lambda state, rows, losses: state.extra.astype(jnp.float16)))),
    ("rows", "sum to 2", plain(sample=rows_like(lambda rows: rows._replace(weights=2 * rows.weights)))),
    (
        "rows",
        r"wanted some in \[-1, 40\)",
        plain(sample=rows_like(lambda r: r._replace(indices=r.indices + N))),
    ),
    ("rows", "padding got weight", plain(sample=rows_like(lambda rows: rows._replace(indices=rows.indices * 0 - 1)))),
    ("rows", "have dtype float16", plain(sample=rows_like(lambda r: r._replace(weights=r.weights.astype("float16"))))),
    ("rows", "only padding", plain(sample=rows_like(lambda r: Rows(r.indices * 0 - 1, r.weights * 0)))),
    ("x64", "int64", plain(sample=rows_like(lambda r: r._replace(indices=jnp.argsort(-r.indices)[r.indices % B])))),
    ("pure", "called again, rows", plain(sample=draw_by(lambda: next(made)))),
    (
        "compiles once",
        "traced 2 times",
        plain(
            init=lambda key, *, scores: init(key, scores=scores)._replace(extra=jnp.asarray(0.0)),
            update=with_extra(lambda state, rows, losses: state.extra + jnp.ones((), jnp.float32)),
        ),
    ),
    ("scan", "rows.indices", plain(sample=draw_by(lambda: next(made)))),
    ("restored", "rows.*indices", salted),
    ("vmap", "vmap", plain(sample=called_back)),
    (
        "donation",
        "deleted",
        plain(init=lambda key, *, scores: init(key, scores=scores)._replace(scores=scores)),
    ),
    (
        "constants",
        r"sample has constants of \[40\]",
        plain(sample=rows_like(lambda r: r._replace(indices=jnp.asarray(table)[r.indices]))),
    ),
    ("keys", "draw the same rows", plain(init=lambda key, *, scores: init(3, scores=scores))),
    (
        "keys",
        "ValueError|TypeError",
        plain(
            init=lambda key, *, scores: init(0, scores=scores)._replace(
                rng_key=jax.random.key(jax.random.key_data(key)[0])
            )
        ),
    ),
    (
        "devices, Auto",
        "state.extra",
        plain(update=with_extra(lambda state, rows, losses: state.extra + jnp.sum(losses**7))),
    ),
    (
        "devices, Explicit",
        "Sharding",
        plain(update=lambda state, rows, *, losses: unchecked(state, rows, losses=losses)),
    ),
    (
        "sharded arrays",
        "state.extra",
        plain(init=lambda key, *, scores: init(key, scores=scores)._replace(extra=jnp.sum(scores * jnp.sin(scores)))),
    ),
    ("foreign rows", "rows of -1 with the signals|rows beyond", plain(update=unchecked)),
    (
        "any order",
        "the other way around, extra",
        plain(update=with_extra(lambda state, rows, losses: 0.5 * state.extra + jnp.max(losses))),
    ),
    (
        "signals nan",
        "two rows nan, there is a NaN in .'extra'",
        plain(update=with_extra(lambda state, rows, losses: jnp.max(losses))),
    ),
    ("bad signals", "with losses of 17 rows", plain(update=unchecked)),
    ("lowering", "lowers for TPU", plain(sample=called_back)),
]


@pytest.mark.parametrize(("check", "message", "make"), BROKEN, ids=[f"{row[0]} {row[1]}" for row in BROKEN])
def test_a_sampler_that_breaks_a_law_is_told(check, message, make):
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        SAMPLER_CHECKS[check](SamplerCase(make, N, scores, losses, any_order=True))


def test_every_law_can_be_broken():
    assert {row[0] for row in BROKEN} | {"signals inf", "signals -inf"} == set(SAMPLER_CHECKS)


def test_a_lawful_sampler_passes():
    check_sampler(plain(), N, scores, losses, any_order=True)
