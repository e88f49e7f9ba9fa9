"""A fixed set of triplets against enumeration. The laws are in conformance_test.py."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import fixed_triplets

LABELS = np.array([7, 2, -1, 7, 4, 2, 7, -1], np.int32)  # class 4 has one example, -1 is no class


def draw(sampler, state, steps):
    state, rows = jax.jit(lambda s: jax.lax.scan(lambda s, _: sampler.sample(s)[::-1], s, length=steps))(state)
    return state, np.asarray(rows.indices).reshape(steps, -1, 3)


def test_an_epoch_has_every_triplet_once_and_the_next_another_order():
    sampler = fixed_triplets(10, 4)
    triplets = np.random.default_rng(0).permutation(60)[:30].reshape(10, 3)
    state, batches = draw(sampler, sampler.init(0, triplets=triplets), 15)
    epochs = batches.reshape(5, 12, 3)
    assert state.epoch == 5 and len({epoch.tobytes() for epoch in epochs}) == 5
    for epoch in epochs:
        assert np.all(epoch[10:] == -1) and sorted(epoch[:10].tolist()) == sorted(triplets.tolist())


def test_orders_are_uniform():
    sampler = fixed_triplets(4, 4)
    _, batches = draw(sampler, sampler.init(1, triplets=np.arange(12).reshape(4, 3)), 24_000)
    counts = Counter(map(tuple, (batches[:, :, 0] // 3).tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 60  # 23 degrees of freedom


@pytest.mark.parametrize("compiled", [False, True])
def test_triplets_of_labels_have_the_probabilities_of_the_docstring(compiled):
    init = fixed_triplets(40_000, 1).init
    triplets = np.asarray((jax.jit(init) if compiled else init)(0, labels=jnp.asarray(LABELS)).triplets)
    expected = {}
    for own, others in ((7, (2, 4)), (2, (4, 7))):
        pairs = list(itertools.permutations(np.flatnonzero(own == LABELS).tolist(), 2))
        for pair, other in itertools.product(pairs, others):
            negatives = np.flatnonzero(other == LABELS).tolist()
            for n in negatives:
                expected[(*pair, n)] = 40_000 / 2 / len(pairs) / len(others) / len(negatives)
    counts = Counter(map(tuple, triplets.tolist()))
    assert set(counts) == set(expected)
    chi = sum((counts[t] - wanted) ** 2 / wanted for t, wanted in expected.items())
    assert chi < len(expected) + 6 * (2 * len(expected)) ** 0.5


def test_the_set_stays_and_is_a_copy():
    sampler = fixed_triplets(5, 2)
    state = sampler.init(3, labels=jnp.asarray(LABELS))
    last, batches = draw(sampler, state, 9)
    np.testing.assert_array_equal(last.triplets, state.triplets)
    for epoch in batches.reshape(3, 6, 3):
        assert sorted(epoch[:5].tolist()) == sorted(state.triplets.tolist())
    given = jnp.arange(6).reshape(2, 3)
    jax.jit(fixed_triplets(2, 1).sample, donate_argnums=0)(fixed_triplets(2, 1).init(0, triplets=given))
    assert given.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [-1, -1, -1]])
def test_traced_labels_without_triplets_give_padding(labels):
    sampler = fixed_triplets(4, 2)
    state = jax.jit(lambda labels: sampler.init(0, labels=labels))(jnp.array(labels))
    rows, _ = sampler.sample(state)
    assert rows.indices.tolist() == [-1] * 6 and not np.any(rows.weights)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((4, 5), ValueError, r"triplets_per_batch is 5, wanted at most 4 \(the number of triplets\)"),
        ((0, 1), ValueError, "num_triplets is 0"),
        ((2.0, 1), TypeError, "num_triplets is 2.0, wanted a static Python int"),
    ],
)
def test_bad_sizes_are_named(sizes, error, message):
    with pytest.raises(error, match=message):
        fixed_triplets(*sizes)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({}, ValueError, "neither labels nor triplets are given, wanted one of them"),
        ({"labels": [0, 0, 1], "triplets": [[0, 1, 2]] * 2}, ValueError, "both labels and triplets are given"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels has dtype float32"),
        ({"labels": [[0, 1]]}, ValueError, r"labels has shape \[1, 2\]"),
        ({"labels": [0, 1, 2]}, ValueError, "labels have 3 classes, 0 with two examples, wanted at least 2 classes"),
        ({"labels": [4, 4, -1]}, ValueError, "labels have 1 classes, 1 with two examples"),
        ({"triplets": [[0, 1, 2]] * 3}, ValueError, r"triplets has shape \[3, 3\], wanted \[2, 3\]"),
        ({"triplets": [[0.0, 1.0, 2.0]] * 2}, TypeError, "triplets has dtype float32"),
        ({"triplets": [[0, 1, 2], [0, -2, 1]]}, ValueError, "triplets have the row -2, wanted at least 0"),
    ],
)
def test_bad_arrays_are_named(arrays, error, message):
    with pytest.raises(error, match=message):
        fixed_triplets(2, 1).init(0, **{name: jnp.asarray(value) for name, value in arrays.items()})
