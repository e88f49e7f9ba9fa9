"""The loop of labeling against one written out, killed at every operation, and with oracles that answer badly."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax.pool import label_in_rounds
from minibatch_jax.selection import keep_random, keep_uncertain, stop_after, stop_by_changes

N, C = 40, 3
X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
TRUTH = np.argmax(X @ np.array([[1.0, 0, -1], [0, 1, -1]]), axis=1)
CHAIN = optax.chain(keep_random(20, key=5), keep_uncertain(3, key=0))
MASKED = optax.GradientTransformationExtraArgs(jax.jit(CHAIN.init), jax.jit(CHAIN.update))
OPTIONS = {"num_classes": C, "num_rounds": 4, "num_first": 6, "seed": 2, "progress": False}


class Killed(BaseException):
    pass


def signals(labels, number):
    """Logits by the nearest mean of a class."""
    means = np.stack([X[labels == c].mean(0) if np.any(labels == c) else np.full(2, 9.0) for c in range(C)])
    return {"logits": jnp.asarray(-np.sum((X[:, None] - means) ** 2, axis=2), jnp.float32)}


def answers(rows):
    return TRUTH[rows]


def label(fit=signals, ask=answers, strategy=MASKED, size=N, **options):
    return label_in_rounds(fit, strategy, ask, size, **(OPTIONS | options))


def test_rounds_are_those_of_a_loop():
    """6 rows at random; then, of 20 random ones without a label, the 3 with the smallest margins, by numpy."""
    found = label()
    labels, rounds = np.full(N, -1), np.full(N, -1)
    first = np.random.default_rng(2).choice(N, 6, replace=False)
    labels[first], rounds[first] = TRUTH[first], 0
    random = keep_random(20, key=5)
    state = random.init(jnp.ones(N))
    for number in range(1, 5):
        logits = np.asarray(signals(labels, number)["logits"], float)
        p = np.exp(logits - logits.max(1, keepdims=True))
        two = np.sort(p / p.sum(1, keepdims=True), axis=1)[:, -2:]
        weights, state = random.update(jnp.asarray(labels < 0, jnp.float32), state)
        best = sorted(np.flatnonzero(weights), key=lambda i: two[i, 1] - two[i, 0])[:3]
        labels[best], rounds[best] = TRUTH[best], number
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.rounds, rounds)
    assert not found.stopped


class Kill:
    """Call functions and die before the n-th call of all."""

    def __init__(self, left):
        self.left = left

    def around(self, function):
        def called(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise Killed
            return function(*args, **kwargs)

        return called


def test_killed_at_any_moment_it_goes_on_to_the_same_labels(tmp_path):
    """Before each operation on disk and each callback; answers that are saved are not asked for again."""
    asked_of_all = []
    expected = label(ask=lambda rows: asked_of_all.append(tuple(rows)) or TRUTH[rows], num_rounds=2)
    moment, finished = 0, False
    while not finished:
        moment += 1
        kill, folder, asked = Kill(moment), tmp_path / str(moment), []

        def answered(rows, asked=asked):
            asked.append(tuple(rows))
            return TRUTH[rows]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", kill.around(os.replace))
            patch.setattr(np, "savez", kill.around(np.savez))
            patch.setattr(Path, "unlink", kill.around(Path.unlink))
            try:
                label(kill.around(signals), kill.around(answered), num_rounds=2, state_folder=folder)
                finished = True
            except Killed:
                pass
        found = label(ask=answered, num_rounds=2, state_folder=folder)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.rounds, expected.rounds)
        assert list(dict.fromkeys(asked)) == asked_of_all and len(asked) <= len(asked_of_all) + 1
    assert moment > 15


def test_rows_that_were_chosen_are_asked_for_again_without_a_training(tmp_path):
    trained, seen = [], []

    def leaves(rows):
        seen.append(rows)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return TRUTH[rows]

    def counted(labels, number):
        trained.append(number)
        return signals(labels, number)

    with pytest.raises(KeyboardInterrupt):
        label(counted, leaves, state_folder=tmp_path)
    found = label(counted, leaves, state_folder=tmp_path)
    assert trained == [1, 2, 3, 4] and len(seen) == 6
    np.testing.assert_array_equal(seen[2], seen[3])
    np.testing.assert_array_equal(found.rounds, label().rounds)


def test_a_finished_call_returns_at_once_and_goes_on_with_more_rounds(tmp_path):
    def nobody(*_):
        raise AssertionError("asked again")

    first = label(num_rounds=2, state_folder=tmp_path)
    again = label(nobody, nobody, num_rounds=2, state_folder=tmp_path)
    np.testing.assert_array_equal(first.rounds, again.rounds)
    np.testing.assert_array_equal(label(state_folder=tmp_path).rounds, label().rounds)
    with pytest.raises(ValueError, match=r"holds another call, .*'seed': \(2, 3\)"):
        label(seed=3, state_folder=tmp_path)
    with pytest.raises(ValueError, match="holds another call, .*digest of the labels"):
        label(labels=np.where(np.arange(N) == 3, 1, -1), state_folder=tmp_path)
    saved = r"\{'stopping rule': \('none, or one without a state', 'one with a state of .*int32\[40\]"
    with pytest.raises(ValueError, match=saved):
        label(stop=stop_by_changes(), state_folder=tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopping_rule_ends_the_rounds_also_after_a_kill(killed, tmp_path):
    if killed:
        with pytest.raises(Killed):
            label(Kill(3).around(signals), stop=stop_after(3), state_folder=tmp_path)
    found = label(stop=stop_after(3), state_folder=tmp_path)
    assert found.stopped and found.rounds.max() == 2
    assert not label(stop=stop_by_changes(threshold=0.0), num_rounds=1).stopped


def test_labels_that_are_known_start_the_rounds_without_random_rows():
    known = np.where(np.arange(N) < 9, TRUTH, -1)
    found = label(labels=known, num_first=0, num_rounds=1)
    assert np.all(found.rounds[:9] == 0) and np.sum(found.rounds == 1) == 3 and np.sum(found.rounds < 0) == N - 12


SAME = np.where(np.arange(N) < 5, 1, -1)
BAD = {
    "no row left": (lambda: label(num_first=N - 4), r"labels has a class for all 40 rows before round 3 of 4"),
    "one class": (
        lambda: label(labels=SAME, num_first=0),
        r"labels has the class 1 alone \(5 rows\) before round 1, wanted two classes",
    ),
    "one class to know": (lambda: label(num_classes=1), "num_classes is 1, wanted at least 2"),
    "too few answers": (
        lambda: label(ask=lambda rows: TRUTH[rows][1:]),
        r"ask returned labels of shape \[5\], wanted \[6\]",
    ),
    "an answer out of range": (
        lambda: label(ask=lambda rows: rows * 0 + 3),
        r"ask returned the label 3 for row \d+, wanted one in \[0, 3\)",
    ),
    "a known label out of range": (
        lambda: label(labels=np.arange(N)),
        r"labels has the class 3 for row 3, wanted classes in \[0, 3\)",
    ),
    "scores that are not finite": (
        lambda: label(lambda labels, number: {"logits": jnp.full((N, C), jnp.nan)}),
        "strategy kept none of the 34 rows without a label in round 1",
    ),
    "no logits for the rule": (
        lambda: label(lambda labels, number: {}, stop=stop_after(1)),
        r"fit returned the signals \[\], wanted logits among them",
    ),
}


@pytest.mark.parametrize("call,message", BAD.values(), ids=BAD)
def test_what_cannot_be_labeled_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_types_are_named():
    with pytest.raises(TypeError, match="ask returned labels of dtype float64, wanted integers"):
        label(ask=lambda rows: TRUTH[rows] + 0.5)
    with pytest.raises(TypeError, match="fit returned a list, wanted a dict of signals"):
        label(lambda labels, number: [1])
    with pytest.raises(TypeError, match="transformation is keep_random, wanted what a factory returns"):
        label(strategy=keep_random)
