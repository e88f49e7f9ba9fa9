import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import compose, mask_rows, normalize, record
from minibatch_jax.selection import keep_topk
from tests.case import ROWS, Case


def nothing(rng):
    del rng
    return {}


LOSSES = jnp.array([0.3, 2.0, 1.0, 0.1])

CASES = {
    "normalize": Case(compose.normalize, nothing, lowers_mass=False, tolerance=1e-6),
    "mask_rows": Case(compose.mask_rows, lambda rng: {"mask": np.asarray(rng.random(ROWS) < 0.5)}),
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


@pytest.mark.parametrize("total", [0, -1.0, float("nan")])
def test_normalize_refuses_a_non_positive_total(total):
    with pytest.raises(ValueError, match="total is .* wanted"):
        normalize(total)


@pytest.mark.parametrize("total", ["1", None, True])
def test_normalize_refuses_what_is_no_number(total):
    with pytest.raises(TypeError, match="total is .* wanted a number"):
        normalize(total)
