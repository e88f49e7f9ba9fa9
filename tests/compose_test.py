import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import among_rows, compose, mask_rows, normalize, record, weights_of
from minibatch_jax.selection import keep_by_jest, keep_random, keep_topk
from tests.case import ROWS, Case
from tests.selection import draws


def nothing(rng):
    del rng
    return {}


LOSSES = jnp.array([0.3, 2.0, 1.0, 0.1])

CASES = {
    "normalize": Case(compose.normalize, nothing, lowers_mass=False, tolerance=1e-6),
    "mask_rows": Case(compose.mask_rows, lambda rng: {"mask": np.asarray(rng.random(ROWS) < 0.5)}),
    "among_rows": Case(
        lambda: compose.among_rows(keep_by_jest(6, 3, key=0)),
        draws.pair_losses,
        lambda rng: rng.uniform(0.5, 1.5, (ROWS, ROWS)).astype(np.float32),
    ),
    "record": Case(lambda: compose.record({"mass": jnp.sum}), nothing, lowers_mass=False),
}


def test_record_holds_the_statistics_of_its_place_in_the_chain():
    tx = optax.chain(record({"before": jnp.sum}), keep_topk(1), record({"after": jnp.sum}))
    kept, state = tx.update(jnp.ones(4), tx.init(jnp.ones(4)), losses=LOSSES)
    assert float(state[0].values["before"]) == 4 and float(state[2].values["after"]) == 1 == float(kept.sum())


def test_normalize_keeps_all_zero_weights_and_mask_rows_reaches_pairs():
    tx = normalize()
    np.testing.assert_array_equal(tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)))[0], 0)
    tx = mask_rows()
    kept, _ = tx.update(jnp.ones((2, 3)), tx.init(jnp.ones((2, 3))), mask=jnp.array([True, False]))
    np.testing.assert_array_equal(kept, [[1, 1, 1], [0, 0, 0]])
    with pytest.raises(ValueError, match="mask has shape"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.ones((2, 3))), mask=jnp.ones(3, bool))
    with pytest.raises(TypeError, match="mask has dtype float32, wanted bool"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.ones((2, 3))), mask=jnp.ones(2))


def test_pairs_of_kept_examples_are_kept_and_an_example_in_no_pair_is_not_chosen():
    tx, weights = among_rows(keep_topk(2)), jnp.ones((4, 4)).at[1].set(0).at[0, 2].set(0)
    kept, _ = tx.update(weights, tx.init(weights), losses=LOSSES)  # example 1, of the largest loss, is no anchor
    np.testing.assert_array_equal(kept, [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"weights has shape \[2, 3\], wanted \[any size > 0, 2\]"):
        tx.init(jnp.ones((2, 3)))


@pytest.mark.parametrize("total", [0, -1.0, float("nan")])
def test_normalize_refuses_a_non_positive_total(total):
    with pytest.raises(ValueError, match="total is .* wanted"):
        normalize(total)


@pytest.mark.parametrize("total", ["1", None, True])
def test_normalize_refuses_what_is_no_number(total):
    with pytest.raises(TypeError, match="total is .* wanted a number"):
        normalize(total)


def test_weights_of_is_the_first_update_and_takes_what_optax_makes():
    tx, weights = optax.chain(keep_random(2, 3), normalize()), jnp.array([0.0, 1.0, 1.0, 1.0])
    found = jax.jit(lambda w: weights_of(tx, w))(weights)
    np.testing.assert_array_equal(found, tx.update(weights, tx.init(weights))[0])
    np.testing.assert_array_equal(found, weights_of(tx, weights))
    assert np.count_nonzero(found) == 2 and found[0] == 0
    np.testing.assert_array_equal(weights_of(optax.identity(), weights, losses=LOSSES), weights)
    both = weights_of(keep_topk(1), {"a": weights, "b": jnp.ones(4)}, losses={"a": LOSSES, "b": -LOSSES})
    assert [np.argmax(both[name]) for name in "ab"] == [1, 3]


def test_weights_of_refuses_a_factory_and_a_missing_signal():
    with pytest.raises(TypeError, match="transformation is keep_topk, wanted what a factory returns"):
        weights_of(keep_topk, jnp.ones(4), losses=LOSSES)
    with pytest.raises(TypeError, match="'losses'"):
        weights_of(keep_topk(1), jnp.ones(4))
