import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import ROWS, Case
from tests.selection import draws


def drawn(rng):
    return draws.predicted(rng) | {"reference_labels": rng.integers(-1, 3, ROWS + 3).astype(np.int32)}


CASES = {"keep_by_class_balance": Case(lambda: selection.keep_by_class_balance(5, key=0), drawn)}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(6))
def test_targets_are_the_most_even_of_all_that_the_pool_allows(seed):
    """Of all shares of 5 labels, those whose totals are the most even: the smallest sum of squares."""
    rng = np.random.default_rng(seed)
    counts, pool = rng.integers(0, 5, 4), rng.integers(0, 4, 4)
    wanted = min(5, pool.sum())
    allowed = [np.array(t) for t in itertools.product(*(range(n + 1) for n in pool)) if sum(t) == wanted]
    best = min(np.sum((counts + t) ** 2) for t in allowed)
    found = np.asarray(selection.class_targets(seed, jnp.asarray(counts), jnp.asarray(pool), 5))
    assert found.sum() == wanted and np.all(found <= pool) and np.sum((counts + found) ** 2) == best


def test_ties_between_classes_are_broken_at_random():
    counts = jnp.zeros(3, jnp.int32)
    found = {tuple(selection.class_targets(key, counts, counts + 1, 1).tolist()) for key in range(20)}
    assert len(found) == 3


@pytest.mark.parametrize("key", [None, 4])
def test_the_best_of_each_class_are_those_of_a_loop(key):
    scores, classes = RNG.normal(size=60).astype(np.float32), RNG.integers(-1, 5, 60)
    scores[[0, 9]], allowed = [np.nan, np.inf], RNG.random(60) < 0.8
    targets = np.array([3, 0, 40, 1])
    found = selection.top_of_classes(
        jnp.asarray(scores), jnp.asarray(classes), jnp.asarray(targets), where=jnp.asarray(allowed), key=key
    )
    expected = np.zeros(60, bool)
    for c, target in enumerate(targets):
        rows = np.flatnonzero(allowed & np.isfinite(scores) & (classes == c))
        expected[sorted(rows, key=lambda i: -scores[i])[:target]] = True
    np.testing.assert_array_equal(found, expected)


def test_ties_within_a_class_are_broken_at_random():
    arguments = jnp.zeros(4), jnp.zeros(4, jnp.int32), jnp.array([1])
    assert selection.top_of_classes(*arguments).tolist() == [True, False, False, False]
    assert len({tuple(selection.top_of_classes(*arguments, key=key).tolist()) for key in range(20)}) > 1


def test_next_labels_go_to_the_class_that_has_few():
    """Two of three classes have labels: the third gets what is predicted to be of it, the rest goes to the second."""
    predicted = np.repeat([0, 1, 2], [20, 10, 3])
    logits = 3 * np.eye(3)[predicted] + RNG.uniform(0, 1, (33, 3))
    labels = jnp.asarray([0] * 9 + [1] * 2 + [-1] * 5)
    tx = selection.keep_by_class_balance(8, key=0)
    weights = jnp.full(33, 0.5).at[32].set(0)
    kept = tx.update(weights, tx.init(weights), logits=jnp.asarray(logits, jnp.float32), reference_labels=labels)[0]
    chosen = np.flatnonzero(kept)
    assert np.bincount(predicted[chosen], minlength=3).tolist() == [0, 6, 2]
    margins = np.diff(np.sort(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)[:, -2:], axis=1)[:, 0]
    second = np.flatnonzero(predicted == 1)
    assert set(chosen[predicted[chosen] == 1]) == set(sorted(second, key=lambda i: margins[i])[:6])
    assert np.all(np.asarray(kept)[chosen] == 0.5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"pool_counts has shape \[2\], wanted \[3\]"):
        selection.class_targets(0, jnp.zeros(3, jnp.int32), jnp.zeros(2, jnp.int32), 1)
    with pytest.raises(ValueError, match="score is 'bald', wanted one of"):
        selection.keep_by_class_balance(1, 0, score="bald")
    with pytest.raises(TypeError, match="classes has dtype float32"):
        selection.top_of_classes(jnp.ones(2), jnp.ones(2), jnp.ones(2, jnp.int32))
    tx = selection.keep_by_class_balance(4, 0)
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), logits=jnp.ones((3, 2)), reference_labels=jnp.array([0]))
