import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.special import softmax
from scipy.stats import entropy

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_teacher_student": Case(lambda: selection.keep_by_teacher_student(3), draws.taught, tolerance=1e-5),
}


B, C, BATCHES = 8, 3, 6
RNG = np.random.default_rng(0)
SURE = RNG.uniform(0.3, 1.0, (BATCHES, B)).astype(np.float32)
LABELS = RNG.integers(0, C, (BATCHES, B)).astype(np.int32)
LABELS[:3][LABELS[:3] == 2] = 1  # one class comes late
LOGITS = (2 * RNG.normal(size=(BATCHES, B, C))).astype(np.float32)
WEIGHTS = RNG.uniform(0.5, 1.5, (BATCHES, B)).astype(np.float32)
WEIGHTS[:, 5] = 0


def average(values, weights):
    return sum(v * w for v, w in zip(values, weights)) / sum(weights)


def replay(weighting, decay=0.9):
    """The thresholds by loops over classes, each moving average as its closed form over all batches so far."""
    seen = {None: [], 0: [], 1: [], 2: []}
    kept, unsure = np.zeros((BATCHES, B)), np.zeros((BATCHES, B))
    for t in range(BATCHES):
        for i in range(B):
            unsure[t, i] = entropy(softmax(LOGITS[t, i].astype(np.float64))) / np.log(C)
        for label, means in seen.items():
            rows = [i for i in range(B) if WEIGHTS[t, i] > 0 and label in (None, LABELS[t, i])]
            if rows:
                means.append([average(x[t, rows], WEIGHTS[t, rows]) for x in (SURE.astype(np.float64), unsure)])

        def moving(label):
            means = np.array(seen[label])
            powers = decay ** np.arange(len(means))[::-1]
            return powers @ means / powers.sum()

        highest = np.max([moving(y) for y in range(C) if seen[y]], axis=0)
        for i in range(B):
            bars = moving(None) * moving(LABELS[t, i]) / highest if WEIGHTS[t, i] > 0 else (2, 2)
            factor = {"own": 1, "confidence": SURE[t, i], "product": SURE[t, i] * unsure[t, i]}[weighting]
            kept[t, i] = factor * WEIGHTS[t, i] * (SURE[t, i] >= bars[0] and unsure[t, i] >= bars[1])
    return kept


def signals(rows=slice(None)):
    found = {"teacher_confidences": SURE, "pseudo_labels": LABELS, "logits": LOGITS}
    return {name: jnp.asarray(value[:, rows]) for name, value in found.items()}


def run(tx, weights=WEIGHTS, given=None):
    def step(state, batch):
        kept, state = tx.update(batch[0], state, **batch[1])
        return state, kept

    return jax.lax.scan(step, tx.init(jnp.ones(B)), (jnp.asarray(weights), given or signals()))


@pytest.mark.parametrize("weighting", ["own", "confidence", "product"])
def test_keeps_what_a_loop_over_batches_and_classes_keeps(weighting):
    state, kept = run(selection.keep_by_teacher_student(C, weighting=weighting))
    expected = replay(weighting)
    assert 0.1 < np.mean(expected > 0) < 0.6
    np.testing.assert_allclose(kept, expected, rtol=2e-5)
    batches = [sum(np.any((LABELS[t] == y) & (WEIGHTS[t] > 0)) for t in range(BATCHES)) for y in range(C)]
    np.testing.assert_array_equal(state.class_batches, batches)
    assert int(state.num_batches) == BATCHES and int(state.num_ignored) == 0


def test_equal_examples_are_all_kept_whatever_rounding_does_to_their_means():
    tx = selection.keep_by_teacher_student(C, 0.999, weighting="own")  # in float32, 1 - 0.999 is below 0.001
    equal = {"teacher_confidences": jnp.full((BATCHES, B), 0.7), "logits": jnp.tile(LOGITS[:1, :1], (BATCHES, B, 1))}
    _, kept = run(tx, given=signals() | equal)
    np.testing.assert_array_equal(kept, WEIGHTS)


def test_a_permuted_batch_gives_permuted_weights():
    order = np.random.default_rng(1).permutation(B)
    tx = selection.keep_by_teacher_student(C)
    np.testing.assert_allclose(run(tx, WEIGHTS[:, order], signals(order))[1], run(tx)[1][:, order], rtol=1e-5)


def test_two_devices_compute_what_one_does():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = P(None, "data")
    rows = dict.fromkeys(signals(), spec)
    step = jax.jit(
        jax.shard_map(
            functools.partial(run, selection.keep_by_teacher_student(C, axis_name="data")),
            mesh=mesh,
            in_specs=(spec, rows),
            out_specs=(P(), spec),
        )
    )
    weights = WEIGHTS.copy()
    weights[0, :4] = 0  # one device has nothing
    found, expected = step(weights, signals()), run(selection.keep_by_teacher_student(C), weights)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    assert np.any(found[1])


def test_an_unseen_class_has_the_threshold_of_all_and_a_class_at_zero_none():
    means = jnp.array([0.8, 0.2, 0.7])
    found = selection.class_thresholds(jnp.array(0.6), means, jnp.array([True, True, False]))
    np.testing.assert_allclose(found, [0.6, 0.15, 0.6], rtol=1e-6)
    found = selection.class_thresholds(0.6, means, jnp.array([False, True, False]))
    np.testing.assert_allclose(found, 0.6, rtol=1e-6)
    np.testing.assert_array_equal(selection.class_thresholds(jnp.array(0.0), jnp.zeros(2), jnp.ones(2, bool)), 0)


def test_planted_errors_of_a_teacher_are_found_in_the_easy_classes_and_in_the_hard_one():
    """Wrong labels are less sure by 0.3, and all of class 2 by 0.25; one threshold for all would starve that class."""
    rng = np.random.default_rng(2)
    labels, wrong = rng.integers(0, C, 4000), rng.random(4000) < 0.3
    sure = 0.9 - 0.3 * wrong - 0.25 * (labels == 2) + 0.06 * rng.normal(size=4000)
    given = {"teacher_confidences": np.clip(sure, 0, 1), "pseudo_labels": labels, "logits": np.zeros((4000, C))}
    given = {name: jnp.asarray(x, jnp.int32 if x.dtype == int else jnp.float32) for name, x in given.items()}
    tx = selection.keep_by_teacher_student(C, weighting="own")
    dropped = np.asarray(tx.update(jnp.ones(4000), tx.init(jnp.ones(4000)), **given)[0]) == 0
    for label in range(C):
        of_class = labels == label
        found = np.sum(dropped & wrong & of_class)
        assert found / np.sum(wrong & of_class) > 0.95, "recall"
        assert found / np.sum(dropped & of_class) > 0.9, "precision"
    single = sure < sure.mean()
    assert np.sum(single & wrong & (labels == 2)) / np.sum(single & (labels == 2)) < 0.4


def test_bad_rows_get_nothing_are_counted_and_change_no_average():
    tx = selection.keep_by_teacher_student(C)
    clean = {name: value[0] for name, value in signals().items()}
    weights, bad = jnp.asarray(WEIGHTS[0]).at[:4].set(0), dict(clean)
    bad["teacher_confidences"] = clean["teacher_confidences"].at[:2].set(jnp.array([1.5, -0.1]))
    bad["pseudo_labels"] = clean["pseudo_labels"].at[2].set(C)
    bad["logits"] = clean["logits"].at[3].set(jnp.nan)
    update = jax.jit(lambda w, s, x: tx.update(w, s, **x))
    found, state = update(jnp.asarray(WEIGHTS[0]), tx.init(weights), bad)
    expected, clean_state = update(weights, tx.init(weights), clean)
    np.testing.assert_array_equal(found, expected)
    assert int(state.num_ignored) == 4 and int(clean_state.num_ignored) == 0
    for one, two in zip(state[:-1], clean_state[:-1]):
        np.testing.assert_array_equal(one, two)
    _, negative = update(weights.at[4].set(-1), tx.init(weights), clean)
    _, without = update(weights.at[4].set(0), tx.init(weights), clean)
    for one, two in zip(negative, without):
        np.testing.assert_array_equal(one, two)
    nothing, after = update(jnp.zeros(B), clean_state, clean)
    assert not np.any(nothing)
    for one, two in zip(after, clean_state):
        np.testing.assert_array_equal(one, two)


def test_labels_of_a_teacher_and_rows_that_are_no_distribution():
    probabilities = np.random.default_rng(3).dirichlet(np.ones(4), 20).astype(np.float32)
    labels, sure = selection.teacher_labels(jnp.asarray(probabilities))
    np.testing.assert_array_equal(labels, probabilities.argmax(1))
    np.testing.assert_array_equal(sure, probabilities.max(1))
    probabilities[3], probabilities[5, 0] = [0.5, 0.6, 0.0, 0.0], np.nan
    probabilities[6] = [1 + 1e-6, 0, 0, 0]
    labels, sure = jax.jit(selection.teacher_labels)(jnp.asarray(probabilities))
    assert sure[6] == 1 and labels[6] == 0
    assert np.flatnonzero(labels < 0).tolist() == [3, 5] == np.flatnonzero(np.isnan(sure)).tolist()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_classes is 1, wanted at least 2"):
        selection.keep_by_teacher_student(1)
    with pytest.raises(ValueError, match="decay is 1"):
        selection.keep_by_teacher_student(3, decay=1.0)
    with pytest.raises(ValueError, match="weighting is 'unbiased', wanted one of 'own', 'confidence', 'product'"):
        selection.keep_by_teacher_student(3, weighting="unbiased")
    tx = selection.keep_by_teacher_student(C)
    given = {name: value[0] for name, value in signals().items()}
    state = tx.init(jnp.ones(B))
    with pytest.raises(ValueError, match=r"logits has shape \[8, 3\], wanted \[8, 4\]"):
        other = selection.keep_by_teacher_student(4)
        other.update(jnp.ones(B), other.init(jnp.ones(B)), **given)
    outside = given | {"teacher_confidences": given["teacher_confidences"].at[2].set(1.25)}
    with pytest.raises(ValueError, match=r"teacher_confidences has the entry 1.25, wanted numbers in \[0, 1\]"):
        tx.update(jnp.ones(B), state, **outside)
    tx.update(jnp.ones(B).at[2].set(0), state, **outside)  # padding may be anything
    with pytest.raises(ValueError, match=r"probabilities\[1\] has the sum 1.2, wanted entries >= 0 with sum 1"):
        selection.teacher_labels(jnp.array([[0.5, 0.5], [0.6, 0.6]]))
    with pytest.raises(ValueError, match=r"probabilities has shape \[2, 1\], wanted at least 2 classes"):
        selection.teacher_labels(jnp.ones((2, 1)))
    with pytest.raises(TypeError, match="seen has dtype"):
        selection.class_thresholds(jnp.array(0.5), jnp.ones(2), jnp.ones(2))
