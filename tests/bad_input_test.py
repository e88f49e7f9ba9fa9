"""Bad input that is known at trace time raises at once: the argument, what came, what is wanted."""

import jax.numpy as jnp
import pytest

import minibatch_jax
from minibatch_jax import (
    coupling,
    mining,
    mixing,
    sampling,
    selection,
    take,
    uniform_like,
    value_and_grad,
    weighted_aggregate,
)

ONES = jnp.ones(4)
SQUARE = jnp.ones((4, 4))


def update(tx, weights=ONES, **signals):
    return tx.update(weights, tx.init(weights), **signals)


BAD = {
    "no items": (lambda: uniform_like(jnp.zeros(0)), ValueError, r"losses has shape \[0\], wanted \[any size > 0\]"),
    "no scores": (lambda: selection.topk_mask(jnp.zeros(0), 1), ValueError, r"scores has shape \[0\]"),
    "k = 0": (lambda: selection.keep_topk(0), ValueError, "k is 0, wanted at least 1"),
    "k > B": (lambda: update(selection.keep_topk(5), losses=ONES), ValueError, "k is 5, wanted at most 4"),
    "k > B, jest": (
        lambda: update(selection.keep_by_jest(8, 2, 0), pair_losses=SQUARE, reference_pair_losses=SQUARE),
        ValueError,
        "k is 8, wanted at most 4",
    ),
    "k is a float": (lambda: selection.keep_bottomk(2.0), TypeError, "k is 2.0, wanted a static Python int"),
    "k > B, take": (lambda: take(ONES, ONES, 5), ValueError, "k is 5, wanted at most 4"),
    "leading axes": (
        lambda: take({"x": jnp.ones(3)}, ONES, 2),
        ValueError,
        r"batch\['x'\] has shape \[3\], wanted 4 rows",
    ),
    "losses and weights": (
        lambda: update(selection.keep_topk(2), losses=jnp.ones(3)),
        ValueError,
        r"losses has shape \[3\], wanted \[4\]",
    ),
    "gradients and batch": (
        lambda: weighted_aggregate(selection.keep_topk(2), 4).update(jnp.ones((3, 2)), None, losses=ONES),
        ValueError,
        r"updates has shape \[3, 2\], wanted 4 rows",
    ),
    "integer losses": (
        lambda: update(selection.keep_topk(2), losses=jnp.arange(4)),
        TypeError,
        "losses has dtype int32, wanted a floating-point dtype",
    ),
    "integer losses, gradient": (
        lambda: value_and_grad(lambda p, b: b, selection.keep_topk(2))(1.0, jnp.arange(4), None),
        TypeError,
        "losses has dtype int32, wanted a floating-point dtype",
    ),
    "a list for an array": (
        lambda: mixing.sample_mixtures(0, [0.5, 0.5], 4),
        TypeError,
        r"prior is a list, wanted an array: jnp.asarray\(prior\)",
    ),
    "domains are floats": (
        lambda: sampling.mixture(2, 2, jnp.ones(2) / 2).init(0, domains=ONES),
        TypeError,
        "domains has dtype float32, wanted an integer dtype",
    ),
    "negative epsilon": (lambda: coupling.couple_sinkhorn(-0.1), ValueError, "epsilon is -0.1, wanted a number in"),
    "masses": (
        lambda: coupling.sinkhorn(SQUARE, ONES / 4, ONES / 2, epsilon=0.1),
        ValueError,
        "a has mass 1.0 and b has mass 2.0, wanted equal masses",
    ),
    "cost rank": (lambda: coupling.assignment(ONES), ValueError, r"cost has shape \[4\]"),
    "plan rank": (lambda: minibatch_jax.sample_pairs(0, ONES), ValueError, r"plan has shape \[4\]"),
    "labels rank": (
        lambda: mining.positive_mask(jnp.zeros((4, 1), jnp.int32)),
        ValueError,
        r"labels has shape \[4, 1\]",
    ),
    "one-hot labels": (
        lambda: mining.positive_mask(jnp.ones(4)),
        TypeError,
        "labels has dtype float32, wanted an integer",
    ),
    "label count": (
        lambda: update(mining.mine_hard(), SQUARE, distances=SQUARE, labels=jnp.zeros(3, jnp.int32)),
        ValueError,
        r"labels has shape \[3\]",
    ),
    "no key": (
        lambda: selection.keep_by_jest(2, 1, jnp.zeros(2)),
        TypeError,
        "key has dtype float32, wanted an int seed, a key from jax.random.key or from PRNGKey",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
