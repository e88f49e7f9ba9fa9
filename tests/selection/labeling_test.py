import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import keep_random


def added_by_a_loop(labels, indices, answers, num_classes):
    """The labels after a round, and how many answers were refused."""
    found, answered = list(labels), {}
    for i, answer in zip(indices, answers):
        if 0 <= i < len(labels) and 0 <= answer < num_classes:
            answered.setdefault(i, set()).add(answer)
    for i, classes in answered.items():
        if len(classes) == 1 and labels[i] == -1:
            found[i] = classes.pop()
    real = [(i, a) for i, a in zip(indices, answers) if i != len(labels)]
    taken = [0 <= i < len(labels) and 0 <= a < num_classes and found[i] == a for i, a in real]
    return found, taken.count(False)


def test_answers_are_taken_or_counted_as_refused():
    add = jax.jit(selection.add_labels, static_argnames="num_classes")
    rng, state = np.random.default_rng(0), selection.start_labeling(jnp.array([2, -1, -5, -1, 0, -1, -1, -1]))
    labels, rounds, refused = [2, -1, -1, -1, 0, -1, -1, -1], [0, -1, -1, -1, 0, -1, -1, -1], 0
    for number in range(1, 9):
        indices, answers = rng.integers(-1, 10, 3), rng.integers(-1, 4, 3)
        state = add(state, jnp.asarray(indices), jnp.asarray(answers), num_classes=3)
        before = labels
        labels, more = added_by_a_loop(labels, indices.tolist(), answers.tolist(), 3)
        rounds = [number if old == -1 and new >= 0 else r for old, new, r in zip(before, labels, rounds)]
        refused += more
        assert state.labels.tolist() == labels and state.rounds.tolist() == rounds
        assert int(state.refused) == refused and int(state.round) == number
    assert refused > 3 and labels.count(-1) < 5


def test_a_simulation_runs_inside_a_scan():
    """Rounds of 3 random rows of 10, until none is left."""
    truth = jnp.asarray(np.random.default_rng(0).integers(0, 2, 10))
    tx = keep_random(3, key=0)

    def one_round(carry, _):
        state, choice = carry
        kept, choice = tx.update(selection.unlabeled_weights(state), choice)
        rows = selection.kept_rows(kept, 3)
        state = selection.add_labels(state, rows, truth[jnp.minimum(rows, 9)], num_classes=2)
        return (state, choice), rows

    state = selection.start_labeling(jnp.full(10, -1))
    (state, _), rows = jax.lax.scan(one_round, (state, tx.init(jnp.ones(10))), length=5)
    assert sorted(rows.ravel().tolist()) == [*range(10), 10, 10, 10, 10, 10]
    np.testing.assert_array_equal(state.labels, truth)
    assert np.bincount(state.rounds).tolist() == [0, 3, 3, 3, 1] and int(state.refused) == 0


BAD = {
    "too few labels": ([1, 2], [0], r"labels has shape \[1\], wanted \[2\]"),
    "no such row": ([7], [0], r"indices has the row 7, wanted rows in \[0, 3\)"),
    "no such class": ([1], [4], r"labels has the class 4 for row 1, wanted classes in \[0, 4\)"),
    "a label that changes": ([0], [2], "labels has the class 2 for row 0, wanted 3, the label that it has"),
    "two labels at once": ([1, 1], [2, 0], "labels has the class 0 for row 1, wanted 2"),
}


@pytest.mark.parametrize("indices,labels,message", BAD.values(), ids=BAD)
def test_bad_labels_are_named(indices, labels, message):
    state = selection.start_labeling(jnp.array([3, -1, -1]))
    with pytest.raises(ValueError, match=message):
        selection.add_labels(state, jnp.array(indices), jnp.array(labels), num_classes=4)
