"""Batches of groups of classes against enumeration. The laws are in conformance_test.py."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import by_hierarchy, hierarchies

GROUP_OF = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3], np.int32)  # of each class: groups of 3, 2, 4 and 1 classes
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [1, 2, 3, 4, 2, 3, 5, 2, 4, 3])).astype(np.int32)
GROUPS = GROUP_OF[LABELS]
SIZES = {"groups_per_batch": 2, "classes_per_group": 2, "per_class": 2}


def draw(sampler, steps, labels: np.ndarray = LABELS, groups: np.ndarray = GROUPS, seed=0):
    @jax.jit
    def run(labels, groups):
        state = sampler.init(seed, labels=labels, groups=groups)
        return jax.lax.scan(lambda s, _: sampler.sample(s)[::-1], state, length=steps)

    state, rows = run(labels, groups)
    return state, np.asarray(rows.indices)


def check_batch(batch, per_group, per_class):
    """Check a batch `[g P K]` without missing groups, and return its groups."""
    found = []
    for group_rows in batch.reshape(-1, per_group, per_class):
        assert group_rows[0, 0] >= 0
        group, seen = GROUPS[group_rows[0, 0]], []
        for rows in group_rows:
            if rows[0] < 0:
                assert np.all(rows == -1)
                continue
            label = LABELS[rows[0]]
            seen.append(int(label))
            assert np.all(LABELS[rows] == label) and GROUP_OF[label] == group
            assert len(set(rows.tolist())) == per_class or np.sum(label == LABELS) < per_class
        assert len(set(seen)) == len(seen) == min(per_group, np.sum(group == GROUP_OF))
        found.append(int(group))
    return tuple(sorted(found))


@pytest.mark.parametrize(("count", "repeats"), [(1, 2), (2, 1), (3, 3), (4, 1)])
def test_an_epoch_has_every_combination_of_groups_as_often_as_is_asked_for(count, repeats):
    sizes = {"groups_per_batch": count, "classes_per_group": 2, "per_class": 2}
    sampler = by_hierarchy(10, 4, **sizes, batches_per_combination=repeats)
    wanted = Counter(dict.fromkeys(itertools.combinations(range(4), count), repeats))
    steps = sum(wanted.values())
    state, batches = draw(sampler, 5 * steps)
    orders = set()
    for epoch in batches.reshape(5, steps, -1):
        order = tuple(check_batch(batch, 2, 2) for batch in epoch)
        assert Counter(order) == wanted
        orders.add(order)
    assert len(orders) > (2 if count < 4 else 0) and state.epoch == 5 and state.position == 0


def test_an_epoch_may_have_every_group_once():
    sampler = by_hierarchy(10, 4, groups_per_batch=3, classes_per_group=2, per_class=2, batches_per_combination=None)
    state, batches = draw(sampler, 40)
    assert state.epoch == 20
    pairs = set()
    for epoch in batches.reshape(20, 24):
        full = epoch.reshape(6, 4)
        assert np.all(full[4:] == -1)
        check_batch(full[:4].reshape(-1), 2, 2)
        assert sorted(int(GROUPS[rows[0]]) for rows in full[:4]) == [0, 1, 2, 3]
        pairs.add(int(GROUPS[full[3, 0]]))
    assert pairs == {0, 1, 2, 3}  # which group is in the last batch differs


def test_orders_of_combinations_are_uniform():
    sampler = by_hierarchy(3, 3, groups_per_batch=2, classes_per_group=1, per_class=1)
    labels = np.arange(3)
    _, batches = draw(sampler, 3 * 6000, labels, labels, seed=1)
    counts = Counter(tuple(3 - sum(batch) for batch in epoch) for epoch in batches.reshape(-1, 3, 2).tolist())
    assert set(counts) == set(itertools.permutations(range(3)))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 25  # 5 degrees of freedom


def test_classes_and_examples_are_uniform():
    sampler = by_hierarchy(4, 1, groups_per_batch=1, classes_per_group=2, per_class=2)
    labels = np.repeat(np.arange(4), 3)
    _, batches = draw(sampler, 12_000, labels, np.zeros(12, np.int32), seed=2)
    counts = Counter(map(tuple, labels[batches[:, ::2]].tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 2))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 35  # 11 degrees of freedom
    counts = Counter(tuple(row) for row in batches[batches[:, 0] < 3][:, :2].tolist())
    assert set(counts) == set(itertools.permutations(range(3), 2))
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 30  # 5 degrees of freedom


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (7, 4), (40, 39), (300, 2)])
def test_combinations_are_numbered_without_gaps_and_those_of_fewer_groups_come_first(groups, count):
    table = hierarchies._binomials(groups, count)
    total = math.comb(groups, count)
    found = jax.jit(jax.vmap(lambda n: hierarchies._combination(n, table)))(jnp.arange(total, dtype=jnp.int32))
    expected = sorted(c[::-1] for c in itertools.combinations(range(groups), count))
    assert list(map(tuple, found.tolist())) == expected


@pytest.mark.parametrize(("present", "repeats"), [(0, 1), (0, None), (1, 1), (3, 1), (3, None)])
def test_groups_and_classes_without_examples_of_traced_labels_are_left_out(present, repeats):
    sampler = by_hierarchy(8, 4, **SIZES, batches_per_combination=repeats)
    labels = np.repeat(np.arange(8), 2)
    labels = np.where((labels // 2 < present) & (labels != 1), labels, -1)
    _, batches = draw(sampler, 6, labels, np.repeat(np.arange(4), 4))
    drawn = set(labels[batches[batches >= 0]].tolist())
    assert drawn == set(labels[labels >= 0].tolist())
    groups = [len({int(labels[r]) // 2 for r in batch if r >= 0}) for batch in batches]
    assert groups == {0: [0] * 6, 1: [1] * 6, 3: [2] * 6 if repeats else [2, 1] * 3}[present]


ARRAYS = {"labels": jnp.arange(4), "groups": jnp.array([0, 0, 1, 1])}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups_per_batch": 3}, ValueError, r"groups_per_batch is 3, wanted at most 2 \(the number of groups\)"),
        ({"num_groups": 0}, ValueError, "num_groups is 0, wanted at least 1"),
        ({"num_classes": jnp.int32(4)}, TypeError, "num_classes is .*, wanted a static Python int"),
        ({"classes_per_group": 0}, ValueError, "classes_per_group is 0"),
        ({"per_class": 1.0}, TypeError, "per_class is 1.0"),
        ({"batches_per_combination": 0}, ValueError, "batches_per_combination is 0"),
        (
            {"num_groups": 100, "groups_per_batch": 8},
            ValueError,
            "an epoch has 186087894300 batches, wanted at most 2147483647: batches_per_combination=None",
        ),
        ({"groups": jnp.zeros(3, jnp.int32)}, ValueError, r"groups has shape \[3\], wanted \[4\]"),
        ({"groups": jnp.zeros(4)}, TypeError, "groups has dtype float32"),
        ({"groups": jnp.zeros(4, jnp.int32)}, ValueError, r"groups have no example of \[1\]"),
        ({"labels": jnp.array([0, 1, 2, 2])}, ValueError, r"labels have no example of the classes \[3\]"),
        (
            {"num_classes": 2, "labels": jnp.array([0, 1, 1, 1])},
            ValueError,
            r"labels have the classes \[1\] in several groups, wanted one group for each class",
        ),
        ({"labels": jnp.ones(4)}, TypeError, "labels has dtype float32"),
    ],
)
def test_bad_input_is_named(change, error, message):
    options = {"num_classes": 4, "num_groups": 2, **SIZES} | {k: v for k, v in change.items() if k not in ARRAYS}
    with pytest.raises(error, match=message):
        by_hierarchy(**options).init(0, **ARRAYS | {k: v for k, v in change.items() if k in ARRAYS})
