import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_below": Case(lambda: selection.keep_below(2.0), draws.losses),
    "keep_by_adaptive_k": Case(lambda: selection.keep_by_adaptive_k("mean"), draws.losses, tolerance=1e-6),
}


B = 8


def replay(batches, mode, warmup=0):
    """The published loop in float64: masks of what each batch keeps."""
    m = v = 0.0
    t, kept = 0, []
    for i, losses in enumerate(batches):
        if i < warmup:
            kept.append(np.ones(losses.shape, bool))
            continue
        t += 1
        mu = losses.mean()
        m, v = 0.9 * m + 0.1 * mu, 0.999 * v + 0.001 * mu**2
        kept.append(losses <= (m / (np.sqrt(v) + 1e-8) if mode == "ratio" else m / (1 - 0.9**t)))
    return np.stack(kept)


def run(tx, batches, weights=None):
    weights = jnp.full(B, 1 / B) if weights is None else weights

    def step(state, losses):
        kept, state = tx.update(weights, state, losses=losses)
        return state, kept

    return jax.lax.scan(step, tx.init(weights), jnp.asarray(batches, jnp.float32))


@pytest.mark.parametrize("scale", [0.1, 50.0])
def test_ratio_threshold_of_a_constant_loss_is_the_closed_form(scale):
    tx = selection.keep_by_adaptive_k("ratio")
    steps = np.array([1, 12, 50, 100, 300])

    def step(state, losses):
        state = tx.update(jnp.ones(B), state, losses=losses)[1]
        return state, selection.running_threshold(state.mean, state.square, state.num_batches)

    _, thresholds = jax.lax.scan(step, tx.init(jnp.ones(B)), jnp.full((300, B), scale))
    expected = (1 - 0.9**steps) / np.sqrt(1 - 0.999**steps)
    np.testing.assert_allclose(thresholds[steps - 1], expected, rtol=1e-4)
    np.testing.assert_allclose(expected, [3.16, 6.57, 4.50, 3.24, 1.96], atol=0.005)
    np.testing.assert_allclose([np.argmax(thresholds) + 1, np.max(thresholds)], [12, 6.57], atol=0.005)


@pytest.mark.parametrize("mode", ["ratio", "mean"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_keeps_what_the_published_loop_keeps(mode, warmup):
    batches = np.random.default_rng(0).gamma(2.0, 2.0, (200, B))
    _, kept = run(selection.keep_by_adaptive_k(mode, warmup), batches)
    expected = replay(batches, mode, warmup)
    np.testing.assert_array_equal(kept != 0, expected)
    assert 0.1 < expected[warmup:].mean() < 0.9
    np.testing.assert_array_equal(np.unique(kept), [0, np.float32(1 / B)])


def test_mean_of_the_batch_is_weighted_and_taken_before_the_filter():
    losses = np.array([1.0, 2.0, 30.0, np.nan, 5.0, 9.0, np.inf, 4.0])
    weights = np.array([0.1, 0.3, 0.2, 0.5, 0.0, 0.1, 0.1, 0.4])
    valid = np.isfinite(losses)
    expected = np.average(losses[valid], weights=weights[valid])
    actual = selection.thresholds.weighted_mean_loss(
        jnp.asarray(losses, jnp.float32), jnp.asarray(weights, jnp.float32)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    state, kept = run(selection.keep_by_adaptive_k("mean"), losses[None], jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(state.mean, 0.1 * expected, rtol=1e-6)
    np.testing.assert_array_equal(kept[0] != 0, (losses <= expected) & (weights > 0))


@pytest.mark.parametrize("mode", ["ratio", "mean"])
def test_weights_are_the_gradient_of_the_clipped_loss(mode):
    losses = jnp.asarray(np.random.default_rng(1).gamma(2.0, 2.0, B), jnp.float32)
    state, kept = run(selection.keep_by_adaptive_k(mode), losses[None], jnp.ones(B))
    threshold = selection.running_threshold(state.mean, state.square, state.num_batches, mode)
    np.testing.assert_array_equal(kept[0], jax.grad(lambda x: jnp.sum(jnp.minimum(x, threshold)))(losses))
    np.testing.assert_array_equal(
        selection.keep_below(float(threshold)).update(jnp.ones(B), (), losses=losses)[0], kept[0]
    )


@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(power=st.integers(-6, 6), seed=st.integers(0, 100))
def test_scale_of_the_loss(power, seed):
    """With a power of two the mean mode keeps the same examples; the ratio keeps its threshold, not the examples."""
    batches = np.random.default_rng(seed).gamma(2.0, 1.0, (5, B)).astype(np.float32)
    states, kept = zip(*(run(selection.keep_by_adaptive_k("mean"), s * batches) for s in (1, 2.0**power)))
    np.testing.assert_array_equal(*kept)
    thresholds = [selection.running_threshold(s.mean, s.square, s.num_batches) for s in states]
    np.testing.assert_allclose(*thresholds, rtol=1e-5)


def test_scale_multiplies_the_threshold():
    batches = np.random.default_rng(2).gamma(2.0, 1.0, (5, B))
    _, kept = run(selection.keep_by_adaptive_k("mean", scale=1.5), batches)
    corrected = [0.0]
    for mu in batches.mean(1):
        corrected.append(0.9 * corrected[-1] + 0.1 * mu)
    cut = 1.5 * np.array(corrected[1:]) / (1 - 0.9 ** np.arange(1, 6))
    np.testing.assert_array_equal(kept != 0, batches <= cut[:, None])


def test_nothing_below_the_threshold_gives_zero_weights():
    _, kept = run(selection.keep_by_adaptive_k("ratio"), np.full((2, B), 1e3))
    np.testing.assert_array_equal(kept, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_batch_without_a_usable_loss_leaves_the_state(bad):
    tx = selection.keep_by_adaptive_k("mean")
    state, _ = run(tx, np.ones((3, B)))
    kept, after = tx.update(jnp.ones(B), state, losses=jnp.full(B, bad))
    assert [float(x) for x in after] == [float(x) for x in state]
    np.testing.assert_array_equal(kept, 0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="threshold is 'median', wanted one of 'ratio', 'mean'"):
        selection.keep_by_adaptive_k("median")
    with pytest.raises(ValueError, match="warmup_steps is -1, wanted at least 0"):
        selection.keep_by_adaptive_k(warmup_steps=-1)
    with pytest.raises(TypeError, match=r"warmup_steps is 1\.5, wanted an int"):
        selection.keep_by_adaptive_k(warmup_steps=1.5)
    with pytest.raises(ValueError, match="scale is 0"):
        selection.keep_by_adaptive_k(scale=0)
    with pytest.raises(ValueError, match="threshold is nan"):
        selection.keep_below(float("nan"))
    with pytest.raises(ValueError, match="losses has shape"):
        selection.keep_below(1.0).update(jnp.ones(3), (), losses=jnp.ones(4))
    with pytest.raises(TypeError, match="losses has dtype int32"):
        selection.thresholds.weighted_mean_loss(jnp.arange(3), jnp.ones(3))


@pytest.mark.parametrize("make", [lambda: selection.keep_below(1.0), selection.keep_by_adaptive_k])
def test_integer_losses_are_refused(make):
    with pytest.raises(TypeError, match="losses has dtype int32"):
        make().update(jnp.ones(3), make().init(jnp.ones(3)), losses=jnp.arange(3))


def test_hyper_parameters_can_be_injected_under_jit():
    batches = np.random.default_rng(3).gamma(2.0, 1.0, (12, B))
    plain = selection.keep_by_adaptive_k("mean", 3, 1.2)
    injected = optax.inject_hyperparams(selection.keep_by_adaptive_k)("mean", warmup_steps=3, scale=1.2)
    np.testing.assert_array_equal(run(injected, batches)[1], run(plain, batches)[1])
    threshold = optax.inject_hyperparams(selection.keep_below)(2.0)
    np.testing.assert_array_equal(run(threshold, batches)[1], run(selection.keep_below(2.0), batches)[1])
