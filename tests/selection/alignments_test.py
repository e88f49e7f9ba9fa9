import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import scores, selection, weights_of
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_alignment": Case(lambda: selection.keep_by_alignment(5), draws.aligned),
    "reweigh_by_alignment": Case(selection.reweigh_by_alignment, draws.aligned, lowers_mass=False, tolerance=1e-6),
}


def test_new_weights_are_minus_the_gradient_of_the_trusted_loss_in_the_weights_clipped():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), jnp.asarray(rng.normal(size=8), jnp.float32)
    held_x, held_y = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.asarray(rng.normal(size=4), jnp.float32)
    params = jnp.asarray(rng.normal(size=3), jnp.float32)
    losses_fn = lambda w, batch: (batch[0] @ w - batch[1]) ** 2  # noqa: E731
    trusted = lambda w: jnp.mean(losses_fn(w, (held_x, held_y)))  # noqa: E731

    def after_a_step(weights):
        return trusted(params - jax.grad(lambda w: weights @ losses_fn(w, (x, y)))(params))

    found = jnp.maximum(-jax.grad(after_a_step)(jnp.zeros(8)), 0)
    aligned = scores.alignment(losses_fn, params, (x, y), jax.grad(trusted)(params))
    actual = weights_of(selection.reweigh_by_alignment(), jnp.full(8, 0.125), alignments=aligned)
    np.testing.assert_allclose(actual, found / found.sum(), rtol=1e-4, atol=1e-6)


def test_the_sum_of_the_weights_is_kept_and_padding_is_nothing():
    weights = jnp.array([0.5, 0.25, 0.0, 0.25])
    actual = weights_of(selection.reweigh_by_alignment(), weights, alignments=jnp.array([1.0, 6.0, 1e9, -1.0]))
    np.testing.assert_allclose(actual, [0.25, 0.75, 0, 0], rtol=1e-6)
    huge = weights_of(selection.reweigh_by_alignment(), weights, alignments=jnp.array([1e36, 3e36, 0.0, 3e36]))
    np.testing.assert_allclose(huge, np.array([2, 3, 0, 3]) / 8, rtol=1e-5)


def test_where_nothing_points_along_the_direction_nothing_counts():
    for alignments in ([-1.0, -2.0], [jnp.nan, -jnp.inf]):
        np.testing.assert_array_equal(
            weights_of(selection.reweigh_by_alignment(), jnp.ones(2), alignments=jnp.array(alignments)), [0, 0]
        )


def test_the_furthest_along_are_kept():
    found = weights_of(
        selection.keep_by_alignment(2), jnp.array([1.0, 1, 1, 0]), alignments=jnp.array([-2.0, jnp.inf, -1.0, 9.0])
    )
    np.testing.assert_array_equal(found, [1, 0, 1, 0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="k is 0"):
        selection.keep_by_alignment(0)
    with pytest.raises(ValueError, match="k is 4, wanted at most 2"):
        weights_of(selection.keep_by_alignment(4), jnp.ones(2), alignments=jnp.ones(2))
    for tx in (selection.keep_by_alignment(1), selection.reweigh_by_alignment()):
        with pytest.raises(ValueError, match=r"alignments has shape \[2, 1\], wanted \[2\]"):
            weights_of(tx, jnp.ones(2), alignments=jnp.ones((2, 1)))
    with pytest.raises(TypeError, match="alignments"):
        weights_of(selection.reweigh_by_alignment(), jnp.ones(2), alignments=jnp.arange(2))
