import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_hard_batches": Case(lambda: selection.keep_hard_batches(0.5), draws.losses),
}


def recorded_losses(num_batches, steps, seed=0):
    """Loss of batch p if it is visited at step t: distinct values, so that no order is a matter of ties."""
    return np.random.default_rng(seed).permutation(num_batches * steps).reshape(steps, num_batches) / 10 + 1


def replay(table, delta, exists):
    """The published loop: visit all, then rounds over the largest last-seen losses in data set order."""
    last, visited = {}, []
    todo = list(np.flatnonzero(exists))
    size = max(1, int(delta * len(todo)))
    for step in range(len(table)):
        if not todo:
            todo = sorted(sorted(last, key=last.get, reverse=True)[:size])
        batch = todo.pop(0)
        last[batch] = table[step, batch]
        visited.append(batch)
    return visited


def visits(tx, table, weights):
    def step(carry, t):
        state, losses = carry
        kept, state = tx.update(weights, state, losses=losses)
        batch = jnp.argmax(kept)
        measured = jnp.where(jnp.arange(weights.shape[0]) == batch, table[t], jnp.nan)
        return (state, measured), (batch, jnp.sum(kept != 0))

    start = tx.init(weights), jnp.full(weights.shape, jnp.nan)
    _, (batches, counts) = jax.lax.scan(step, start, jnp.arange(table.shape[0]))
    np.testing.assert_array_equal(counts, 1)
    return list(batches)


@pytest.mark.parametrize("num_batches", [1, 3, 10])
@pytest.mark.parametrize("delta", [0.05, 0.2, 0.5, 0.8, 1.0])
def test_visits_what_the_published_loop_visits(num_batches, delta):
    table = recorded_losses(num_batches, 60)
    actual = visits(selection.keep_hard_batches(delta), jnp.asarray(table, jnp.float32), jnp.ones(num_batches))
    assert actual == replay(table, delta, np.ones(num_batches, bool))


def test_padded_batches_do_not_count():
    exists = np.array([True, False, True, True, False, True, True, True])
    table = recorded_losses(8, 40, seed=1)
    actual = visits(selection.keep_hard_batches(0.5), jnp.asarray(table, jnp.float32), jnp.asarray(exists * 0.5))
    assert actual == replay(table, 0.5, exists)


def test_delta_one_visits_all_in_order():
    table = jnp.asarray(recorded_losses(5, 20), jnp.float32)
    assert visits(selection.keep_hard_batches(1.0), table, jnp.ones(5)) == [0, 1, 2, 3, 4] * 4


def test_full_rounds():
    table = jnp.tile(jnp.array([1.0, 9.0, 2.0, 3.0]), (20, 1))
    actual = visits(selection.keep_hard_batches(0.25, full_round_every=3), table, jnp.ones(4))
    assert actual == [0, 1, 2, 3, 1, 1] * 3 + [0, 1]


def test_a_batch_never_measured_is_left_out_and_none_measured_means_all():
    table = jnp.tile(jnp.array([1.0, jnp.nan, 2.0, 3.0]), (9, 1))
    actual = visits(selection.keep_hard_batches(1.0), table, jnp.ones(4))
    assert actual == [0, 1, 2, 3, 0, 2, 3, 0, 2]
    actual = visits(selection.keep_hard_batches(0.5), jnp.full((6, 3), jnp.nan), jnp.ones(3))
    assert actual == [0, 1, 2, 0, 1, 2]


def test_mask_is_the_largest_share():
    losses = np.random.default_rng(0).permutation(10).astype(np.float32)
    for delta in (0.01, 0.1, 0.3, 0.55, 1.0):
        kept = np.flatnonzero(selection.hard_batch_mask(jnp.asarray(losses), delta))
        assert set(losses[kept]) == set(np.sort(losses)[::-1][: max(1, int(delta * 10))])


def test_bad_input_is_named():
    for delta in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"fraction is .*\(0, 1\]"):
            selection.keep_hard_batches(delta)
    with pytest.raises(ValueError, match="full_round_every is -1"):
        selection.keep_hard_batches(0.5, full_round_every=-1)
    with pytest.raises(TypeError, match="last_losses has dtype int32"):
        selection.hard_batch_mask(jnp.arange(3), 0.5)
    with pytest.raises(ValueError, match="where has shape"):
        selection.hard_batch_mask(jnp.ones(3), 0.5, where=jnp.ones(2, bool))


def test_hyper_parameters_can_be_injected_under_jit():
    table = jnp.asarray(recorded_losses(8, 40, seed=2), jnp.float32)
    for options in ({"fraction": 0.5}, {"fraction": 0.25, "full_round_every": 3}):
        injected = optax.inject_hyperparams(selection.keep_hard_batches)(**options)
        assert visits(injected, table, jnp.ones(8)) == visits(
            selection.keep_hard_batches(**options), table, jnp.ones(8)
        )


def test_integer_losses_are_refused():
    tx = selection.keep_hard_batches()
    with pytest.raises(TypeError, match="losses has dtype int32"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.arange(3))


def test_the_spacing_of_full_rounds_is_named():
    with pytest.raises(ValueError, match="full_round_every is -1, wanted at least 0"):
        selection.keep_hard_batches(full_round_every=-1)
    with pytest.raises(TypeError, match=r"full_round_every is 0\.5, wanted an int"):
        selection.keep_hard_batches(full_round_every=0.5)
