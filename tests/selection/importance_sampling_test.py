import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws as drawn

CASES = {
    "keep_by_importance": Case(
        lambda: selection.keep_by_importance(4, key=0, threshold=0.1),
        drawn.classified,
        lowers_mass=None,
        tolerance=1e-5,
    ),
    "keep_by_gradient_norm": Case(
        lambda: selection.keep_by_gradient_norm(4, key=0, threshold=0.1), drawn.norms, lowers_mass=None, tolerance=1e-5
    ),
}


B, C = 8, 3


def problem(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (B, C)).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, B).astype(np.float32) / B
    return jnp.asarray(logits), jnp.asarray(rng.integers(0, C, B)), jnp.asarray(weights)


def test_bound_is_the_norm_of_the_gradient_for_the_logits():
    logits, labels, _ = problem()
    loss = lambda x, y: jax.nn.logsumexp(x) - x[y]  # noqa: E731
    gradients = jax.vmap(jax.grad(loss))(logits, labels)
    np.testing.assert_allclose(
        selection.gradient_norm_bound(logits, labels), np.linalg.norm(gradients, axis=1), rtol=1e-5
    )


def test_estimate_is_unbiased_by_enumeration():
    logits, labels, weights = problem()
    p = selection.importance_sampling.importance_probabilities(selection.gradient_norm_bound(logits, labels), weights)
    losses = np.random.default_rng(1).normal(size=B)
    np.testing.assert_allclose(np.sum(p * (weights / p) * losses), np.sum(weights * losses), rtol=1e-5)


def test_exact_norms_minimize_the_exact_variance():
    """Trace of the covariance of one draw: sum w^2 |g|^2 / p - |sum w g|^2; the moved probabilities are all worse."""
    rng = np.random.default_rng(0)
    gradients, (_, _, weights) = rng.normal(size=(B, 5)) * rng.gamma(1, size=(B, 1)), problem()
    norms = jnp.asarray(np.linalg.norm(gradients, axis=1), jnp.float32)
    variance = lambda p: np.sum((weights * norms) ** 2 / p) - np.sum((weights @ gradients) ** 2)  # noqa: E731
    p = np.asarray(selection.importance_sampling.importance_probabilities(norms, weights), float)
    assert variance(p) < variance(np.asarray(weights / weights.sum()))
    for _ in range(20):
        moved = p * np.exp(0.3 * rng.normal(size=B))
        assert variance(p) < variance(moved / moved.sum())


def test_variance_reduction_is_the_published_formula():
    p = np.random.default_rng(2).dirichlet(np.ones(B))
    published = 1 / np.sqrt(1 - np.sum((p - 1 / B) ** 2) / np.sum(p**2))
    actual = selection.importance_sampling.variance_reduction(jnp.asarray(p, jnp.float32), jnp.full(B, 1 / B))
    np.testing.assert_allclose(actual, published, rtol=1e-5)


def test_smoothing_and_scores_of_zero():
    scores, weights = np.array([0.0, 1.0, 5.0, 2.0]), np.array([0.1, 0.2, 0.3, 0.4])
    smooth = scores + 0.5 * np.average(scores, weights=weights)
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    np.testing.assert_allclose(
        selection.importance_sampling.importance_probabilities(f32(scores), f32(weights), 0.5),
        weights * smooth / np.sum(weights * smooth),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        selection.importance_sampling.importance_probabilities(jnp.zeros(4), f32(weights)), weights, rtol=1e-5
    )
    np.testing.assert_array_equal(
        selection.importance_sampling.importance_probabilities(jnp.full(4, jnp.nan), f32(weights)), 0
    )


@pytest.mark.parametrize("threshold", [0.0, 1e9])
def test_expected_weights_are_the_incoming_ones_on_both_sides_of_the_switch(threshold):
    logits, labels, weights = problem()
    k, draws = 3, 20_000
    tx = selection.keep_by_importance(k, 0, threshold=threshold)

    def one(key):
        return tx.update(weights, tx.init(weights)._replace(rng_key=key), logits=logits, labels=labels)[0]

    kept = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws)), float)
    error = kept.std(0) / np.sqrt(draws)
    assert np.all(np.abs(kept.mean(0) - weights) < 5 * error)
    assert (kept > 0).sum(1).max() == k
    if threshold:
        np.testing.assert_allclose(kept[0][kept[0] > 0], weights[kept[0] > 0] * B / k, rtol=1e-5)
    else:
        p = selection.importance_sampling.importance_probabilities(
            selection.gradient_norm_bound(logits, labels), weights
        )
        counts = kept * k * np.asarray(p) / np.asarray(weights)
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
        np.testing.assert_allclose(counts.sum(1), k, atol=1e-4)


def test_switch_follows_the_moving_average():
    logits, labels, weights = problem()
    tx = selection.keep_by_importance(2, 0, threshold=0.3)
    now = selection.importance_sampling.variance_reduction(
        selection.importance_sampling.importance_probabilities(selection.gradient_norm_bound(logits, labels), weights),
        weights,
    )
    state, gain = tx.init(weights), 0.0
    for _ in range(5):
        kept, state = tx.update(weights, state, logits=logits, labels=labels)
        gain = 0.9 * gain + 0.1 * float(now)
        np.testing.assert_allclose(state.gain, gain, rtol=1e-5)
        uniform = np.allclose(kept[kept > 0], weights[kept > 0] * B / 2, rtol=1e-5)
        assert uniform == (gain <= 0.3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="k is 0"):
        selection.keep_by_importance(0, 0)
    with pytest.raises(ValueError, match="smoothing is -1"):
        selection.keep_by_importance(1, 0, smoothing=-1)
    with pytest.raises(ValueError, match="decay is 2"):
        selection.keep_by_importance(1, 0, decay=2)
    with pytest.raises(TypeError, match="labels has dtype float32"):
        selection.gradient_norm_bound(jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        tx = selection.keep_by_importance(4, 0)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), logits=jnp.ones((3, 2)), labels=jnp.zeros(3, int))


@pytest.mark.slow
def test_bound_gets_most_of_the_variance_reduction_that_exact_norms_get():
    """Digits, softmax regression in mid-training: variance of one draw for uniform, loss, bound and exact norm."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x, onehot, theta = x / 16, np.eye(10)[y], np.zeros((64, 10))
    softmax = lambda z: np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)  # noqa: E731
    for _ in range(30):
        theta -= 1.0 * x[:200].T @ (softmax(x[:200] @ theta) - onehot[:200]) / 200
    logits = x @ theta
    residual = softmax(logits) - onehot
    norms = np.linalg.norm(residual, axis=1) * np.linalg.norm(x, axis=1)
    losses = -np.log(softmax(logits)[np.arange(len(y)), y])
    bound = selection.gradient_norm_bound(jnp.asarray(logits, jnp.float32), jnp.asarray(y))
    weights = jnp.full(len(y), 1 / len(y))
    mean = np.sum((x.T @ residual / len(y)) ** 2)

    def variance(scores):
        p = selection.importance_sampling.importance_probabilities(jnp.asarray(scores, jnp.float32), weights)
        return np.sum((norms / len(y)) ** 2 / np.asarray(p, float)) - mean

    found = {"uniform": variance(np.ones(len(y))), "loss": variance(losses)}
    found |= {"bound": variance(bound), "exact": variance(norms)}
    gained = {name: (found["uniform"] - v) / (found["uniform"] - found["exact"]) for name, v in found.items()}
    assert gained["bound"] > 0.95 and gained["loss"] < gained["bound"], found
