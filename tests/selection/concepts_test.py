import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_concept_balance": Case(lambda: selection.keep_by_concept_balance(6, 5), draws.concepts),
    "keep_by_concept_count": Case(lambda: selection.keep_by_concept_count(6), draws.concepts),
}


B, V, WIDTH = 40, 8, 4


def draw(seed, singletons=False):
    """Padded ids with a long tail; about one example in ten has none."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, V + 1)
    ids = rng.choice(V, (B, WIDTH), p=p / p.sum())
    sizes = np.ones(B, int) if singletons else rng.integers(0, WIDTH + 1, B)
    return np.where(np.arange(WIDTH) < sizes[:, None], ids, -1).astype(np.int32)


def targets_by_loop(frequencies, k, cap):
    present = [c for c in range(len(frequencies)) if frequencies[c] > 0]
    base = min(k // len(present), cap)
    targets = {c: base + (1 if r < k % len(present) and base < cap else 0) for r, c in enumerate(present)}
    targets = {c: max(min(t, cap), 1) for c, t in targets.items()}
    total = sum(targets.values())
    if total > k:
        targets = {c: max(int(t * k / total), 1) for c, t in targets.items()}
    return targets


def greedy_by_loop(concepts, k, cap, exists=None):
    """The published rule, sample by sample; when all are out, the mean relative lack decides."""
    sets = [{int(c) for c in row if c >= 0} for row in concepts]
    left = [i for i in range(len(sets)) if exists is None or exists[i]]
    frequencies = [sum(c in sets[i] for i in left) for c in range(V)]
    targets, counts, chosen = targets_by_loop(frequencies, k, cap), [0] * V, []

    def gain(i):
        terms = [
            (targets[c] - counts[c]) / max(1, targets[c]) + 1 / frequencies[c] if counts[c] < targets[c] else -0.5
            for c in sets[i]
        ]
        return np.mean(terms)

    for _ in range(k):
        valid = [i for i in left if sets[i] and all(counts[c] < cap for c in sets[i])]
        lack = lambda i: np.mean([(targets[c] - counts[c]) / targets[c] for c in sets[i]]) if sets[i] else -1e9  # noqa: E731
        scores = [(gain(i) if valid else lack(i), -i) for i in valid or left]
        best = -max((round(s, 5), i) for s, i in scores)[1]
        chosen.append(best)
        left.remove(best)
        for c in sets[best]:
            counts[c] += 1
    return chosen, counts


@pytest.mark.parametrize("k, cap", [(3, 10), (12, 10), (12, 2), (30, 5)])
def test_chooses_what_the_published_rule_chooses(k, cap):
    choose = jax.jit(lambda c, w: selection.concept_balanced_indices(c, k, V, cap, where=w))
    for seed in range(6):
        concepts, exists = draw(seed), np.arange(B) % 9 != 4
        expected, _ = greedy_by_loop(concepts, k, cap, exists)
        assert choose(jnp.asarray(concepts), jnp.asarray(exists)).tolist() == expected


def greedy_by_targets(concepts, k, cap, targets):
    """The rule for proportions, with counts in numpy: how often, then the gain of every example, then the best."""
    has = np.array([[c in row for c in range(V)] for row in concepts.tolist()])
    frequency, sizes = has.sum(0), has.sum(1)
    share = np.where(frequency > 0, targets, 0)
    wanted = k * sizes[sizes > 0].mean() * share / share.sum()
    counts, left, chosen = np.zeros(V), np.ones(len(has), bool), []
    for _ in range(k):
        missing = wanted - counts
        lack = np.where(wanted < 1, missing, missing / np.where(wanted < 1, 1, wanted))
        bonus = np.where(wanted < 1, wanted, 1) / np.maximum(frequency, 1)
        valid = left & (sizes > 0) & ~(has & (counts >= cap)).any(1)
        terms = np.where(missing > 0, lack + bonus, -0.5) if valid.any() else lack
        score = (has * terms).sum(1) / np.maximum(sizes, 1)
        score[sizes == 0] = -1e9
        score[~(valid if valid.any() else left)] = -np.inf
        best = int(np.argmax(np.round(score, 5)))
        chosen.append(best)
        left[best] = False
        counts += has[best]
    return chosen


@pytest.mark.parametrize("k, cap", [(3, 10), (12, 40), (12, 2), (30, 40)])
def test_proportions_choose_what_the_rule_chooses(k, cap):
    choose = jax.jit(lambda c, t: selection.concept_balanced_indices(c, k, V, cap, targets=t))
    for seed in range(6):
        targets = np.random.default_rng(seed).exponential(size=V) ** 2 * (np.arange(V) != seed)
        concepts = draw(seed)
        assert choose(jnp.asarray(concepts), jnp.asarray(targets)).tolist() == greedy_by_targets(
            concepts, k, cap, targets.astype(np.float32)
        )


def test_equal_proportions_of_single_concepts_are_the_default_where_they_divide_k():
    for seed in range(4):
        concepts = jnp.asarray(np.random.default_rng(seed).permutation(np.repeat(np.arange(4), 10))[:, None])
        default, same = (
            selection.concept_balanced_indices(concepts, 12, 4, targets=t).tolist() for t in (None, jnp.full(4, 7))
        )
        assert default == same


def test_single_concepts_come_in_the_proportions_asked_for_and_never_where_none_is_wanted():
    concepts = jnp.asarray(np.repeat(np.arange(4), 20)[:, None])
    select = selection.keep_by_concept_balance(20, 4, cap=20, targets=jnp.array([0.3, 0.0, 0.6, 0.1]))
    kept = np.asarray(select.update(jnp.ones(80), (), concepts=concepts)[0]) > 0
    assert np.bincount(np.asarray(concepts)[kept, 0], minlength=4).tolist() == [6, 0, 12, 2]


@pytest.mark.parametrize("k, cap", [(3, 10), (17, 10), (40, 4), (100, 50)])
def test_targets(k, cap):
    for frequencies in ([3, 0, 9, 1, 2], [1] * 20, [0, 7]):
        expected = targets_by_loop(frequencies, k, cap)
        actual = jax.jit(lambda f: selection.concepts.concept_targets(f, k, cap))(jnp.asarray(frequencies))
        assert actual.tolist() == [expected.get(c, 0) for c in range(len(frequencies))]


def test_single_concepts_in_supply_come_exactly_as_often_as_their_targets():
    concepts = np.repeat(np.arange(4), 10)[:, None].astype(np.int32)
    chosen = selection.concept_balanced_indices(jnp.asarray(concepts), 14, 4)
    assert np.bincount(concepts[chosen, 0]).tolist() == [4, 4, 3, 3]


def test_no_concept_passes_the_cap_while_examples_last():
    concepts = draw(3, singletons=True)
    chosen = selection.concept_balanced_indices(jnp.asarray(concepts), 8, V, cap=2)
    assert np.bincount(concepts[chosen, 0]).max() <= 2


def test_most_concepts_counts_each_once():
    concepts = draw(5)
    counts = np.array([len(set(row[row >= 0])) for row in concepts])
    tx = selection.keep_by_concept_count(7)
    kept = tx.update(jnp.ones(B), tx.init(jnp.ones(B)), concepts=jnp.asarray(concepts))[0]
    assert np.flatnonzero(kept).tolist() == sorted(np.argsort(-counts, kind="stable")[:7])


def test_most_of_what_is_wanted_is_the_largest_sum_of_targets():
    concepts, targets = draw(5), np.random.default_rng(0).exponential(size=V - 1).astype(np.float32)
    sums = np.array([sum(targets[c] for c in set(row[row >= 0].tolist()) if c < V - 1) for row in concepts])
    tx = selection.keep_by_concept_count(7, targets=jnp.asarray(targets))
    kept = tx.update(jnp.ones(B), (), concepts=jnp.asarray(concepts, jnp.int8))[0]
    assert np.flatnonzero(kept).tolist() == sorted(np.argsort(-sums, kind="stable")[:7])


def test_balance_and_count_disagree():
    concepts = jnp.array([[0, 1, 2], [0, 1, 2], [0, 1, -1], [3, -1, -1]])
    kept = [
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), concepts=concepts)[0].tolist()
        for tx in (selection.keep_by_concept_balance(1, 4), selection.keep_by_concept_count(1))
    ]
    assert kept == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_examples_without_concepts_come_last_and_too_few_are_one_past_the_end():
    concepts = jnp.array([[-1], [0], [-1], [0]])
    chosen = selection.concept_balanced_indices(concepts, 4, 1, cap=1, where=jnp.array([True, True, False, True]))
    assert chosen.tolist() == [1, 3, 0, 4]


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="concepts has dtype float32"):
        selection.concept_balanced_indices(jnp.ones((3, 2)), 1, 2)
    with pytest.raises(ValueError, match="k is 5, wanted at most 3"):
        selection.concept_balanced_indices(jnp.zeros((3, 2), int), 5, 2)
    with pytest.raises(ValueError, match="cap is 0"):
        selection.keep_by_concept_balance(1, 2, cap=0)
    for targets, error, message in (
        ([1.0, -2.0], ValueError, "targets holds -2.0, wanted finite numbers of at least 0"),
        ([1.0, jnp.nan], ValueError, "targets holds nan"),
        ([0, 0], ValueError, "targets is 0 for all concepts"),
        ([1.0], ValueError, r"targets has shape \[1\], wanted \[2\]"),
        ([True, False], TypeError, "targets has dtype bool, wanted real numbers"),
    ):
        with pytest.raises(error, match=message):
            selection.keep_by_concept_balance(1, 2, targets=jnp.array(targets))
        with pytest.raises(error, match=message):
            selection.concept_balanced_indices(jnp.zeros((3, 2), int), 1, 2, targets=jnp.array(targets))
    with pytest.raises(ValueError, match="targets holds inf"):
        selection.keep_by_concept_count(1, targets=jnp.array([1.0, jnp.inf]))
    with pytest.raises(ValueError, match="concepts has shape"):
        selection.keep_by_concept_count(1).update(jnp.ones(3), (), concepts=jnp.zeros((4, 1), int))
