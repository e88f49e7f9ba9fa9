import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from minibatch_jax import selection
from minibatch_jax.selection import discriminative_indices
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_discrimination": Case(
        lambda: selection.keep_by_discrimination(5, key=0, num_rounds=2, num_steps=20),
        draws.near_references,
        tolerance=1e-5,
    ),
}


RNG = np.random.default_rng(0)
N, LABELED, K = 120, 30, 12
X = (RNG.normal(size=(N, 3)) * [1, 5, 0.2] + 20).astype(np.float32)
X[LABELED:, :2] += [1, 3]
KNOWN = np.arange(N) < LABELED


@functools.cache
def compiled(k, **options):
    call = functools.partial(discriminative_indices, k=k, **options)
    return jax.jit(lambda key, x, labeled, where: call(key, x, labeled=labeled, where=where))


def choose(x=X, labeled=KNOWN, where=None, key=0, k=K, num_rounds=1, num_steps=150, **options):
    where = jnp.ones(len(x), bool) if where is None else jnp.asarray(where)
    call = compiled(k, num_rounds=num_rounds, num_steps=num_steps, **options)
    return np.asarray(call(jax.random.key(key), jnp.asarray(x), jnp.asarray(labeled), where))


def test_one_round_chooses_nearly_what_logistic_regression_finds():
    scores = (
        LogisticRegression(C=1e6).fit((X - X.mean(0)) / X.std(0), ~KNOWN).decision_function((X - X.mean(0)) / X.std(0))
    )
    best = sorted(np.flatnonzero(~KNOWN), key=lambda i: -scores[i])
    found = choose(batch_size=1024)
    assert len(set(found.tolist()) & set(best[:K])) >= K - 2 and set(found.tolist()) <= set(best[: K + 4])


@pytest.mark.parametrize("hidden", [0, 8])
def test_later_rounds_turn_to_what_is_still_different(hidden):
    """Two groups lie on opposite sides of the labeled ones; a round of all looks at the farther one only."""
    group = np.where(KNOWN, 0, 1 + np.arange(N) % 2)
    x = (RNG.normal(size=(N, 2)) + np.array([[0, 0], [8, 0], [0, -6]])[group]).astype(np.float32)
    chosen = [choose(x, num_rounds=rounds, hidden=hidden) for rounds in (6, 1)]
    counts = [np.bincount(group[rows], minlength=3) for rows in chosen]
    assert counts[0][0] == counts[1][0] == 0 and counts[0].sum() == K and counts[0][1:].min() >= 3


def test_rows_without_a_place_are_not_chosen_and_the_last_round_takes_the_rest():
    x = X.copy()
    x[40, 1], x[41, 0] = np.nan, 1e30
    where = (np.arange(N) < 45) & (np.arange(N) != 44)
    found = choose(x, where=where, k=14, num_rounds=4)
    assert sorted(found[found < N]) == [*range(30, 40), 42, 43] and np.sum(found == N) == 2
    assert len(set(choose(k=14, num_rounds=4).tolist())) == 14


def test_draws_prefer_high_scores_and_differ_between_keys():
    several = [choose(pick="gumbel", key=key) for key in (0, 1)]
    greedy = set(choose().tolist())
    assert all(len(greedy & set(found.tolist())) > K // 2 for found in several) and set(several[0]) != set(several[1])


def test_without_a_label_the_choice_is_random():
    nobody = np.zeros(N, bool)
    first = [set(choose(labeled=nobody, key=key).tolist()) for key in range(3)]
    assert all(len(found) == K for found in first) and first[0] != first[1] != first[2]


def test_a_pool_keeps_what_is_unlike_the_references():
    features = np.concatenate([RNG.normal(size=(20, 2)), RNG.normal(size=(5, 2)) + 9]).astype(np.float32)
    tx = selection.keep_by_discrimination(4, key=0, num_rounds=1)
    pool, labels = jnp.ones(25).at[21].set(0), jnp.array([0, 0, 1, -1, 1])
    references = RNG.normal(size=(5, 2)).astype(np.float32)
    references[3] = 9  # padding
    signals = {"reference_features": jnp.asarray(references), "reference_labels": labels}
    kept = tx.update(pool, tx.init(pool), features=jnp.asarray(features), **signals)[0]
    np.testing.assert_array_equal(np.flatnonzero(kept), [20, 22, 23, 24])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"num_rounds is 3, wanted at most 2 \(k\)"):
        selection.keep_by_discrimination(2, 0, num_rounds=3)
    with pytest.raises(ValueError, match="pick is 'best', wanted one of"):
        selection.keep_by_discrimination(2, 0, num_rounds=1, pick="best")
    with pytest.raises(ValueError, match="hidden is -1, wanted at least 0"):
        selection.keep_by_discrimination(2, 0, num_rounds=1, hidden=-1)
    with pytest.raises(TypeError, match="labeled has dtype int32"):
        discriminative_indices(0, jnp.asarray(X), 2, jnp.zeros(N, jnp.int32), num_rounds=1)
