import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_class_medoids": Case(
        lambda: selection.keep_class_medoids(6, 3),
        draws.labeled_features,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-6,
    ),
    "keep_unlearned": Case(lambda: selection.keep_unlearned(40, threshold=1.0, patience=1), draws.tracked),
}


B, CLASSES = 15, 3


def problem(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, 3)), rng.integers(0, CLASSES, B), rng.uniform(0.5, 1.5, B) / B


def f32(x):
    return jnp.asarray(x, jnp.float32)


def per_class(features, labels, weights, each):
    """Greedy by the definition in each class alone; a constant larger than all distances makes similarities."""
    expected = np.zeros(B)
    for c in range(CLASSES):
        rows = np.flatnonzero((labels == c) & (weights > 0))
        s = 100 - scipy.spatial.distance.cdist(features[rows], features[rows])
        chosen = []
        for _ in range(min(each, len(rows))):
            value = lambda a: weights[rows] @ s[:, a].max(1)  # noqa: B023, E731
            rest = [j for j in range(len(rows)) if j not in chosen]
            chosen.append(max(rest, key=lambda j: value([*chosen, j])))
        owners = np.array(chosen)[s[:, chosen].argmax(1)]
        np.add.at(expected, rows[owners], weights[rows])
    return expected


def test_medoids_of_each_class_are_those_of_the_class_alone():
    features, labels, weights = problem()
    weights = np.where(np.arange(B) % 7 == 2, 0, weights)
    tx = selection.keep_class_medoids(6, CLASSES)
    kept = tx.update(f32(weights), (), features=f32(features), labels=jnp.asarray(labels))[0]
    np.testing.assert_allclose(kept, per_class(features, labels, weights, 2), rtol=1e-4)
    np.testing.assert_allclose(kept.sum(), weights.sum(), rtol=1e-5)


def test_a_small_class_is_kept_whole():
    features, _, weights = problem(1)
    labels = np.where(np.arange(B) < 2, 1, 0)
    tx = selection.keep_class_medoids(8, 2)
    kept = tx.update(f32(weights), (), features=f32(features), labels=jnp.asarray(labels))[0]
    np.testing.assert_allclose(kept[:2], weights[:2], rtol=1e-6)
    assert int((kept > 0).sum()) == 6


def test_learned_examples_are_what_a_ring_buffer_of_losses_says():
    n, patience, rng = 9, 3, np.random.default_rng(0)
    tx = selection.keep_unlearned(n, threshold=0.5, patience=patience)
    history = {i: [] for i in range(n)}
    state = tx.init(jnp.ones(4))
    update = jax.jit(lambda s, w, x, i: tx.update(w, s, losses=x, example_ids=i))
    for _ in range(60):
        ids, losses, weights = rng.permutation(n)[:4], rng.uniform(0, 0.8, 4), rng.integers(0, 4, 4) > 0
        losses = np.where(rng.uniform(size=4) < 0.1, np.nan, losses)
        kept, state = update(state, f32(weights), f32(losses), jnp.asarray(ids))
        for i, loss, weight, k in zip(ids, losses, weights, kept):
            usable = weight and np.isfinite(loss)
            if usable:
                history[i].append(loss)
            last = history[i][-patience:]
            learned = len(last) == patience and max(last) <= 0.5
            assert float(k) == float(usable and not learned)


def quadratic(seed=0, diagonal=True):
    rng = np.random.default_rng(seed)
    matrix = np.diag(rng.uniform(0.5, 2, 4)) if diagonal else (lambda a: a @ a.T)(rng.normal(size=(4, 4)))
    linear = rng.normal(size=4)
    loss = lambda p: 0.5 * p["x"] @ f32(matrix) @ p["x"] + p["x"] @ f32(linear)  # noqa: E731
    return loss, matrix


def test_probe_is_unbiased_for_the_diagonal_and_exact_if_there_is_no_other():
    params = {"x": jnp.arange(4.0)}
    for diagonal in (True, False):
        loss, matrix = quadratic(diagonal=diagonal)
        keys = jax.random.split(jax.random.key(0), 1 if diagonal else 4000)
        values, gradients, probes = jax.vmap(lambda k: selection.crest.hutchinson_diagonal(k, loss, params))(keys)  # noqa: B023
        np.testing.assert_allclose(values, loss(params), rtol=1e-5)
        np.testing.assert_allclose(gradients["x"][0], jax.grad(loss)(params)["x"], rtol=1e-5)
        np.testing.assert_allclose(probes["x"].mean(0), np.diag(matrix), rtol=1e-5 if diagonal else 0.2)


def test_on_a_quadratic_with_a_diagonal_hessian_the_model_is_the_loss():
    loss, _ = quadratic()
    params = {"x": jnp.array([1.0, -1.0, 0.5, 2.0])}
    value, gradient, probe = selection.crest.hutchinson_diagonal(jax.random.key(0), loss, params)
    model = selection.quadratic_model(params, value)
    for _ in range(3):
        model = selection.crest.update_quadratic_model(model, gradient, probe)
    moved = {"x": params["x"] + jnp.array([0.3, -2.0, 1.0, 0.1])}
    np.testing.assert_allclose(selection.crest.predicted_loss(model, moved), loss(moved), rtol=1e-3)
    assert not selection.needs_reselection(model, moved, loss(moved))
    assert selection.needs_reselection(model, moved, 1.3 * loss(moved))


def test_averages_are_those_of_numpy():
    rng = np.random.default_rng(0)
    gradients, probes = rng.normal(size=(2, 5, 3))
    model = selection.quadratic_model(jnp.zeros(3), jnp.array(1.0))
    m, v = np.zeros(3), np.zeros(3)
    for g, h in zip(gradients, probes):
        model = selection.crest.update_quadratic_model(model, f32(g), f32(h))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * h**2
    move = np.array([0.5, -1.0, 2.0])
    curvature = np.sqrt(v / (1 - 0.999**5)) + 1e-4
    expected = 1 + move @ m / (1 - 0.9**5) + 0.5 * curvature @ move**2
    np.testing.assert_allclose(selection.crest.predicted_loss(model, f32(move)), expected, rtol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_classes is 0"):
        selection.keep_class_medoids(4, 0)
    with pytest.raises(ValueError, match="metric is 'dot'"):
        selection.keep_class_medoids(4, 2, metric="dot")
    with pytest.raises(TypeError, match="labels has dtype float32"):
        selection.keep_class_medoids(2, 2).update(jnp.ones(3), (), features=jnp.ones((3, 1)), labels=jnp.ones(3))
    with pytest.raises(ValueError, match="patience is 0"):
        selection.keep_unlearned(5, patience=0)
    with pytest.raises(TypeError, match="example_ids has dtype float32"):
        tx = selection.keep_unlearned(5)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.ones(3), example_ids=jnp.ones(3))


@pytest.mark.parametrize("power, fires", [(2, False), (6, True)])
def test_reselection_is_a_state_machine_inside_scan(power, fires):
    """Gradient descent; a new model where the old one is off: never on a quadratic, sometimes on a steeper loss."""
    loss = lambda p: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * p**power) + 1.0  # noqa: E731

    def model_at(params, key):
        value, gradient, probe = selection.crest.hutchinson_diagonal(key, loss, params)
        return selection.crest.update_quadratic_model(selection.quadratic_model(params, value), gradient, probe)

    def step(carry, key):
        params, model, changes = carry
        params = params - 0.02 * jax.grad(loss)(params)
        stale = selection.needs_reselection(model, params, loss(params))
        model = jax.lax.cond(stale, lambda: model_at(params, key), lambda: model)
        return (params, model, changes + stale.astype(jnp.int32)), loss(params)

    start = jnp.full(3, 0.9)
    carry = start, model_at(start, jax.random.key(0)), jnp.zeros((), jnp.int32)
    carry, losses = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(jax.random.key(1), 30)))(carry)
    assert losses[-1] < losses[0]
    assert (int(carry[2]) > 0) == fires and int(carry[2]) < 30
