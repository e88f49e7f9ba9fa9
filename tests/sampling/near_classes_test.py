"""Batches of neighboring classes against a walk in NumPy, and against enumeration."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import Rows, by_proxies

CLASSES, PER_CLASS = 12, 5
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), PER_CLASS)).astype(np.int32)
GROUP = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 3))  # of each class: three look alike
NEAR = np.eye(4, dtype=np.float32)[GROUP] + 0.1 * np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)


def epochs(sampler, state, batches, number, class_embeddings=NEAR, labels=LABELS):
    """The rows `[epochs, batches, P K]` that the sampler draws while it is fed embeddings of the classes."""
    embeddings = jnp.asarray(class_embeddings)[jnp.asarray(labels)]

    def step(state, _):
        rows, state = sampler.sample(state)
        return sampler.update(state, rows, embeddings=embeddings[rows.indices]), (rows.indices, state.partition)

    state, (rows, partitions) = jax.jit(lambda s: jax.lax.scan(step, s, None, length=batches * number))(state)
    return state, np.asarray(rows).reshape(number, batches, -1), np.asarray(partitions)[::batches]


def walked(key, vectors, seen, given, size):
    """The published walk with the random numbers of `partition_by_proxies`: a class, its neighbors that remain."""
    seed_key, unseen_key, _ = jax.random.split(key, 3)
    priority, filler = (np.asarray(jax.random.uniform(k, (len(seen),))) for k in (seed_key, unseen_key))
    remaining, batches = set(np.flatnonzero(given)), []
    for _ in range(len(remaining) // size):
        first = max(remaining, key=lambda c: priority[c])
        remaining.discard(first)

        def score(c, first=first):
            return vectors[c] @ vectors[first] if seen[c] and seen[first] else filler[c] - 3

        rest = sorted(remaining, key=score, reverse=True)[: size - 1]
        remaining -= set(rest)
        batches.append([first, *rest])
    return batches + [[-1] * size] * (len(seen) // size - len(batches))


@pytest.mark.parametrize("size", [1, 4])
def test_a_later_epoch_is_the_published_walk_over_the_given_classes(size):
    rng = np.random.default_rng(size)
    vectors = rng.normal(size=(CLASSES, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sampler = by_proxies(CLASSES, size, 2, 3)
    sample = jax.jit(sampler.sample)
    for seed in range(4):
        given, seen = (rng.permutation(CLASSES) < n for n in (9, 10))
        state = sampler.init(seed, labels=jnp.asarray(LABELS), classes=jnp.asarray(given))
        proxies = state.proxies._replace(
            embeddings=jnp.where(jnp.asarray(seen)[:, None], vectors, 0), seen=jnp.asarray(seen)
        )
        state = state._replace(proxies=proxies, epoch=jnp.int32(1))
        _, after = sample(state)
        assert after.partition.tolist() == walked(jax.random.split(state.rng_key, 3)[2], vectors, seen, given, size)


@pytest.mark.parametrize(("given", "left_out"), [(np.arange(12) >= 0, 0), (np.arange(12) % 6 > 0, 1)])
def test_an_epoch_has_every_given_class_once_with_different_examples(given, left_out):
    sampler = by_proxies(CLASSES, 3, 4, 4)
    batches = given.sum() // 3
    state, rows, _ = epochs(
        sampler, sampler.init(0, labels=jnp.asarray(LABELS), classes=jnp.asarray(given)), batches, 6
    )
    for epoch in rows.reshape(6, -1, 4):
        drawn = LABELS[epoch]
        np.testing.assert_array_equal(drawn, drawn[:, :1].repeat(4, axis=1))
        assert len(set(drawn[:, 0])) == given.sum() - left_out and given[drawn[:, 0]].all()
        assert all(len(set(group)) == 4 for group in epoch)
    assert int(state.epoch) == 6 and int(state.ignored) == 0


def test_batches_look_alike_from_the_second_epoch_on():
    sampler = by_proxies(CLASSES, 3, 2, 4)
    for seed in range(3):
        _, rows, _ = epochs(sampler, sampler.init(seed, labels=jnp.asarray(LABELS)), 4, 3)
        groups = GROUP[LABELS[rows]]
        alike = [[len(set(batch)) == 1 for batch in epoch] for epoch in groups]
        assert not all(alike[0]) and all(alike[1]) and all(alike[2])


def test_an_infinite_temperature_draws_random_batches():
    sampler = by_proxies(CLASSES, 3, 2, 4, temperature=np.inf)
    state = sampler.init(0, labels=jnp.asarray(LABELS))
    for found, other in zip(epochs(sampler, state, 4, 3)[2], epochs(sampler, state, 4, 3, -NEAR[::-1])[2]):
        np.testing.assert_array_equal(found, other)


def test_classes_never_fed_back_fill_batches():
    sampler = by_proxies(CLASSES, 3, 1, 4)
    state = sampler.init(0, labels=jnp.asarray(LABELS))
    some = np.arange(CLASSES) < 6  # the others have embeddings that are not finite
    state, rows, partitions = epochs(sampler, state, 4, 5, np.where(some[:, None], NEAR, np.nan))
    np.testing.assert_array_equal(state.proxies.seen, some)
    np.testing.assert_array_equal(np.sort(LABELS[rows].reshape(5, -1)), np.tile(np.arange(12), (5, 1)))
    assert int(state.ignored) == 5 * 6
    for batches in partitions[1:]:
        assert all(some[batch].all() for batch in batches[:2] if some[batch[0]])


def test_first_epochs_are_uniform_over_the_given_classes():
    sampler = by_proxies(6, 2, 1, 1)
    given = jnp.array([True, False, True, True, False, True])
    keys = jax.random.split(jax.random.key(0), 24_000)
    labels = jnp.arange(6)
    found = jax.jit(jax.vmap(lambda k: sampler.init(k, labels=labels, classes=given).partition))(keys)
    counts = Counter(map(tuple, np.asarray(found).reshape(-1, 6).tolist()))
    assert set(counts) == {(*order, -1, -1) for order in itertools.permutations([0, 2, 3, 5])}
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 60  # 23 degrees of freedom


def test_classes_left_out_change_and_are_uniform():
    sampler = by_proxies(5, 2, 1, 4, temperature=np.inf)
    _, rows, _ = epochs(sampler, sampler.init(0, labels=jnp.arange(5)), 2, 5000, labels=np.arange(5))
    drawn = rows.reshape(5000, 4)
    left_out = [10 - epoch.sum() for epoch in drawn]
    counts = np.bincount(left_out, minlength=5)
    assert len(counts) == 5 and sum((n - 1000) ** 2 / 1000 for n in counts) < 20  # 4 degrees of freedom


def test_places_in_a_class_are_uniform():
    sampler = by_proxies(1, 1, 3, 1)
    _, rows, _ = epochs(
        sampler, sampler.init(2, labels=jnp.zeros(4, jnp.int32)), 1, 24_000, np.ones((1, 1)), np.zeros(4, int)
    )
    counts = Counter(map(tuple, rows.reshape(-1, 3).tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 3))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 60


def test_feedback_is_of_the_rows_named_late_and_in_any_order_and_others_are_ignored():
    sampler = by_proxies(3, 2, 2, 2, decay=0.25)
    labels = jnp.array([2, 0, 1, 0, 2, 7])  # the last row is of no class
    state = sampler.init(0, labels=labels)
    embeddings = jnp.array([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0], [5.0, 5.0]])
    state = sampler.update(state, Rows(jnp.array([4, 3, 1, -1]), jnp.array([1, 1, 1, 0]) / 3), embeddings=embeddings)
    np.testing.assert_allclose(state.proxies.embeddings, [[0, 1], [0, 0], [1, 0]], atol=1e-6)
    assert state.proxies.seen.tolist() == [True, False, True] and int(state.ignored) == 0
    strangers = Rows(jnp.array([5, 6, -1, 0]), jnp.full(4, 0.25))
    state = sampler.update(state, strangers, embeddings=embeddings.at[3].set(jnp.nan))
    np.testing.assert_allclose(state.proxies.embeddings, [[0, 1], [0, 0], [1, 0]], atol=1e-6)
    assert int(state.ignored) == 4
    state = sampler.update(state, Rows(jnp.array([1, 3, -1, -1]), jnp.zeros(4)), embeddings=embeddings[:, ::-1])
    wanted = np.array([0.75 * 3 / 13**0.5, 0.25 + 0.75 * 2 / 13**0.5])  # mean of (0, 2) and (3, 0)
    np.testing.assert_allclose(state.proxies.embeddings[0], wanted / np.linalg.norm(wanted), rtol=1e-5)


def test_traced_labels_with_too_few_classes_give_padding():
    sampler = by_proxies(4, 3, 2, 1)

    @jax.jit
    def two_epochs(labels):
        first, state = sampler.sample(sampler.init(0, labels=labels))
        second, state = sampler.sample(state)
        return first, second, state.epoch

    labels = jnp.array([3, 1, 1, 3, 9, 1])
    *drawn, epoch = two_epochs(labels)
    for rows in drawn:
        assert sorted(map(tuple, np.asarray(labels)[rows.indices[:4].reshape(2, 2)])) == [(1, 1), (3, 3)]
        assert rows.indices[4:].tolist() == [-1, -1] and rows.weights.tolist() == [0.25] * 4 + [0, 0]
    assert int(epoch) == 2
    nothing, _, _ = two_epochs(-1 - 0 * labels)
    assert nothing.indices.tolist() == [-1] * 6 and nothing.weights.tolist() == [0] * 6


def start(labels=None, **options):
    return by_proxies(3, 2, 1, 2).init(0, labels=jnp.array([0, 1, 2]) if labels is None else labels, **options)


def fed(embeddings):
    sampler = by_proxies(3, 2, 1, 2)
    rows, state = sampler.sample(start())
    return sampler.update(state, rows, embeddings=embeddings)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: by_proxies(3, 4, 1, 2), ValueError, r"classes_per_batch is 4, wanted at most 3 \(the number of cl"),
        (lambda: by_proxies(0, 1, 1, 2), ValueError, "num_classes is 0"),
        (lambda: by_proxies(3, 2, 0, 2), ValueError, "per_class is 0"),
        (lambda: by_proxies(3, 2, 1, 0), ValueError, "dimension is 0"),
        (lambda: by_proxies(3, 2, 1, 2.0), TypeError, r"dimension is 2\.0, wanted a static Python int"),
        (lambda: by_proxies(3, 2, 1, 2, temperature=-1), ValueError, "temperature is -1"),
        (lambda: by_proxies(3, 2, 1, 2, decay=1.5), ValueError, r"decay is 1\.5"),
        (lambda: start(jnp.array([0, 2])), ValueError, r"no example of the classes \[1\]"),
        (lambda: start(jnp.zeros(0, int)), ValueError, r"labels has shape \[0\]"),
        (lambda: start(jnp.ones(3)), TypeError, "labels has dtype float32"),
        (lambda: start(classes=jnp.ones(3)), TypeError, "classes has dtype float32, wanted bool"),
        (lambda: start(classes=jnp.ones(2, bool)), ValueError, r"classes has shape \[2\], wanted \[3\]"),
        (lambda: start(classes=jnp.arange(3) < 1), ValueError, r"classes has 1 True, wanted at least 2 \(classes_per"),
        (lambda: fed(jnp.ones((2, 3))), ValueError, r"embeddings has shape \[2, 3\], wanted \[2, 2\]"),
        (lambda: fed(jnp.ones((2, 2), jnp.int32)), TypeError, "embeddings has dtype int32"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_classes_not_given_need_no_example():
    state = start(jnp.array([0, 2]), classes=jnp.array([True, False, True]))
    assert sorted(state.partition[0].tolist()) == [0, 2]
