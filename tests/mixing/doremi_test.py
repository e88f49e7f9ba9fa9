import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mixing
from minibatch_jax.mixing import excess_losses, losses_by_domain, mix_by_doremi
from tests.case import Case
from tests.mixing import draws

CASES = {
    "mix_by_doremi": Case(
        lambda: mixing.mix_by_doremi(0.3, smoothing=0.01),
        draws.losses,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-5,
    )
}
HALF = jnp.full(2, 0.5)


def one_update(tx, losses, counts=(1, 1), state=None):
    state = tx.init(HALF) if state is None else state
    return tx.update(HALF, state, domain_losses=jnp.asarray(losses, jnp.float32), domain_counts=jnp.array(counts))


def test_one_update_by_hand():
    """Uniform, excess (ln 2, ln 8), step 1: (2, 8) / 10; then a tenth of it is uniform."""
    mixture, state = one_update(mix_by_doremi(1.0, smoothing=0.1), np.log([2.0, 8.0]))
    np.testing.assert_allclose(mixture, [0.9 * 0.2 + 0.05, 0.9 * 0.8 + 0.05], rtol=1e-6)
    mixture, state = one_update(mix_by_doremi(1.0, smoothing=0.1), np.log([2.0, 8.0]), (1, 0), state)
    powers = np.array([0.23 * 2, 0.77 * 8])  # the second domain was not drawn and keeps its excess
    np.testing.assert_allclose(mixture, 0.9 * powers / powers.sum() + 0.05, rtol=1e-5)
    np.testing.assert_allclose(state.mean_mixture[0], np.mean([0.23, mixture[0]]), rtol=1e-6)


def test_a_step_of_zero_and_equal_models_keep_the_incoming_mixture():
    for tx, losses in ((mix_by_doremi(0.0, smoothing=0.0), [1.0, 5.0]), (mix_by_doremi(), [0.0, 0.0])):
        mixture, state = one_update(tx, losses)
        mixture, state = one_update(tx, losses, state=state)
        np.testing.assert_allclose(mixture, HALF, rtol=1e-6)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_the_fixed_point_of_two_domains_whose_excess_falls_with_their_weight(gain):
    """Excess c_k - gain x p_k: at the fixed point both are equal, so p_1 - p_2 = (c_1 - c_2) / gain."""
    tx, height = mix_by_doremi(0.2, smoothing=0.0), jnp.array([3.0, 2.8])

    def step(carry, _):
        mixture, state = carry
        losses = height - gain * mixture
        return tx.update(HALF, state, domain_losses=losses, domain_counts=jnp.array([1, 1])), None

    start = jnp.full(2, 0.5, jnp.float32), tx.init(HALF)
    mixture, _ = jax.jit(lambda: jax.lax.scan(step, start, length=400)[0])()
    np.testing.assert_allclose(mixture[0] - mixture[1], 0.2 / gain, rtol=1e-3)


def test_without_smoothing_a_domain_comes_back_from_a_weight_of_zero():
    tx = mix_by_doremi(1.0, smoothing=0.0)
    mixture, state = one_update(tx, [0.0, 500.0])
    assert mixture.tolist() == [0.0, 1.0]
    mixture, _ = one_update(tx, [500.0, 0.0], state=state)
    np.testing.assert_allclose(mixture, HALF, rtol=1e-4)


def test_tokens_are_clipped_before_they_are_averaged():
    losses, reference = jnp.array([[3.0, 1.0], [2.0, 2.0]]), jnp.array([[2.0, 3.0], [2.5, 1.0]])
    excess = excess_losses(losses, reference)
    np.testing.assert_array_equal(excess, [[1.0, 0.0], [0.0, 1.0]])
    means, _ = losses_by_domain(excess.mean(axis=1), jnp.array([1, 1]), 2)
    assert means.tolist() == [0.0, 0.5]  # the clipped mean of all tokens would be 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_excess_in_half_precision_is_computed_in_float32(dtype):
    losses = jnp.array([2048.0, 1.0], dtype)
    excess = excess_losses(losses, jnp.array([0.5, 0.25], dtype))
    assert excess.dtype == jnp.float32 and excess.tolist() == [2047.5, 0.75]


BAD = {
    "step": (lambda: mix_by_doremi(-1.0), ValueError, r"step_size is -1.0, wanted a number in \[0, inf\)"),
    "smoothing": (lambda: mix_by_doremi(smoothing=2.0), ValueError, r"smoothing is 2.0, wanted a number in \[0, 1\]"),
    "excess": (lambda: mix_by_doremi(initial_excess="1"), TypeError, "initial_excess is '1', wanted a number"),
    "shapes": (
        lambda: excess_losses(jnp.ones((2, 3)), jnp.ones(2)),
        ValueError,
        r"reference_losses has shape \[2\], wanted \[2, 3\]",
    ),
    "losses": (
        lambda: one_update(mix_by_doremi(), [1.0, 2.0, 3.0]),
        ValueError,
        r"domain_losses has shape \[3\], wanted \[2\]",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
