"""Soft labels against a dictionary, balance terms against closed forms in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from minibatch_jax import value_and_grad
from minibatch_jax.modules import (
    class_balance,
    init_soft_labels,
    mean_entropy,
    publish_soft_labels,
    write_soft_labels,
)

N, B, C = 12, 8, 3
RNG = np.random.default_rng(0)
LABELS = np.array([2, -1, -1, 0, -1, 7, -1, -1, 1, -1, -1, -1])
LOGITS = RNG.normal(size=(B, C)).astype(np.float32)
WEIGHTS = np.array([0.2, 0.1, 0.0, 0.3, 0.1, 0.1, 0.0, 0.2], np.float32)


def softmax(logits):
    return np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)


def test_the_memory_is_a_dictionary_of_the_last_predictions_published_at_the_end_of_an_epoch():
    write, publish = jax.jit(write_soft_labels), jax.jit(publish_soft_labels)
    memory, expected = init_soft_labels(jnp.asarray(LABELS), C), np.zeros((N, C))
    known = (LABELS >= 0) & (LABELS < C)
    expected[known, LABELS[known]] = 1
    np.testing.assert_array_equal(memory.labels, expected)
    expected[~known] = 1 / C  # labels from elsewhere stay until a row is visited
    memory = memory._replace(labels=jnp.asarray(expected, jnp.float32))
    pending, ignored, rng = {}, 0, np.random.default_rng(1)
    for step in range(12):
        ids = rng.integers(-3, N + 3, B).astype(np.int32)
        values = softmax(rng.normal(size=(B, C))).astype(np.float32)
        values[rng.integers(B)] = [(np.nan, 0.5, 0.5), (0.2, 0.2, 0.2), (1.5, -0.25, -0.25)][step % 3]
        for i, row in zip(ids, values):
            if 0 <= i < N and abs(row.sum() - 1) < 1e-3 and row.min() >= 0:
                pending[int(i)] = row
            elif i != -1:
                ignored += 1
        memory = write(memory, jnp.asarray(ids), jnp.asarray(values))
        np.testing.assert_array_equal(memory.labels, expected.astype(np.float32))
        memory = publish(memory, step % 3 == 2)
        if step % 3 == 2:
            for i, row in pending.items():
                expected[i] = expected[i] if known[i] else row
            pending = {}
    assert ignored > 12 and int(memory.ignored) == ignored
    np.testing.assert_array_equal(memory.labels, expected.astype(np.float32))


def test_every_device_writes_down_the_rows_of_all():
    memory = init_soft_labels(jnp.asarray(LABELS), C)
    ids, values = jnp.array([1, 4, 4, 9, -1, 2, 6, 4]), jnp.asarray(softmax(LOGITS))
    expected = publish_soft_labels(write_soft_labels(memory, ids, values))

    def write(memory, ids, values):
        return publish_soft_labels(write_soft_labels(memory, ids, values, axis_name="data"))

    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    found = jax.jit(jax.shard_map(write, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()))
    for one, other in zip(found(memory, ids, values), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@jax.jit
def terms(logits, weights, prior):
    """Both terms and the gradients of both with respect to the logits."""
    balance = jax.value_and_grad(lambda x: class_balance(x, weights, prior=prior))(logits)
    return balance, jax.value_and_grad(lambda x: mean_entropy(x, weights))(logits)


def through_softmax(p, slopes):
    """Gradient of the logits where that of the probabilities is known."""
    return p * (slopes - np.sum(p * slopes, axis=1, keepdims=True))


def test_both_terms_and_their_gradients_are_the_closed_forms_of_the_probabilities():
    prior, p = np.array([0.5, 0.3, 0.2]), softmax(LOGITS.astype(np.float64))
    mean = WEIGHTS @ p
    (balance, slope), (entropy, entropy_slope) = terms(LOGITS, WEIGHTS, jnp.asarray(prior, jnp.float32))
    np.testing.assert_allclose(balance, -np.sum(prior * np.log(mean)), rtol=1e-5)
    np.testing.assert_allclose(slope, through_softmax(p, -prior * WEIGHTS[:, None] / mean), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(entropy, -WEIGHTS @ np.sum(p * np.log(p), axis=1), rtol=1e-5)
    expected = through_softmax(p, -WEIGHTS[:, None] * (np.log(p) + 1))
    np.testing.assert_allclose(entropy_slope, expected, rtol=1e-4, atol=1e-6)


def test_balance_is_least_and_log_c_exactly_where_the_mean_prediction_is_uniform():
    turned = np.stack([np.roll(LOGITS[0], i) for i in range(C)])
    others = RNG.normal(size=(100, C, C)).astype(np.float32)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(class_balance)))(np.concatenate([turned[None], others]))
    assert np.isclose(values[0], np.log(C), rtol=1e-6) and np.all(values[1:] > np.log(C))
    np.testing.assert_allclose(slopes[0], 0, atol=1e-7)


def test_a_class_that_underflows_everywhere_has_a_finite_balance():
    logits = jnp.array([[0, 0, -300], [0, 0, -310]], jnp.float32)
    expected = (2 * np.log(2) + 300 + np.log(4) - np.log1p(np.exp(-10))) / 3  # mean of p is e^-300 (1 + e^-10) / 4
    np.testing.assert_allclose(float(class_balance(logits)), expected, rtol=1e-6)


def test_rows_that_are_not_finite_or_have_no_weight_do_not_count():
    prior = jnp.full(C, 1 / C)
    clean = terms(LOGITS, WEIGHTS, prior)
    spoilt, weights = LOGITS.copy(), WEIGHTS.copy()
    spoilt[2], spoilt[6] = np.nan, 3e38 * np.array([1, -1, 1])
    weights[6] = 0.4
    for one, other in zip(jax.tree.leaves(terms(spoilt, weights, prior)), jax.tree.leaves(clean)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    for leaf in jax.tree.leaves(terms(spoilt, 0 * weights, prior)):
        np.testing.assert_array_equal(leaf, 0)


INPUTS = RNG.normal(size=(B, 4)).astype(np.float32)
TARGETS = softmax(RNG.normal(size=(B, C))).astype(np.float32)
KERNEL = RNG.normal(size=(4, C)).astype(np.float32)


def objective(kernel):
    logits = jnp.matmul(INPUTS, kernel, precision="highest")
    cross_entropy = jnp.mean(optax.softmax_cross_entropy(logits, TARGETS))
    p = jax.nn.softmax(logits)
    balance = -jnp.mean(jnp.log(jnp.mean(p, axis=0)))
    return cross_entropy + 0.8 * balance - 0.4 * jnp.mean(jnp.sum(p * jnp.log(p), axis=1))


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_soft_labels_and_terms_are_weights_of_one_gradient_on_one_device_and_on_all(axis_name):
    def items(kernel, batch):
        logits = jnp.matmul(batch, kernel, precision="highest")
        found = {"balance": class_balance(logits, axis_name=axis_name)}
        found["entropy"] = mean_entropy(logits, axis_name=axis_name)
        found = {name: jnp.broadcast_to(term, len(batch)) for name, term in found.items()}
        return found | {"labels": -jax.nn.log_softmax(logits)}

    fn = value_and_grad(items, optax.identity(), axis_name=axis_name)

    def step(kernel, batch, targets):
        rows = jnp.full(len(batch), 1 / B)
        weights = {"labels": targets / B, "balance": 0.8 * rows, "entropy": 0.4 * rows}
        (value, _), grads, _ = fn(kernel, batch, optax.EmptyState(), weights=weights)
        return value, grads

    if axis_name is not None:
        mesh = jax.make_mesh((jax.device_count(),), (axis_name,), axis_types=(jax.sharding.AxisType.Auto,))
        step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(axis_name), P(axis_name)), out_specs=P())
    value, grads = jax.jit(step)(jnp.asarray(KERNEL), jnp.asarray(INPUTS), jnp.asarray(TARGETS))
    expected, slopes = jax.value_and_grad(objective)(KERNEL)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads, slopes, rtol=1e-4, atol=1e-6)


MEMORY = init_soft_labels(jnp.asarray(LABELS), C)


def test_padding_of_a_batch_needs_no_probabilities():
    values = jnp.array([[0.5, 0.25, 0.25], [0, 0, 0]])
    memory = write_soft_labels(MEMORY, jnp.array([1, -1]), values)
    assert memory.pending[1].tolist() == [0.5, 0.25, 0.25] and int(memory.visited.sum()) == 1 and memory.ignored == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: write_soft_labels(MEMORY, jnp.arange(2), jnp.ones((2, C))), ValueError, "sum 3 and the smallest"),
        (lambda: write_soft_labels(MEMORY, jnp.arange(2), jnp.ones((2, 2))), ValueError, r"wanted \[2, 3\]"),
        (lambda: publish_soft_labels(MEMORY, jnp.array(2)), TypeError, "when has dtype int32, wanted bool"),
        (lambda: class_balance(jnp.ones((2, C)), prior=jnp.ones(C)), ValueError, "prior has the sum 3"),
        (lambda: write_soft_labels(MEMORY, jnp.ones(2), jnp.ones((2, C))), TypeError, "example_ids has dtype float32"),
        (lambda: init_soft_labels(jnp.ones(2), C), TypeError, "labels has dtype float32"),
        (
            lambda: class_balance(jnp.ones((2, C)), prior=jnp.ones(2)),
            ValueError,
            r"prior has shape \[2\]",
        ),
        (lambda: mean_entropy(jnp.ones((2, C)), jnp.ones(3)), ValueError, r"weights has shape \[3\], wanted \[2\]"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
