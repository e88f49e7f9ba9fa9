import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mask_rows, normalize, record, uniform_like, weight_transformation
from minibatch_jax.selection import keep_bottomk, keep_topk

LOSSES = jnp.array([0.3, 2.0, 1.0, 0.1])


def stateless(update):
    return weight_transformation(lambda weights: optax.EmptyState(), update)


def test_uniform_like_has_mass_one_and_is_float32_for_low_precision():
    weights = uniform_like(jnp.zeros(8, jnp.bfloat16))
    assert weights.dtype == jnp.float32
    np.testing.assert_array_equal(weights, 0.125)


@pytest.mark.parametrize("losses", [jnp.zeros(0), jnp.zeros((2, 2)), jnp.zeros(())])
def test_uniform_like_refuses_a_wrong_shape(losses):
    with pytest.raises(ValueError, match="losses has shape .* wanted"):
        uniform_like(losses)


def test_uniform_like_refuses_integers():
    with pytest.raises(TypeError, match="losses has dtype int32, wanted a floating"):
        uniform_like(jnp.zeros(3, jnp.int32))


def test_a_misspelt_signal_is_refused_at_construction():
    with pytest.raises(TypeError, match=r"unknown signal 'loses' \(did you mean 'losses'\?\)"):
        stateless(lambda weights, state, params=None, *, loses, **extra_args: (weights, state))


def test_an_optional_signal_is_refused_at_construction():
    with pytest.raises(TypeError, match="'losses' has a default"):
        stateless(lambda weights, state, params=None, *, losses=None, **extra_args: (weights, state))


def test_a_missing_extra_args_is_refused_at_construction():
    with pytest.raises(TypeError, match=r"no \*\*extra_args"):
        stateless(lambda weights, state, params=None, *, losses: (weights, state))


def test_a_declared_signal_of_ones_own_is_accepted():
    def update(weights, state, params=None, *, prices, **extra_args):
        return weights * prices, state

    tx = weight_transformation(lambda weights: optax.EmptyState(), update, extra_signals=["prices"])
    kept, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), prices=jnp.array([2.0, 3.0]))
    np.testing.assert_array_equal(kept, [2, 3])


READERS = {
    "losses": lambda weights, state, params=None, *, losses, **extra_args: (weights, state),
    "features": lambda weights, state, params=None, *, features, **extra_args: (weights, state),
    "logits": lambda weights, state, params=None, *, logits, **extra_args: (weights, state),
    "labels": lambda weights, state, params=None, *, labels, **extra_args: (weights, state),
    "concepts": lambda weights, state, params=None, *, concepts, **extra_args: (weights, state),
    "domains": lambda weights, state, params=None, *, domains, **extra_args: (weights, state),
    "example_ids": lambda weights, state, params=None, *, example_ids, **extra_args: (weights, state),
    "mask": lambda weights, state, params=None, *, mask, **extra_args: (weights, state),
    "cost": lambda weights, state, params=None, *, cost, **extra_args: (weights, state),
    "pair_losses": lambda weights, state, params=None, *, pair_losses, **extra_args: (weights, state),
    "distances": lambda weights, state, params=None, *, distances, **extra_args: (weights, state),
    "domain_losses": lambda weights, state, params=None, *, domain_losses, **extra_args: (weights, state),
}


def read(signal):
    """Run a transformation that reads one signal and looks at nothing, on weights `[4]` or `[4, 3]`."""
    (name,) = signal
    tx, weights = stateless(READERS[name]), jnp.ones((4, 3) if name == "distances" else 4)
    return tx.update(weights, tx.init(weights), **signal)


@pytest.mark.parametrize(
    "signal,error,message",
    [
        ({"losses": jnp.ones(3)}, ValueError, r"losses has shape \[3\], wanted \[4\]"),
        ({"losses": jnp.ones(())}, ValueError, r"losses has shape \[\], wanted \[4\]"),
        ({"losses": jnp.ones(4, int)}, TypeError, "losses has dtype int32, wanted a floating"),
        ({"features": jnp.ones((3, 2))}, ValueError, r"features has shape \[3, 2\], wanted \[4, 2\]"),
        ({"concepts": jnp.ones((4, 2))}, TypeError, "concepts has dtype float32, wanted an integer"),
        ({"domains": jnp.ones(5, int)}, ValueError, r"domains has shape \[5\], wanted \[4\]"),
        ({"example_ids": jnp.ones(4)}, TypeError, "example_ids has dtype float32, wanted an integer"),
        ({"mask": jnp.ones(4, int)}, TypeError, "mask has dtype int32, wanted bool"),
        ({"distances": jnp.ones((4, 4))}, ValueError, r"distances has shape \[4, 4\], wanted \[4, 3\]"),
        ({"domain_losses": jnp.ones(7, int)}, TypeError, "domain_losses has dtype int32, wanted a floating"),
    ],
)
def test_a_signal_of_another_form_is_named(signal, error, message):
    with pytest.raises(error, match=message):
        read(signal)


@pytest.mark.parametrize(
    "signal",
    [
        {"losses": jnp.ones(4, jnp.bfloat16)},
        {"losses": jnp.ones((4, 5))},
        {"logits": jnp.ones((4, 9))},
        {"labels": jnp.ones(4, jnp.uint8)},
        {"example_ids": np.ones(4, np.int64)},
        {"pair_losses": jnp.ones((4, 4))},
        {"cost": jnp.ones((4, 4))},
        {"cost": jnp.ones(4)},
        {"distances": np.ones((4, 3), np.float64)},
        {"domain_losses": jnp.ones(7)},
    ],
)
def test_a_signal_of_its_form_is_accepted(signal):
    read(signal)


def test_each_array_of_a_dict_of_weights_has_signals_of_its_own_number_of_rows():
    weights, tx = {"a": jnp.ones(4), "b": jnp.ones(2)}, stateless(READERS["losses"])
    tx.update(weights, tx.init(weights), losses={"a": jnp.ones(4), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"losses has shape \[4\], wanted \[2\]"):
        tx.update(weights, tx.init(weights), losses=jnp.ones(4))


def test_a_missing_signal_is_named_at_the_call():
    tx = keep_topk(2)
    with pytest.raises(TypeError, match=r"got the signals \['loss'\], wanted 'losses' .*\(you gave 'loss'\)"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), loss=LOSSES)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_in_half_precision_are_computed_with_in_float32(dtype):
    """4097 ones are 4096 in float16, and a state of half precision forgets small steps."""

    def update(weights, state, params=None, **extra_args):
        total = jnp.sum(weights)
        return weights * total, state + total

    tx = weight_transformation(lambda weights: jnp.zeros((), weights.dtype), update)
    weights = jnp.ones(4097, dtype)
    kept, state = tx.update(weights, tx.init(weights))
    assert kept.dtype == dtype and state.dtype == jnp.float32 and float(state) == 4097
    np.testing.assert_array_equal(kept.astype(jnp.float32), jnp.float32(4097).astype(dtype).astype(jnp.float32))
    large = jnp.full(4097, 100, dtype)  # 100 * 409,700 is beyond float16
    kept = tx.update(large, tx.init(large))[0].astype(jnp.float32)
    np.testing.assert_allclose(kept, min(100 * 409_700, float(jnp.finfo(dtype).max)), rtol=2**-8)


@pytest.mark.parametrize("change", [lambda w: w[:2], lambda w: w.astype(jnp.bfloat16), lambda w: w[:, None]])
def test_changed_weights_are_refused(change):
    tx = stateless(lambda weights, state, params=None, **extra_args: (change(weights), state))
    with pytest.raises(ValueError, match="update changed the weights to .* wanted"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)))


def test_a_changed_state_is_refused():
    tx = weight_transformation(
        lambda weights: (jnp.zeros(()),), lambda weights, state, params=None, **extra_args: (weights, (*state, 1.0))
    )
    with pytest.raises(ValueError, match="update changed the state"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)))


def test_zero_weights_stay_zero_and_nan_does_not_leave():
    tx = stateless(lambda weights, state, params=None, **extra_args: (weights + jnp.array([1.0, jnp.nan, 1.0]), state))
    kept, _ = tx.update(jnp.array([0.0, 1.0, 1.0]), tx.init(jnp.ones(3)))
    np.testing.assert_array_equal(kept, [0, 0, 2])


def test_chain_applies_filters_in_turn_and_forwards_signals():
    tx = optax.chain(mask_rows(), keep_topk(2), keep_bottomk(1), normalize())
    weights = uniform_like(LOSSES)
    mask = jnp.array([True, False, True, True])
    kept, _ = tx.update(weights, tx.init(weights), losses=LOSSES, mask=mask)
    np.testing.assert_array_equal(kept, [1, 0, 0, 0])


def test_a_dict_of_weights_is_mapped_with_its_own_signals():
    weights = {"a": jnp.ones(4), "b": jnp.ones(2)}
    tx = keep_topk(1)
    losses = {"a": LOSSES, "b": jnp.array([5.0, 1.0])}
    kept, _ = tx.update(weights, tx.init(weights), losses=losses)
    chex.assert_trees_all_equal(kept, {"a": jnp.array([0.0, 1.0, 0.0, 0.0]), "b": jnp.array([1.0, 0.0])})


def test_only_signals_are_split_over_a_dict_of_weights():
    weights = {"a": jnp.ones(4), "b": jnp.ones(2)}
    tx = keep_topk(1)
    losses = {"a": LOSSES, "b": jnp.array([5.0, 1.0])}
    tx.update(weights, tx.init(weights), losses=losses, other={"x": 1.0})
    with pytest.raises(ValueError, match=r"signal 'losses' has the keys \['a'\], wanted those of the weights"):
        tx.update(weights, tx.init(weights), losses={"a": LOSSES})


def test_weakly_typed_weights_and_statistics_are_accepted():
    weights = jnp.full(4, 1 / 4)
    tx = optax.chain(normalize(2.0), record({"any": lambda w: jnp.where(jnp.any(w > 1), 1.0, 0.0)}))
    state = tx.init(weights)
    kept, new_state = tx.update(weights, state)
    np.testing.assert_array_equal(kept, 0.5)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)


def test_weights_follow_x64_so_that_states_fit_them():
    with jax.enable_x64(True):
        tx = record({"mass": jnp.sum})
        losses = LOSSES.astype(jnp.float32)
        assert uniform_like(losses).dtype == jnp.float64
        tx.update(uniform_like(losses), tx.init(jnp.zeros(4)))


def test_optax_masked_selects_entries_of_a_dict():
    weights = {"a": jnp.ones(4), "b": jnp.ones(4)}
    tx = optax.masked(keep_topk(1), {"a": True, "b": False}, mask_compatible_extra_args=True)
    kept, _ = tx.update(weights, tx.init(weights), losses={"a": LOSSES, "b": LOSSES})
    assert float(kept["a"].sum()) == 1 and float(kept["b"].sum()) == 4


def test_inject_hyperparams_schedules_a_number_without_recompiling():
    tx = optax.inject_hyperparams(normalize)(total=optax.linear_schedule(1.0, 3.0, 2))
    step = jax.jit(chex.assert_max_traces(lambda w, s: tx.update(w, s), n=1))
    state = tx.init(jnp.ones(4))
    totals = []
    for _ in range(3):
        kept, state = step(jnp.ones(4), state)
        totals.append(float(kept.sum()))
    np.testing.assert_allclose(totals, [1, 2, 3], rtol=1e-6)
    chex.clear_trace_counter()


def test_conditionally_transform_is_a_warm_up():
    tx = optax.conditionally_transform(keep_topk(1), lambda step, **_: step >= 2, forward_extra_args=True)
    state, kept_counts = tx.init(jnp.ones(4)), []
    for _ in range(4):
        kept, state = tx.update(jnp.ones(4), state, losses=LOSSES)
        kept_counts.append(int((kept > 0).sum()))
    assert kept_counts == [4, 4, 1, 1]
