import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from minibatch_jax import selection
from minibatch_jax.selection import batch_bald_indices
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_batch_bald": Case(
        lambda: selection.keep_by_batch_bald(5, key=0, num_samples=32), draws.committee, tolerance=1e-5
    ),
}


N, M, C, K = 12, 5, 3, 4
LOGITS = (2 * np.random.default_rng(0).normal(size=(N, M, C))).astype(np.float32)
P = softmax(LOGITS.astype(np.float64), axis=2)


def information(rows):
    """Joint mutual information of the labels and the member, by enumeration of all labels."""
    joint = np.ones((M, 1))
    for p in P[rows]:
        joint = (joint[:, :, None] * p[:, None]).reshape(M, -1)
    return entropy(joint.mean(0)) - entropy(joint, axis=1).mean()


def greedy(rows, k):
    chosen, values = [], [0.0]
    for _ in range(k):
        chosen.append(max(set(rows) - set(chosen), key=lambda i: information([*chosen, i])))
        values.append(information(chosen))
    return chosen, np.diff(values)


def choose(logits, where=None, k=K, key=0, **options):
    return jax.jit(lambda x, where, key: batch_bald_indices(key, x, k, where=where, **options))(logits, where, key)


@pytest.mark.parametrize("num_samples,block_size", [(C**K, 5), (C ** (K - 1), 64)])
def test_the_choice_is_that_of_full_enumeration(num_samples, block_size):
    expected, gains = greedy(range(N), K)
    found = choose(jnp.asarray(LOGITS), num_samples=num_samples, block_size=block_size)
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(found.gains, gains, rtol=1e-4)


def test_rows_that_are_masked_or_have_no_softmax_are_not_chosen():
    logits = LOGITS.copy()
    logits[9, 2, 1] = np.nan
    rows = [1, 3, 5]
    found = choose(jnp.asarray(logits), jnp.isin(jnp.arange(N), jnp.array([9, *rows])), num_samples=81)
    expected, gains = greedy(rows, 3)
    np.testing.assert_array_equal(found.indices, [*expected, N])
    np.testing.assert_allclose(found.gains, [*gains, 0], rtol=1e-4)


def test_drawn_labels_give_nearly_the_same_information():
    """From the second step on, labels are drawn; the sum of the gains stays below what there is to know, ln M."""
    found = choose(jnp.asarray(LOGITS), k=8, num_samples=400)
    total = information([int(i) for i in found.indices])
    assert abs(float(found.gains.sum()) - total) < 0.05 and total < np.log(M)
    assert total > 0.97 * information(greedy(range(N), 8)[0])


def test_equal_examples_are_not_chosen_together():
    """The best example three times: its copies have the second largest score of BALD."""
    best = int(np.argmax([information([i]) for i in range(N)]))
    logits = np.concatenate([LOGITS, LOGITS[[best, best]]])
    indices = np.asarray(choose(jnp.asarray(logits), k=2, num_samples=9).indices)
    copies = [best, N, N + 1]
    assert indices[0] in copies and indices[1] not in copies
    assert len({int(choose(jnp.asarray(logits), k=2, key=key, num_samples=9).indices[0]) for key in range(9)}) == 3


def test_bad_input_is_named():
    logits = jnp.asarray(LOGITS)
    with pytest.raises(ValueError, match=r"num_samples is 2, wanted at least 3 \(the number of classes\)"):
        batch_bald_indices(0, logits, 2, num_samples=2)
    with pytest.raises(ValueError, match=r"k is 13, wanted at most 12 \(the number of examples\)"):
        batch_bald_indices(0, logits, 13)
    with pytest.raises(ValueError, match=r"committee_logits has shape \[12, 5\]"):
        batch_bald_indices(0, logits[..., 0], 2)
    with pytest.raises(TypeError, match="k is 2.0, wanted a static Python int"):
        selection.keep_by_batch_bald(2.0, 0)
