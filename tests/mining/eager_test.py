import functools

import jax.numpy as jnp
import pytest

from minibatch_jax.metrics import recall_at_k, retrieval_scores
from minibatch_jax.mining import angular_loss, blockwise_losses, supcon_loss, triplet_loss
from tests.eager import call_of, check_second_call, each_function


@each_function("mining")
def test_the_second_call_of_a_function_compiles_nothing(function):
    check_second_call(call_of(function))


ROWS, LABELS = jnp.array([[0.0, 1.0], [0.5, 1.0], [2.0, 0.0], [3.0, 3.0]]), jnp.array([0, 0, 1, 1])
SAME = LABELS[:, None] == LABELS[None]
PAIRS = ROWS @ ROWS.T, SAME & ~jnp.eye(4, dtype=bool), ~SAME


def losses(*pairs):
    return supcon_loss(*pairs, reduction="anchors")


CALLS = [
    functools.partial(angular_loss, *PAIRS, angle=1.55),
    functools.partial(triplet_loss, *PAIRS, mining="semihard", fallback="hardest"),
    functools.partial(triplet_loss, *PAIRS, mining="nearest_semihard", smooth=True),
    functools.partial(blockwise_losses, losses, ROWS, LABELS, block_size=2),
    lambda: blockwise_losses(functools.partial(supcon_loss, reduction="anchors"), ROWS, LABELS, block_size=2),
    functools.partial(recall_at_k, ROWS, LABELS, block_size=3),
    functools.partial(retrieval_scores, ROWS, LABELS, max_positives=2, block_size=3),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_option_compiles_at_a_second_call(call):
    check_second_call(call)
